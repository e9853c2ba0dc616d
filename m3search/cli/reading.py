"""A corpus while it is read for an index: lines left out, ids with spaces, how many lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from m3search.cli.output import print_note

if TYPE_CHECKING:
    from m3search.errors import DataError
    from m3search.records import Document


class Skipped:
    """The lines that were left out, each one shown when it is met, and how many they are."""

    def __init__(self) -> None:
        self.number = 0

    def add(self, error: DataError) -> None:
        """Shows and counts one more line."""
        from tqdm import tqdm

        self.number += 1
        tqdm.write(f"skipped: {error}", file=sys.stderr)


def noting(documents: Iterator[Document]) -> Iterator[Document]:
    """The documents; behind the last one, says how many there is something to say of."""
    spaced: list[str] = []
    blank: list[str] = []
    empty = True
    for document in documents:
        empty = False
        if document.id.split() != [document.id]:
            spaced.append(document.id)
        if not document.text.strip() and not document.title.strip():
            blank.append(document.id)
        yield document
    if spaced:
        print_note(f"white space in {_some(spaced, 'id')}: query --run cannot write such")
    if blank:
        print_note(f"no text in {_some(blank, 'document')}: where such rank says little")
    if empty:
        print_note("no document was read")


def _some(found: Sequence[str], what: str) -> str:
    """How many there are of them, and the first one."""
    if len(found) == 1:
        return f"one {what}, {found[0]!r}"
    return f"{len(found)} {what}s, {found[0]!r} for one"


def count_lines(corpus: str) -> int | None:
    """Lines of a corpus, for the time left; None where nobody looks or where it can be read once.

    A pipe can be read once, named or not. Reading is a thousand times faster than encoding.
    """
    if not Path(corpus).is_file() or not sys.stderr.isatty():
        return None
    from m3search.lines import read_lines

    return sum(1 for _ in read_lines(corpus))
