"""`m3search delete` and `compact`: what changes an index without a model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from m3search.cli.options import DEFAULT_INDEX, IndexOption, JsonOption
from m3search.cli.output import print_json, print_note, progress_bar, readable_bytes

LISTED = 20
"""unknown ids that are shown one by one"""


def delete_documents(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="IDS...", help="Ids of documents.", show_default=False),
    ] = None,
    index: IndexOption = DEFAULT_INDEX,
    ids_from: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file with one id a line; - is standard input."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Delete documents by id. Ids that the index does not hold are reported."""
    names = list(dict.fromkeys([*(ids or []), *_read_ids(ids_from)]))
    if not names:
        raise typer.BadParameter("give ids, or a file of them with --ids-from", param_hint="IDS")
    from m3search.index import Index

    opened = Index.open(index)
    rows = opened.rows_of(names).tolist()
    unknown = [name for name, row in zip(names, rows, strict=True) if row < 0]
    deleted = opened.delete(names)
    if json:
        print_json(
            {
                "index": str(index),
                "deleted": deleted,
                "unknown": unknown,
                "documents": len(opened),
            }
        )
        return
    for name in unknown[:LISTED]:
        print_note(f"unknown id: {name}")
    if len(unknown) > LISTED:
        print_note(f"unknown id: {len(unknown) - LISTED} more")
    typer.echo(f"{deleted} deleted, {len(unknown)} unknown, {len(opened)} documents left")


def _read_ids(path: Path | None) -> Iterator[str]:
    if path is None:
        return
    from m3search.lines import check_file, decode_line, display_name, read_lines

    check_file(path, "ids.txt")
    for number, line in read_lines(path):
        yield decode_line(display_name(path), number, line).strip()


def compact_index(index: IndexOption = DEFAULT_INDEX, json: JsonOption = False) -> None:
    """Rewrite an index as one segment, a large one as a few. Deleted documents go; scores stay."""
    from m3search.index import Index

    started = time.perf_counter()
    opened = Index.open(index)
    before = sum(opened.bytes_by_store().values())
    with progress_bar("documents", len(opened), what="compacting") as step:
        opened.compact(step)
    seconds = time.perf_counter() - started
    sizes = opened.bytes_by_store()
    if json:
        print_json(
            {
                "index": str(index),
                "documents": len(opened),
                "segments": len(opened.manifest.segments),
                "seconds": round(seconds, 3),
                "bytes": sizes,
            }
        )
        return
    after, segments = sum(sizes.values()), len(opened.manifest.segments)
    typer.echo(
        f"{len(opened)} documents in {segments} segment{'' if segments == 1 else 's'}, "
        f"{readable_bytes(before)} -> {readable_bytes(after)}"
    )
