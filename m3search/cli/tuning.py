"""`m3search tune`: the weights of the modes, chosen on judged sets from an evaluation's scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m3search.cli.options import (
    DataOption,
    JsonOption,
    LanguagesOption,
    SetsArgument,
    SettingsOption,
    split_names,
)
from m3search.cli.output import print_json, print_note, print_table, progress_bar

if TYPE_CHECKING:
    from m3search.evaluation.tuning import JudgedScores, Tuned
    from m3search.index import Index

ROUNDING = 1e-9
"""a loss below this is none"""


def tune_weights(
    paths: SetsArgument,
    from_scores: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="The folder of their report, whose component scores are weighed.",
            show_default=False,
        ),
    ],
    data: DataOption = None,
    languages: LanguagesOption = None,
    measure: Annotated[str, typer.Option(metavar="NAME", help="What is to be best.")] = "nDCG@10",
    row: Annotated[
        str, typer.Option(metavar="NAME", help="The modes to weigh, as all or dense+sparse.")
    ] = "all",
    depths: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="Candidates of dense and sparse to choose from beside those of before, as "
            "50,100,200.",
        ),
    ] = None,
    folds: Annotated[
        int,
        typer.Option(metavar="N", help="Parts of the queries; each is told by what others choose."),
    ] = 5,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="An index whose searches use the weights from now on by default."
        ),
    ] = None,
    settings: SettingsOption = None,
    json: JsonOption = False,
) -> None:
    """Choose the weights of the modes on judged sets. Nothing is searched again.

    With --depths it chooses how deep first stages go, too.

    "unseen" is what queries get by weights that they had no say in. Where it is below "before", a
    note says to keep the weights of before.
    """
    from m3search.evaluation import load_sets
    from m3search.evaluation.report import scores_of
    from m3search.evaluation.tuning import judged_scores, points_of, tune
    from m3search.index import Index
    from m3search.records import MODES

    scores = scores_of(from_scores)
    index = None if into is None else Index.open(into)  # told now where it is none
    sets = load_sets(
        paths,
        data=data,
        settings=settings or (),
        languages=split_names(languages) if languages is not None else None,
        report=print_note,
    )
    deep = _parse_depths(depths)
    judged = [judged_scores(each, scores, row, measure, deep) for each in sets]
    if index is not None:
        _check_fit(index, judged, row)
    points = len(points_of(judged[0].before, deep))
    with progress_bar("weights", points) as progress:
        tuned = tune(judged, measure, depths=deep, folds=folds, progress=progress)
    weights = {mode: tuned.weights.get(mode, 0.0) for mode in MODES}
    if index is not None:
        replaced = index.manifest.fusion_weights
        index.set_weights(weights)
    if json:
        print_json({"measure": measure, **tuned.to_json()})
    else:
        _print_values(tuned, measure)
        shown = ",".join(f"{weight:g}" for weight in weights.values())
        print_note(f"with these weights: --weights {shown}")
        if tuned.depth is not None:
            print_note(
                f"and this depth: --set row_settings.{row}.depth={tuned.depth} of m3search eval, "
                f"--depth {tuned.depth} of m3search query"
            )
    if tuned.gain < -ROUNDING:
        print_note(
            "warning: queries that had no say in their weights lose "
            f"{-100 * tuned.gain:.2g} points by tuning: keep the weights"
            f"{' and the depth' if tuned.depth else ''} of before"
        )
    if index is not None:
        was = ",".join(f"{weight:g}" for weight in replaced)
        print_note(f"before, searches of {into} used {was}")
        print_note(f"searches of {into} use these weights by default")


def _parse_depths(given: str | None) -> list[int]:
    """'50,200' as numbers; none where nothing is given."""
    names = [] if given is None else split_names(given)
    if not all(name.isdecimal() and int(name) for name in names) or (given and not names):
        raise typer.BadParameter(
            f"expected whole numbers from 1 up, as 50,100,200, found {given!r}",
            param_hint="--depths",
        )
    return [int(name) for name in names]


def _check_fit(index: Index, judged: Sequence[JudgedScores], row: str) -> None:
    """ConfigError unless the row weighs all modes, and all scores are of the model that made the
    index, used as there: those of others have other scales."""
    from m3search.errors import ConfigError
    from m3search.evaluation.lexical import model_fingerprint
    from m3search.records import MODES

    if judged[0].before.modes != MODES:
        raise ConfigError(
            "--into",
            expected="a row of all modes, as the weights of an index are of all",
            found=f"the row {row}",
            remedy="Leave --row out, or --into.",
        )
    held = index.manifest.model
    for each in judged:
        scored = each.scores.origin.model
        same = all(scored[name] == getattr(held, name) for name in ("pooling", "mcls"))
        if not same or model_fingerprint(scored) != model_fingerprint(vars(held)):
            raise ConfigError(
                str(index.path),
                expected=f"an index of the model that the scores of {each.name} are of, "
                f"{scored['name']} ({model_fingerprint(scored)[:12]}, {scored['pooling']} pooling)",
                found=f"one of {held.name} ({held.fingerprint[:12]}, {held.pooling} pooling)",
                remedy="Tune on scores of the index's own model.",
            )
        if bool(scored.get("idf")) != held.idf:
            with_or_not = ("without", "with")
            raise ConfigError(
                str(index.path),
                expected=f"an index {with_or_not[not held.idf]} the rarity of terms in its lexical "
                f"scores, as those of {each.name} are",
                found=f"one {with_or_not[held.idf]} it",
                remedy="Tune on scores of an evaluation with lexical_weights=float.",
            )


def _print_values(tuned: Tuned, measure: str) -> None:
    """Sets x values in percent, the mean last.

    before and after the tuning, and of queries that had no say in it.
    """
    from m3search.evaluation.measures import shown

    columns = [tuned.before, tuned.after, tuned.unseen]
    lines = [[name, *(shown(each[name], measure) for each in columns)] for name in tuned.before]
    if len(lines) > 1:
        means = [sum(column.values()) / len(column) for column in columns]
        lines.append(["mean", *(shown(mean, measure) for mean in means)])
    print_table([measure, "before", "after", "unseen"], lines)
