"""What an evaluation needs of encoder, index and searcher, and indexes that are used again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Protocol

from m3search.corpus import TITLE_TEMPLATE
from m3search.errors import ArtifactError, ConfigError
from m3search.evaluation.collection import Collection
from m3search.records import ModelIdentity, Query, Run

Progress = Callable[[str, int, int], None]
"""called with the stage, how many were done since its last call, and of how many"""


class Encoder(Protocol):
    """What an evaluation asks an encoder; index and searcher ask the rest."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model it is."""


class Index(Protocol):
    """What an evaluation asks an index."""

    def bytes_by_store(self) -> dict[str, int]:
        """Size on disk."""


class Searcher(Protocol):
    """What an evaluation asks a searcher."""

    def encode(self, queries: Iterable[Query]) -> Any:
        """The queries in a form that `run` takes any number of times."""

    def run(
        self,
        queries: Any,
        k: int,
        *,
        modes: Sequence[str],
        weights: Sequence[float] | None,
        depth: int,
    ) -> Run:
        """The k best documents of every query."""


@dataclass(frozen=True)
class Engine:
    """How indexes are built and searched: m3search's own, or a test's."""

    build: Callable[..., Index]
    open: Callable[[Path], Index]
    searcher: Callable[[Any, Any], Searcher]

    @classmethod
    def default(cls) -> Engine:
        """`Index` and `Searcher`, imported only when an index is needed."""
        from m3search.index import Index as LocalIndex
        from m3search.search import Searcher as LocalSearcher

        return cls(LocalIndex.build, LocalIndex.open, LocalSearcher)


@dataclass(frozen=True)
class Built:
    """An index of a set's corpus, and whether an earlier evaluation had made it."""

    index: Index
    seconds: float
    """what its building took, now or then"""
    reused: bool


def open_or_build(
    engine: Engine,
    work: Path,
    name: str,
    collection: Collection,
    encoder: Encoder,
    progress: Callable[[int], None],
) -> Built:
    """The index of a set in `work`, built unless the same corpus and model made one there.

    A building that was cut off leaves no `built.json`; it is gone on with where it can be.
    """
    key = _key(collection.corpus, encoder.identity)
    folder = work / f"{name}.{key[:12]}"
    place, note = folder / "index", folder / "built.json"
    if (index_and_seconds := _open_built(engine, place, note, key)) is not None:
        return Built(*index_and_seconds, reused=True)
    folder.mkdir(parents=True, exist_ok=True)

    def build() -> Index:
        documents = collection.read()
        return engine.build(
            place, documents, encoder, title_template=TITLE_TEMPLATE, progress=progress
        )

    started = time.perf_counter()
    try:
        index = build()
    except (ArtifactError, ConfigError):  # what is there is of no use: without it, once more
        if not place.exists():
            raise
        shutil.rmtree(place)
        index = build()
    seconds = time.perf_counter() - started
    unfinished = folder / "built.json.part"
    unfinished.write_text(json.dumps({"key": key, "seconds": seconds}), encoding="utf-8")
    unfinished.replace(note)
    return Built(index, seconds, reused=False)


def _open_built(engine: Engine, place: Path, note: Path, key: str) -> tuple[Index, float] | None:
    if not note.is_file():
        return None
    built = json.loads(note.read_text(encoding="utf-8"))
    if built["key"] == key:
        try:
            return engine.open(place), float(built["seconds"])
        except ArtifactError:  # damaged, or of another format: it can be made again
            pass
    note.unlink()
    shutil.rmtree(place, ignore_errors=True)
    return None


def _key(corpus: Path, model: ModelIdentity) -> str:
    """SHA-256 of all that decides what is in an index; where the model lies is not part of it."""
    with corpus.open("rb") as file:
        content = file_digest(file, "sha256").hexdigest()
    identity = {name: value for name, value in asdict(model).items() if name != "name"}
    parts = json.dumps([content, TITLE_TEMPLATE, identity], sort_keys=True)
    return sha256(parts.encode()).hexdigest()
