"""`m3search compare`: two rows of reports, or two runs, side by side."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m3search.cli.options import DataOption, JsonOption
from m3search.cli.output import print_json, print_note, print_table

if TYPE_CHECKING:
    from m3search.evaluation.comparing import SetComparison, Side

WIDTH = 90
"""characters of a text that are shown"""


def compare_reports(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="The folder of a report, as FOLDER:ROW for another row than all; or a TREC run.",
            show_default=False,
        ),
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", help="The same; compared with A.", show_default=False)
    ],
    measure: Annotated[str, typer.Option(metavar="NAME", help="What is compared.")] = "nDCG@10",
    most: Annotated[
        int, typer.Option("-n", min=0, metavar="N", help="Queries of each set to show, 0 for none.")
    ] = 5,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--set",
            metavar="FOLDER",
            help="The folder of the set that two runs are on, in any layout.",
            show_default=False,
        ),
    ] = None,
    data: DataOption = None,
    split: Annotated[
        str, typer.Option(metavar="NAME", help="Of the judgements of --set.")
    ] = "test",
    json: JsonOption = False,
) -> None:
    """Compare two reports, or two runs.

    For each set: by how much they differ, how surely, and on which queries the most.
    """
    from m3search.evaluation.comparing import compare

    one, other = (_read_side(name, measure, folder, split) for name in (first, second))
    found = compare(one, other, most)
    compared = {each.name for each in found}
    for side in (one, other):
        if lone := [name for name in side.values if name not in compared]:
            print_note(f"not compared, as {side.name} alone has them: {', '.join(lone)}")
    if json:
        sets = {each.name: each.to_json() for each in found}
        print_json({"measure": measure, "first": one.name, "second": other.name, "sets": sets})
        return
    _print_means(found, measure)
    for each in found:
        places = [folder] if folder is not None else _places(data, each.name)
        _print_changes(each, measure, *_read_texts(places, one.splits[each.name], each))


def _read_side(name: str, measure: str, folder: Path | None, split: str) -> Side:
    from m3search.corpus import read_answers, read_corpus, read_qrels, read_run
    from m3search.evaluation import EvaluationSet
    from m3search.evaluation.collection import (
        check_run,
        check_set,
        fingerprint_of_judgements,
        load_collection,
    )
    from m3search.evaluation.comparing import read_report_side, read_run_side

    path = Path(name)
    if path.is_file():
        if folder is None:
            raise typer.BadParameter("two runs need the set that they are on", param_hint="--set")
        wanted = EvaluationSet(folder, "runs", split=split, measures=(measure,))
        files = check_set(wanted)
        run, set_name = read_run(path), folder.resolve().name
        answers = read_answers(files.judgements) if files.has_answers else {}
        qrels = (
            load_collection(wanted).judge([run])
            if files.has_answers
            else read_qrels(files.judgements)
        )
        check_run(path, run, set_name, qrels, lambda: read_corpus(files.corpus))
        judgements = fingerprint_of_judgements(answers or qrels)
        return read_run_side(path, run, set_name, qrels, judgements, split, measure)
    place, colon, row = name.rpartition(":")
    if colon and not path.exists():
        return read_report_side(Path(place), row, measure)
    return read_report_side(path, "all", measure)


def _places(data: Path | None, name: str) -> list[Path]:
    """Where a set may lie in the folder of sets; those that were had by name lie in a folder of
    their kind: miracl-yo in miracl/yo, ir-a-b in ir/a+b."""
    if data is None:
        return []
    kind, _, rest = name.partition("-")
    inside = sorted((data / kind).glob("*")) if rest else []
    return [data / name, *(each for each in inside if each.name.replace("+", "-") == rest)]


def _read_texts(
    places: list[Path], split: str, shown: SetComparison
) -> tuple[dict[str, str], dict[str, str]]:
    """The words of the queries and of the hits that are shown, where the set is at hand."""
    from m3search.corpus import document_text, read_corpus, read_queries
    from m3search.evaluation.layouts import find_texts

    if not places or not shown.changes:
        return {}, {}
    paths = next(filter(None, (find_texts(place, split) for place in places)), None)
    if paths is None:
        print_note(f"{shown.name}: no words are shown, as {places[0]} has no set")
        return {}, {}
    asked = {change.query for change in shown.changes}
    found = {hit for each in shown.changes for hit in (*each.first_hits, *each.second_hits)}
    queries = {each.id: _line(each.text) for each in read_queries(paths[0]) if each.id in asked}
    documents = {
        each.id: _line(document_text(each)) for each in read_corpus(paths[1]) if each.id in found
    }
    return queries, documents


def _line(text: str) -> str:
    from m3search.snippet import printable

    line = printable(text[: 4 * WIDTH])
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def _print_means(found: Collection[SetComparison], measure: str) -> None:
    from m3search.evaluation.measures import is_count, shown, shown_difference

    named = f"{measure} of a query" if is_count(measure) else measure
    header = [named, "A", "B", "B - A", "95 %", "p", "Holm", "better", "worse", "queries"]
    lines = [
        [
            each.name,
            shown(each.first, measure),
            shown(each.second, measure),
            shown_difference(each.difference, measure),
            " to ".join(
                shown_difference(end, measure) for end in (each.interval.low, each.interval.high)
            ),
            f"{each.p:.4f}",
            f"{each.holm:.4f}",
            str(each.better),
            str(each.worse),
            str(each.queries),
        ]
        for each in found
    ]
    if len(found) > 1:
        first = sum(each.first for each in found) / len(found)
        second = sum(each.second for each in found) / len(found)
        values = shown(first, measure), shown(second, measure)
        mean = ["mean", *values, shown_difference(second - first, measure)]
        lines.append(mean + [""] * (len(header) - len(mean)))
    print_table(header, lines)


def _print_changes(
    compared: SetComparison, measure: str, queries: dict[str, str], documents: dict[str, str]
) -> None:
    from m3search.evaluation.measures import shown

    if compared.differing:
        typer.echo(f"{compared.name}: the two differ in their {' and '.join(compared.differing)}")
    for side, count in zip("AB", compared.absent, strict=True):
        if count:
            lacking = f"{count} of the {compared.queries} queries"
            typer.echo(f"{compared.name}: {side} has nothing for {lacking}; an absent one counts 0")
    for change in compared.changes:
        typer.echo()
        values = f"{shown(change.first, measure)} -> {shown(change.second, measure)}"
        typer.secho(f"{compared.name} {change.query}  {values}", bold=True)
        if change.query in queries:
            typer.echo(f"  {queries[change.query]}")
        for name, hits in (("A", change.first_hits), ("B", change.second_hits)):
            for hit in hits:
                typer.echo(f"  {name}  {hit}  {documents.get(hit, '')}".rstrip())
            if not hits and (change.first_hits or change.second_hits):
                typer.echo(f"  {name}  found nothing")
