"""What is known of a data set before it is fetched, and what reading it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

from m3search.corpus.trec import Judgement
from m3search.errors import ConfigError
from m3search.records import Document, Query


@dataclass(frozen=True)
class Contents:
    """A data set, read once: first its documents, then its queries, then what judges them."""

    documents: Iterable[Document]
    queries: Iterable[Query]
    judgements: Iterable[Judgement] = ()
    answers: Iterable[tuple[str, list[str]]] | None = None
    """question id and its answers, where these are in place of judgements"""


@dataclass(frozen=True)
class Source:
    """Where a data set is, and how it is evaluated."""

    name: str
    """as miracl/yo"""
    place: str
    """where it is published, for messages"""
    read: Callable[[], Contents]
    """downloads what is not yet on this machine"""
    split: str = "test"
    language: str | None = None
    """of the documents, for BM25"""
    measures: tuple[str, ...] = ()
    """in place of those by default"""
    drop_same_id: bool = False
    """whether a document that has the id of the query does not count"""
    shared_corpus: str = ""
    """the file of documents that several data sets share, from the folder of the cache"""

    @property
    def folder(self) -> str:
        """Its folder in the cache, at most one folder deep: ir:a/b is ir/a+b."""
        kind, _, rest = self.name.replace(":", "/", 1).partition("/")
        return f"{kind}/{rest.replace('/', '+')}" if rest else kind

    @property
    def set_name(self) -> str:
        """What reports call it: miracl-yo."""
        return self.name.replace(":", "-").replace("/", "-")


def raise_lacking(what: str, package: str, error: ImportError) -> NoReturn:
    """ConfigError for a data set that needs a package which is not installed."""
    raise ConfigError(
        what,
        expected=f"the package {package}, which reads it",
        found="no such package",
        remedy="Install it: pip install 'm3search[eval]'.",
    ) from error
