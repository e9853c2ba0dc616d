"""A corpus while it is read for an index: lines left out, ids with spaces, how many lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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


def noting_spaces(documents: Iterator[Document]) -> Iterator[Document]:
    """The documents; behind the last one, says how many have ids that no TREC run can hold."""
    number, example = 0, ""
    for document in documents:
        if document.id.split() != [document.id]:
            number, example = number + 1, document.id
        yield document
    if number:
        print_note(
            f"{number} ids hold white space, {example!r} for one: query --run cannot write them"
        )


def count_lines(corpus: str) -> int | None:
    """Lines of a corpus, for the time left; None where nobody looks or where it can be read once.

    A pipe can be read once, named or not. Reading is a thousand times faster than encoding.
    """
    if not Path(corpus).is_file() or not sys.stderr.isatty():
        return None
    from m3search.lines import read_lines

    return sum(1 for _ in read_lines(corpus))
