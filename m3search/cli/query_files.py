"""A file of queries in, a TREC run out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from m3search.cli.output import print_note, progress_bar
from m3search.timings import stage

if TYPE_CHECKING:
    from m3search.records import Encoded, Query, Run
    from m3search.search import Searcher


def write_answers(
    searcher: Searcher, queries: Path, run: Path, settings: dict[str, Any], *, one_by_one: bool
) -> None:
    """Searches for every query of the file, and writes the run."""
    from m3search.corpus import read_queries, write_run
    from m3search.corpus.trec import check_word, run_lines

    found = list(read_queries(queries))
    for query in found:
        check_word(run, "a query id", query.id)  # before all of them are searched for nothing
    run.parent.mkdir(parents=True, exist_ok=True)
    ranked = (_search_each if one_by_one else _search_all)(searcher, found, settings)
    if str(run) == "-":
        for query_id, scored in ranked.items():
            typer.echo("".join(run_lines(run, query_id, scored)), nl=False)
    else:
        write_run(run, ranked)
    place = "standard output" if str(run) == "-" else run
    print_note(f"{len(ranked)} queries, {sum(map(len, ranked.values()))} hits in {place}")


def _search_all(searcher: Searcher, queries: list[Query], settings: dict[str, Any]) -> Run:
    with progress_bar("queries", len(queries), what="encoding") as step:
        encoded = searcher.encode(queries, progress=step)
    note_cut(encoded.encoded)
    with progress_bar("queries", len(queries), what="searching") as step:
        return searcher.run(encoded, progress=step, **settings)


def _search_each(searcher: Searcher, queries: list[Query], settings: dict[str, Any]) -> Run:
    """As all together, one after the other: what each costs can be told."""
    ranked: Run = {}
    with progress_bar("queries", len(queries), what="searching") as step:
        for query in queries:
            with stage("search"):
                encoded = searcher.encode([query])
                ranked |= searcher.run(encoded, **settings)
            note_cut(encoded.encoded)
            step(1)
    return ranked


def note_cut(encoded: Encoded) -> None:
    """Says how many queries were longer than the model reads."""
    cut = int(encoded.truncated.sum())
    if cut:
        what = "the query was" if len(encoded) == 1 else f"{cut} queries were"
        print_note(f"{what} longer than the model reads, and cut")
