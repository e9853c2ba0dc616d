"""Hybrid search on the M3 method: one model, three ways to match, one index.

    encoder   texts -> dense, sparse and multi vectors in one pass
    index     a folder that keeps all three, row-aligned and crash-safe
    search    candidates of dense and sparse, exact scores of all three, weighted sum
    evaluate  runs x judgements -> measures;  train: recipe -> checkpoint

Names are loaded when they are first used: `import m3search` alone brings in neither torch nor
faiss (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m3search.corpus import read_corpus, read_qrels, read_queries, read_run, write_run
    from m3search.encoder import Encoder
    from m3search.errors import ArtifactError, ConfigError, DataError, M3Error
    from m3search.evaluation import evaluate
    from m3search.index import Index
    from m3search.records import Document, Encoded, Hit, Hits, Qrels, Query, Run
    from m3search.search import Searcher
    from m3search.training.loop import train

__version__ = "0.1.0"

_HOMES = {
    "ArtifactError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "Document": "records",
    "Encoded": "records",
    "Encoder": "encoder",
    "Hit": "records",
    "Hits": "records",
    "Index": "index",
    "M3Error": "errors",
    "Qrels": "records",
    "Query": "records",
    "Run": "records",
    "Searcher": "search",
    "evaluate": "evaluation",
    "read_corpus": "corpus",
    "read_qrels": "corpus",
    "read_queries": "corpus",
    "read_run": "corpus",
    "train": "training.loop",
    "write_run": "corpus",
}

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DataError",
    "Document",
    "Encoded",
    "Encoder",
    "Hit",
    "Hits",
    "Index",
    "M3Error",
    "Qrels",
    "Query",
    "Run",
    "Searcher",
    "__version__",
    "evaluate",
    "read_corpus",
    "read_qrels",
    "read_queries",
    "read_run",
    "train",
    "write_run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
