"""Which BM25 stands beside the modes and gives mining its candidates: bm25s, or Lucene itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from m3search.errors import ConfigError
from m3search.records import Document, Query, Run

if TYPE_CHECKING:
    from m3search.evaluation.bm25 import Language

Implementation = Literal["bm25s", "lucene"]
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)


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


def make_bm25(name: Implementation, documents: Iterable[Document], language: Language) -> Baseline:
    """The documents indexed; the two differ in how they make words of texts."""
    if name == "lucene":
        from m3search.evaluation.lucene import LuceneBM25

        return LuceneBM25(documents, language)
    from m3search.evaluation.bm25 import BM25

    return BM25(documents, language)
