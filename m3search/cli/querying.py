"""`m3search query`: one text, a prompt, a line at a time, or a file of queries."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3search.cli.options import (
    DEFAULT_INDEX,
    DepthOption,
    IndexOption,
    JsonOption,
    WeightsOption,
    parse_weights,
    split_names,
)
from m3search.cli.output import print_error, print_hit, print_json, print_note
from m3search.cli.query_files import note_cut, write_answers
from m3search.errors import ConfigError, M3Error
from m3search.timings import Timings

if TYPE_CHECKING:
    from m3search.index import Index
    from m3search.search import Searcher
    from m3search.stores.filter import Filter

PROMPT = "m3search> "
QUIT = (":q", ":quit")


@dataclass(frozen=True)
class Answering:
    """How each query is searched and shown."""

    searcher: Searcher
    settings: dict[str, Any]
    """keyword arguments of `Searcher.search`"""
    json: bool
    explain: bool


def query_index(
    text: Annotated[
        str | None,
        typer.Argument(
            help="What to search for. Without it a prompt opens, or one query a line is read "
            "from a pipe.",
            show_default=False,
        ),
    ] = None,
    index: IndexOption = DEFAULT_INDEX,
    k: Annotated[
        int | None,
        typer.Option("-k", metavar="N", help="Hits per query: 10, or 100 with --queries."),
    ] = None,
    modes: Annotated[
        str, typer.Option(metavar="MODES", help="Any of dense, sparse, multi, with commas.")
    ] = "dense,sparse,multi",
    weights: WeightsOption = None,
    depth: DepthOption = 200,
    conditions: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="CONDITION",
            help="On metadata: 'lang=de,year>=2000' (also != < in). Given twice, both must hold.",
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Look at every document in dense and multi, also where there are so many that an "
            "index has shortcuts.",
        ),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the terms and tokens behind each hit.")
    ] = False,
    json: JsonOption = False,
    queries: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Run all queries of a file, JSON lines or id<TAB>text."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where --queries writes its TREC run; - is stdout."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where the index's model is now, if it has moved."),
    ] = None,
    timings: Annotated[
        bool,
        typer.Option(
            "--timings", help="Say on stderr how long each stage took; --queries goes one by one."
        ),
    ] = False,
) -> None:
    """Search an index. Each hit comes with its score and the scores of the three modes."""
    settings: dict[str, Any] = {
        "k": (100 if queries else 10) if k is None else k,
        "modes": split_names(modes),
        "weights": parse_weights(weights),
        "depth": depth,
        "filter": ",".join(conditions) if conditions else None,
    }
    _check_usage(text, queries, run, json, explain)
    searcher = _open_searcher(index, settings, model, exact)
    measured = Timings() if timings else None
    with measured or nullcontext():
        if timings and len(searcher.index):
            _ = searcher.encoder  # so that its loading is no part of the first search
        if queries is not None and run is not None:
            write_answers(searcher, queries, run, settings, one_by_one=timings)
        else:
            _answer_all(Answering(searcher, settings, json, explain), text)
    if measured is not None:
        _print_timings(measured)


def _answer_all(answering: Answering, text: str | None) -> None:
    """The one text; without one what is typed, or what comes through a pipe."""
    if text is not None:
        _answer(answering, text)
    elif sys.stdin.isatty():
        _open_prompt(answering)
    else:
        _answer_lines(answering)


def _print_timings(timings: Timings) -> None:
    """A line a stage; stages that ran several times with their spread."""
    for name, found in timings.milliseconds().items():
        times = len(timings.seconds[name])
        spread = f"  p95 {found['p95']:.2f}  p99 {found['p99']:.2f}  of {times}"
        print_note(f"{name:<16}  {found['p50']:>8.2f} ms" + (spread if times > 1 else ""))


def _check_usage(
    text: str | None, queries: Path | None, run: Path | None, json: bool, explain: bool
) -> None:
    if (queries is None) != (run is None):
        raise typer.BadParameter("each needs the other", param_hint="--queries and --run")
    if queries is None:
        return
    clashes = {"TEXT": text is not None, "--json": json, "--explain": explain}
    for name, given in clashes.items():
        if given:
            raise typer.BadParameter(f"does not go with {name}", param_hint="--queries")


def _open_searcher(
    index: Path, settings: dict[str, Any], model: str | None, exact: bool
) -> Searcher:
    """A searcher on the index, once the settings are known to be good."""
    from m3search.plan import Plan

    Plan.check(
        settings["k"], settings["depth"], settings["modes"], settings["weights"], "exact", "union"
    )
    from m3search.index import Index
    from m3search.origin import load_encoder
    from m3search.search import Searcher
    from m3search.stores.filter import Filter

    if settings["filter"] is not None:
        settings["filter"] = Filter.parse(settings["filter"])
    opened = Index.open(index, exact=exact)
    if not opened.manifest.complete:
        print_note(f"the build of {index} is not finished: {len(opened)} documents so far")
    if model is None:
        return Searcher(opened)
    return Searcher(opened, load_encoder(opened.manifest.model, model))


def _answer(answering: Answering, text: str, *, named: bool = False) -> int:
    """Prints the hits of one query and returns how many; `named` adds the query itself."""
    _check_text(text)
    searcher = answering.searcher
    hits = searcher.search(text, **answering.settings)
    if len(searcher.index):
        note_cut(searcher.encode_query(text))
    if hits and not searcher.encoder.knows(text):
        what = "no word of the query is known to the model" if text.strip() else "a blank query"
        print_note(f"{what}: the order of the hits says little")
    for hit in hits:
        condition = answering.settings["filter"]
        explanation = searcher.explain(text, hit, condition) if answering.explain else None
        if answering.json:
            line: dict[str, Any] = {"query": text} if named else {}
            line |= hit.to_json()
            if explanation is not None:
                line["explain"] = explanation.to_json()
            print_json(line)
        else:
            print_hit(hit, searcher.snippet(text, hit, filter=condition), explanation)
    if not hits:
        print_note("no hits")
        _note_unknown_fields(searcher.index, answering.settings["filter"])
    return len(hits)


def _note_unknown_fields(index: Index, wanted: Filter | None) -> None:
    """Says which fields of the filter no document has, as a misspelled one."""
    from m3search.stores.filter import COLUMNS, Condition, Filter

    fields = dict.fromkeys(condition.field for condition in wanted.conditions) if wanted else {}
    for field in (name for name in fields if name not in COLUMNS):
        held = index.select(Filter((Condition(field, ">=", ("",)),)))  # true for any value
        if held is not None and not held.any():
            print_note(f"no document has the field {field!r}")


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(
            "query",
            expected="UTF-8",
            found=repr(text),
            remedy="Check the encoding of the terminal or of the input.",
        ) from error


def _answer_lines(answering: Answering) -> None:
    """One query a line from a pipe; a bad one is reported, the others are answered."""
    failed = None
    for line in _lines():
        if not answering.json:
            typer.secho(f"> {line}", bold=True)
        try:
            _answer(answering, line, named=True)
        except M3Error as error:
            print_error(error)
            failed = error
        sys.stdout.flush()
    if failed is not None:
        raise typer.Exit(1)


def _lines() -> Iterator[str]:
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    for line in sys.stdin:
        if line.strip():
            yield line.strip()


def _open_prompt(answering: Answering) -> None:
    """Answers what is typed until :q or Ctrl-D; the model stays loaded, errors are shown."""
    with suppress(ImportError):
        import readline  # noqa: F401  gives input() history and line editing
    index = answering.searcher.index
    print_note(f"{len(index)} documents, model {index.manifest.model.name}; :q quits")
    while True:
        try:
            text = input(PROMPT if sys.stdout.isatty() else "").strip()
        except EOFError:
            print_note("")
            return
        except KeyboardInterrupt:
            print_note("")
            raise
        if text in QUIT:
            return
        if not text:
            continue
        try:
            _answer(answering, text)
        except M3Error as error:
            print_error(error)
