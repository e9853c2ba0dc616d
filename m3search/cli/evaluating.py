"""`m3search eval`: the quality of each mode on judged sets, with BM25 beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from m3search.cli.options import (
    BackendOption,
    DataOption,
    JsonOption,
    LanguagesOption,
    MaxLengthOption,
    ModelOption,
    SetsArgument,
    SettingsOption,
    WeightsOption,
    parse_weights,
    split_names,
)
from m3search.cli.output import print_json, print_note, print_table, progress_bar
from m3search.errors import ConfigError

if TYPE_CHECKING:
    from m3search.encoder import Encoder
    from m3search.evaluation import EvaluationSet, Experiment
    from m3search.evaluation.cache import Cache
    from m3search.evaluation.engine import Progress
    from m3search.model.backend import Backend

REPORTS = Path("eval/reports")


def evaluate_runs(
    paths: SetsArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the report goes: tables, values per query, TREC runs; by default "
            f"{REPORTS}/NAME-OF-THE-FIRST-PATH.",
        ),
    ] = None,
    model: ModelOption = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="cls or mean: of a plain encoder's dense vectors, where its folder does not say.",
        ),
    ] = None,
    data: DataOption = None,
    languages: LanguagesOption = None,
    measures: Annotated[
        str | None, typer.Option(metavar="NAMES", help="As nDCG@10,R@100,RR@10.")
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="As dense,sparse,multi,dense+sparse,all,bm25,bm25-lucene."
        ),
    ] = None,
    weights: WeightsOption = None,
    depth: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Candidates that dense and sparse give each, at least 100; else 200."
        ),
    ] = None,
    max_length: MaxLengthOption = None,
    backend: BackendOption = "torch",
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where indexes, encoded queries and what they found are kept for the next "
            "evaluation; by default in the user's cache, which takes 10 GB at most.",
        ),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Encode and search all anew, and keep nothing.")
    ] = False,
    from_scores: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder of a report: its component scores in place of a search, for other "
            "weights, rows or measures.",
        ),
    ] = None,
    settings: SettingsOption = None,
    json: JsonOption = False,
) -> None:
    """Measure each mode on judged sets. BM25 stands beside them."""
    from m3search.evaluation import ReportFolder, evaluate_sets, load_sets
    from m3search.evaluation.results import rows_that_found_nothing
    from m3search.model.backend import check_backend

    check_backend(backend)
    changes = {
        "measures": tuple(split_names(measures)) if measures is not None else None,
        "rows": tuple(split_names(rows)) if rows is not None else None,
        "weights": parse_weights(weights),
        "depth": depth,
        "max_length": max_length,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    found = load_sets(
        paths,
        data=data,
        settings=settings or (),
        languages=split_names(languages) if languages is not None else None,
        report=print_note,
    )
    sets = [_changed(each, given) for each in found]
    place = out or REPORTS / _report_name(paths[0])
    asked = None if backend == "torch" else backend
    given_too = {"--model": model, "--pooling": pooling, "--backend": asked}
    scores = None if from_scores is None else _find_scores(from_scores, place, given_too)
    kept = _cache(cache, no_cache)
    provenance = {"sets": ", ".join(map(str, paths))}
    changed = [*(settings or ()), *(f"{name} {value}" for name, value in given.items())]
    if from_scores is not None:
        changed.append(f"from the scores in {from_scores}")
    if pooling is not None:
        changed.append(f"pooling {pooling}")
    if asked is not None:
        changed.append(f"backend {asked}")
    if changed:
        provenance["changed"] = ", ".join(changed)
    with ReportFolder(place) as report:
        with _progress_bars() as progress:
            experiment = evaluate_sets(
                sets,
                lambda length: _load_encoder(model, length, pooling, backend, sets),
                cache=kept,
                scores=scores,
                keep=report.add,
                progress=progress,
                provenance=provenance,
                latencies=True,
            )
        written = report.finish(experiment)
    if json:
        print_json(experiment.to_json())
    else:
        _print_tables(experiment)
    _note_reuse(experiment, kept)
    if empty := rows_that_found_nothing(experiment.sets):
        print_note(f"nothing found for any query: {', '.join(empty)}")
    for note in report.notes:
        print_note(note)
    print_note(f"report in {written}")


def _cache(folder: Path | None, off: bool) -> Cache | None:
    """That of the folder given, which keeps all, else the user's; None for none."""
    from m3search.evaluation.cache import Cache, default_cache

    if off and folder is not None:
        raise typer.BadParameter("only one of them goes", param_hint="--cache and --no-cache")
    if folder is not None:
        return Cache(folder, report=print_note)
    return None if off else default_cache(print_note)


def _report_name(path: Path) -> str:
    """What a report is called by the first path, or by the name of a data set."""
    return path.resolve().stem if path.exists() else re.sub(r"[^\w.-]+", "-", str(path))


def _find_scores(given: Path, out: Path, others: Mapping[str, object]) -> Path:
    """The component scores of a report.

    ConfigError where that is none, where the new report would take its place, or where an option of
    a search is given that is not made.
    """
    from m3search.evaluation.report import scores_of

    scores = scores_of(given)
    if out.resolve() == given.resolve():
        raise ConfigError(
            "--out",
            expected=f"a folder other than {given}, whose scores are read",
            found="the same",
            remedy="Give the new report a folder of its own.",
        )
    for name, value in others.items():
        if value is not None:
            raise ConfigError(
                name,
                expected="nothing beside --from-scores, which searches nothing",
                found=str(value),
                remedy="Leave one of the two out.",
            )
    return scores


def _load_encoder(
    model: str | None,
    max_length: int | None,
    pooling: str | None,
    backend: str,
    sets: Sequence[EvaluationSet],
) -> Encoder:
    """The encoder, with the modes of all rows of all sets at least."""
    from m3search.encoder import Encoder
    from m3search.evaluation.suite import modes_of

    asked = {mode for each in sets for row in each.rows for mode in modes_of(row) or ()}
    return Encoder.load(
        model,
        max_length=max_length,
        modes=sorted(asked),
        pooling=pooling,
        backend=cast("Backend", backend),
    )


def _changed(wanted: EvaluationSet, given: dict[str, Any]) -> EvaluationSet:
    """The set with what was asked on the command line in place of what its suite says."""
    weights = given.get("weights")
    if weights is not None and len(weights) != 3:
        raise ConfigError(
            "--weights",
            expected="three numbers: dense, sparse, multi",
            found=",".join(map(str, weights)),
            remedy="For example 1,0.3,1.",
        )
    if weights is not None:
        given = given | {"row_weights": {}}  # those given hold for every row
    if "depth" in given:
        rows = {row: replace(own, depth=None) for row, own in wanted.row_settings.items()}
        given = given | {"row_settings": rows}
    if "rows" in given:  # names of other rows change nothing; what is fused of others goes
        rows, files = given["rows"], {*wanted.run_files}
        made = {
            name: each
            for name, each in wanted.fused.items()
            if name in rows or {*each.rows} <= files.union(rows)
        }
        own = tuple(row for row in rows if row not in files.union(wanted.fused))
        given = {"fused": made, **given, "rows": own}
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        try:
            wanted = replace(wanted, **{name: value})
        except ConfigError as error:
            where = option if error.where == name else f"{option}, {error.where}"
            raise ConfigError(
                where, expected=error.expected, found=error.found, remedy=error.remedy
            ) from error
        except ValueError as error:
            raise ConfigError(
                option,
                expected="a setting in range",
                found=str(error),
                remedy="Change the value.",
            ) from error
    return wanted


@contextmanager
def _progress_bars() -> Iterator[Progress]:
    """A bar for each stage, one after the other."""
    latest = ""
    step: Callable[[int], None] | None = None
    with ExitStack() as bars:

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal latest, step
            if step is None or stage != latest:
                latest = stage
                bars.close()
                step = bars.enter_context(progress_bar("texts", total, what=stage))
            step(done)

        yield progress


def _note_reuse(experiment: Experiment, cache: Cache | None) -> None:
    """Says what was taken from the cache, if anything, and how to do without."""
    from m3search.evaluation.results import describe_reuse

    reused = describe_reuse(experiment.sets)
    if cache is not None and reused:
        print_note(f"from the cache in {cache.folder}: {reused}; --no-cache makes all anew")


def _print_tables(experiment: Experiment) -> None:
    """One table of sets x rows for each measure, in percent."""
    from m3search.evaluation.tables import percentages

    for number, measure in enumerate(experiment.measures):
        if number:
            typer.echo()
        (_, *rows), *lines = percentages(experiment, measure)
        print_table([measure, *rows], lines)
