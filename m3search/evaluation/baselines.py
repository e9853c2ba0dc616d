"""Which BM25 stands beside the modes and gives mining its candidates: bm25s, or Lucene itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from m3search.errors import ConfigError
from m3search.records import Document, Query, Run

if TYPE_CHECKING:
    from m3search.evaluation.bm25 import Language

Implementation = Literal["bm25s", "lucene"]
WORDS = "the words of bm25s"
"""Lucene's analyser where it has none for the language"""
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)
K1, B = 1.2, 0.75
"""Lucene's defaults. Of three usual settings they were the strongest on average: mean nDCG@10 over
17 sets in 13 languages 91.55, against 91.37 with 0.9 and 0.4 (Anserini) and 91.46 with 1.5 and 0.75
(bm25s)."""


class Baseline(Protocol):
    """An index of words in memory or in a folder of its own."""

    def run(self, queries: Iterable[Query], k: int = 100) -> Run:
        """The k best documents of every query that share a word with it."""

    def settings(self) -> dict[str, Any]:
        """What a report says of the baseline, JSON-ready."""


def check_implementation(name: str, where: str = "bm25") -> Implementation:
    """The name, if there is such a BM25 and its packages are installed; else ConfigError."""
    if name == "lucene":
        from m3search.evaluation.java import check_java

        check_java(where)
        return "lucene"
    if name != "bm25s":
        raise ConfigError.unknown(where, name, IMPLEMENTATIONS)
    return "bm25s"


def make_bm25(
    name: Implementation,
    documents: Iterable[Document],
    language: Language,
    *,
    k1: float = K1,
    b: float = B,
) -> Baseline:
    """The documents indexed; the two differ in how they make words of texts."""
    if name == "lucene":
        from m3search.evaluation.lucene import LuceneBM25

        return LuceneBM25(documents, language, k1=k1, b=b)
    from m3search.evaluation.bm25 import BM25

    return BM25(documents, language, k1=k1, b=b)
