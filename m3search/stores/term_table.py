"""The table of a segment's terms: where the posting list of each lies, and its highest weight."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from m3search.records import FloatArray, IntArray
from m3search.stores.files import ArrayWriter, damaged, map_array

FILE = "sparse.terms.npy"
INDPTR, PEAKS = "sparse.indptr.npy", "sparse.peaks.npy"
"""what older segments have in its place, each with a value for every term of the vocabulary"""
ENTRY = np.dtype([("term", "<i4"), ("peak", "<f4"), ("end", "<i8")])


class TermTable(NamedTuple):
    """Terms and their posting lists. Those of a small segment are few, however many there could
    be: so a segment of one document is small, too."""

    terms: IntArray
    """(terms,) ascending"""
    indptr: IntArray
    """(terms + 1,) where the list of each begins, and that of the last ends"""
    peaks: FloatArray
    """(terms,) what no weight of the list exceeds"""

    @classmethod
    def of(cls, terms: IntArray, counts: IntArray, peaks: FloatArray) -> TermTable:
        """The table of lists of so many postings, of which empty ones are left out."""
        kept = np.flatnonzero(counts)
        return cls(terms[kept], np.concatenate([[0], np.cumsum(counts[kept])]), peaks[kept])

    def write(self, folder: Path) -> Path:
        """The file, complete."""
        entries = np.empty(len(self.terms), dtype=ENTRY)
        entries["term"], entries["peak"], entries["end"] = self.terms, self.peaks, self.indptr[1:]
        with ArrayWriter(folder / FILE, ENTRY) as writer:
            writer.append(entries)
        return folder / FILE

    @classmethod
    def read(cls, folder: Path, vocabulary: int, postings: int) -> TermTable:
        """The table of a segment; ArtifactError where it cannot be one of so many postings."""
        entries = map_array(folder / FILE, ENTRY)
        terms, ends = entries["term"].astype(np.int64), entries["end"].astype(np.int64)
        if len(terms) and not (terms[0] >= 0 and terms[-1] < vocabulary):
            found = f"{terms[0]} to {terms[-1]}"
            raise damaged(folder / FILE, f"terms from 0 to {vocabulary - 1}", found)
        if (np.diff(terms) <= 0).any():
            raise damaged(folder / FILE, "terms that only rise", "one not above the one before")
        indptr = np.concatenate([[0], ends])
        _check_ends(folder / FILE, indptr, postings)
        return cls(terms, indptr, entries["peak"].copy())

    @classmethod
    def read_older(cls, folder: Path, vocabulary: int, postings: int) -> TermTable:
        """The same of an older segment: all terms of the vocabulary, most with empty lists.

        Peaks are infinite where there are none: so they are in the first segments.
        """
        indptr: IntArray = map_array(folder / INDPTR, "<i8", vocabulary + 1)
        _check_ends(folder / INDPTR, indptr, postings)
        peaks: FloatArray = np.full(vocabulary, np.inf, dtype=np.float32)
        if (folder / PEAKS).exists():
            peaks = map_array(folder / PEAKS, "<f4", vocabulary)
        return cls(np.arange(vocabulary), indptr, peaks)

    def find(self, terms: IntArray) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """The places (m,) of those of the terms (n,) that are in the table, and (n,) which are."""
        places = np.searchsorted(self.terms, terms)
        known = places < len(self.terms)
        known[known] = self.terms[places[known]] == terms[known]
        return places[known], known


def _check_ends(path: Path, indptr: IntArray, postings: int) -> None:
    ends = (int(indptr[0]), int(indptr[-1]))
    if ends != (0, postings):
        raise damaged(path, f"values from 0 to {postings}", f"{ends}")
    if (np.diff(indptr) < 0).any():
        raise damaged(path, "values that only rise", "one below the one before")
