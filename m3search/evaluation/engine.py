"""How the indexes of an evaluation are made and searched, and when they are used again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from m3search.errors import ArtifactError
from m3search.evaluation.collection import Collection
from m3search.evaluation.suite import EvaluationSet
from m3search.records import ModelIdentity
from m3search.stores.commit import WriteLock
from m3search.stores.files import checksum

if TYPE_CHECKING:
    from m3search.encoder import Encoder
    from m3search.index import Index
    from m3search.search import Searcher

Progress = Callable[[str, int, int], None]
"""called with the stage, how many were done since its last call, and of how many"""


@dataclass(frozen=True)
class Engine:
    """How indexes are built and searched: m3search's own, or a test's."""

    build: Callable[..., Index]
    open: Callable[[Path], Index]
    searcher: Callable[[Index, Encoder], Searcher]

    @classmethod
    def default(cls) -> Engine:
        """`Index` and `Searcher`, imported only when an index is needed."""
        from m3search.index import Index
        from m3search.search import Searcher

        return cls(Index.build, Index.open, Searcher)


@dataclass(frozen=True)
class Built:
    """An index of a set's corpus, and whether an earlier evaluation had made it."""

    index: Index
    seconds: float | None
    """what its building took, now or then; None where a kill left no record of it"""
    reused: bool


def open_or_build(
    engine: Engine,
    work: Path,
    wanted: EvaluationSet,
    collection: Collection,
    encoder: Encoder,
    progress: Callable[[int], None],
) -> Built:
    """The index of a set in `work`, built unless the same corpus and model made one there: for this
    set, or for another of the same corpus.

    An index whose building was cut off is gone on with. One is removed and built anew only where
    it was opened and found damaged or of another content; every other error passes. ArtifactError
    where another process is at work on the same set.
    """
    key = _key(collection.corpus, wanted.title_template, encoder.identity)
    folder = next(iter(sorted(work.glob(f"*.{key[:12]}"))), work / f"{wanted.name}.{key[:12]}")
    place, note = folder / "index", folder / "built.json"
    folder.mkdir(parents=True, exist_ok=True)
    lock = WriteLock(folder)  # from the check to the end of the building
    try:
        held = _open_usable(engine, place, collection)
        recorded = _read_seconds(note, key)
        if held is not None and held.manifest.complete:
            return Built(held, recorded, reused=True)
        note.unlink(missing_ok=True)
        started = time.perf_counter()
        index = engine.build(
            place,
            collection.read(),
            encoder,
            title_template=wanted.title_template,
            progress=progress,
        )
        seconds = time.perf_counter() - started
        _note_seconds(note, key, seconds)
        return Built(index, seconds, reused=False)
    finally:
        lock.release()


def _open_usable(engine: Engine, place: Path, collection: Collection) -> Index | None:
    """The index at the place, unfinished or of this corpus; any other one is removed."""
    if not place.exists():
        return None
    try:
        index = engine.open(place)
    except ArtifactError as error:
        if _is_of_the_system(error):
            raise
    else:
        manifest = index.manifest
        if not manifest.complete or manifest.documents == collection.documents:
            return index
    shutil.rmtree(place)
    return None


def _is_of_the_system(error: ArtifactError) -> bool:
    """Whether a lock, a permission or a disk is in the way: the index may be sound."""
    absent = (FileNotFoundError, NotADirectoryError)
    return isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, absent)


def _read_seconds(note: Path, key: str) -> float | None:
    """What the building took, as noted at its end."""
    try:
        built = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    same = isinstance(built, dict) and built.get("key") == key
    return float(built["seconds"]) if same else None


def _note_seconds(note: Path, key: str, seconds: float) -> None:
    unfinished = note.with_name(f"{note.name}.part")
    unfinished.write_text(json.dumps({"key": key, "seconds": seconds}), encoding="utf-8")
    unfinished.replace(note)


def _key(corpus: Path, template: str, model: ModelIdentity) -> str:
    """SHA-256 of all that decides what is in an index; where the model lies is not part of it."""
    identity = {name: value for name, value in asdict(model).items() if name != "name"}
    parts = json.dumps([checksum(corpus), template, identity], sort_keys=True)
    return sha256(parts.encode()).hexdigest()
