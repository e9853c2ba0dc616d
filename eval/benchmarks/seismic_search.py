"""Seismic (arXiv 2404.18812): approximate search by lexical weights, in clusters of documents."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy import sparse as sp

from m3search.errors import ConfigError
from m3search.records import IntArray

SETTINGS = {"fast": (8, 0.9), "careful": (20, 0.6)}
"""query_cut, terms of a query that count, and heap_factor, by which summaries are trusted"""


@contextmanager
def _quiet() -> Iterator[None]:
    """What is printed on stdout goes to stderr, by whichever language it is."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class Seismic:
    """An index of lexical weights in memory, built with Seismic's own defaults."""

    def __init__(self, vectors: sp.csr_array, k: int) -> None:
        """vectors: (documents, vocabulary) weights."""
        try:
            import seismic
        except ImportError as error:
            raise ConfigError(
                "--seismic",
                expected="the package seismic",
                found=str(error),
                remedy="Install it: pip install pyseismic-lsr.",
            ) from error
        self._k = k
        kind = seismic.get_seismic_string()
        self._names = np.array([str(term) for term in range(vectors.shape[1])], dtype=kind)
        data = seismic.SeismicDataset()
        for row in range(vectors.shape[0]):
            span = slice(vectors.indptr[row], vectors.indptr[row + 1])
            weights = vectors.data[span].astype(np.float32)
            data.add_document(str(row), self._names[vectors.indices[span]], weights)
        with _quiet():
            self._index = seismic.SeismicIndex.build_from_dataset(data)

    def search(self, query: sp.csr_array, setting: str) -> Any:
        """(query, score, document) of the k best that are found, for a query (1, vocabulary)."""
        cut, factor = SETTINGS[setting]
        names, weights = self._names[query.indices], query.data.astype(np.float32)
        return self._index.search("q", names, weights, k=self._k, query_cut=cut, heap_factor=factor)

    def rows(self, query: sp.csr_array, setting: str) -> IntArray:
        """The numbers of the documents that are found."""
        return np.array([int(name) for _, _, name in self.search(query, setting)], dtype=np.int64)
