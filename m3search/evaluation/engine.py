"""A set made ready for its search: its corpus and queries encoded, or taken from the cache."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from m3search.errors import ArtifactError
from m3search.evaluation.checked import Tell, damage
from m3search.evaluation.collection import Collection
from m3search.evaluation.encodings import KeptQueries, read_queries, write_queries
from m3search.evaluation.latency import measure_encoding, sample_queries
from m3search.evaluation.shared_texts import SharedTexts, SharingEncoder
from m3search.model.machine import machine
from m3search.records import Query
from m3search.stores.manifest import Layout

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
    """what its building took, now or then; None where it was cut off in between"""
    shared: int
    """documents that were not encoded for it, as another set of that evaluation had them"""
    reused: bool


@dataclass(frozen=True)
class Prepared:
    """A set, ready to be searched."""

    built: Built
    searcher: Searcher
    queries: KeptQueries
    """those of the set, in their order"""


def prepare(
    engine: Engine,
    folder: Path,
    key: str,
    layout: Layout,
    collection: Collection,
    encoder: Encoder,
    texts: SharedTexts,
    report: Progress,
    tell: Tell,
    latencies: bool,
) -> Prepared:
    """The corpus and the queries of a set encoded, unless the entry in the folder has them: of this
    set, or of another one of the same corpus.

    key: that of the index. texts: what other sets of this evaluation have in common with it. tell:
    hears what is damaged there, and made again. latencies: some of the queries are also encoded
    alone, which tells how long that takes.
    """
    built = _open_or_build(
        engine,
        folder,
        key,
        layout,
        collection,
        SharingEncoder(encoder, texts),
        lambda done: report("indexing", done, collection.documents),
        tell,
    )
    searcher = engine.searcher(built.index, encoder)
    queries = _encode(folder, searcher, collection.queries, report, tell, latencies)
    return Prepared(built, searcher, queries)


def _open_or_build(
    engine: Engine,
    folder: Path,
    key: str,
    layout: Layout,
    collection: Collection,
    encoder: SharingEncoder,
    progress: Callable[[int], None],
    tell: Tell,
) -> Built:
    """The index of a set in the folder of its key, built unless it is there.

    An index whose building was cut off is gone on with. One is removed and built anew only where
    it was read and found damaged or of another content; every other error passes.
    """
    place, note = folder / "index", folder / "built.json"
    held = _open_usable(engine, place, collection, tell)
    if held is not None and held.manifest.complete:
        return Built(held, *_read_making(note, key), reused=True)
    note.unlink(missing_ok=True)
    encoder.look_ahead()
    started = time.perf_counter()
    index = engine.build(
        place,
        collection.read(),
        encoder,
        title_template=layout.title_template,
        multi_codec=layout.multi_codec,
        progress=progress,
    )
    seconds = None if held is not None else time.perf_counter() - started
    _note_making(note, key, seconds, encoder.taken)
    return Built(index, seconds, encoder.taken, reused=False)


def _encode(
    folder: Path,
    searcher: Searcher,
    queries: Sequence[Query],
    report: Progress,
    tell: Tell,
    latencies: bool,
) -> KeptQueries:
    """The queries encoded, unless an earlier evaluation has kept them in the folder."""
    texts = [query.text for query in queries]
    kept = read_queries(folder, texts, tell)
    if kept is not None and not (latencies and _is_to_be_timed(kept)):
        return kept
    if kept is None:
        started = time.perf_counter()
        encoded = searcher.encode(queries).encoded
        kept = KeptQueries(encoded, time.perf_counter() - started)
    if latencies:
        sample = sample_queries(queries)
        alone = measure_encoding(
            searcher, sample, lambda done: report("encoding queries alone", done, len(sample))
        )
        kept = replace(kept, alone=alone, machine=machine())
    write_queries(folder, texts, kept)
    return kept


def _is_to_be_timed(queries: KeptQueries) -> bool:
    """Whether the times of queries alone are none, or those of another machine."""
    return not queries.alone or dict(queries.machine) != machine()


def _open_usable(engine: Engine, place: Path, collection: Collection, tell: Tell) -> Index | None:
    """The index at the place, sound, and unfinished or of this corpus; any other one is removed."""
    if not place.exists():
        return None
    try:
        index = engine.open(place)
    except ArtifactError as error:
        if _is_of_the_system(error):
            raise
        if not (_is_of_absence(error) and error.where == str(place)):  # else it was never begun
            tell(damage(f"{error.where}: expected {error.expected}, found {error.found}"))
    else:
        found = _damages(index, place, collection)
        if not found:
            return index
        tell(damage(found[0]))
    shutil.rmtree(place)
    return None


def _damages(index: Index, place: Path, collection: Collection) -> list[str]:
    """Every damage of the index, as 'file: what'; another number of documents is one."""
    held, wanted = index.manifest, collection.documents
    if held.complete and held.documents != wanted:
        return [f"{place}: expected {wanted} documents, found {held.documents}"]
    return index.verify()


def _is_of_the_system(error: ArtifactError) -> bool:
    """Whether a lock, a permission or a disk is in the way: the index may be sound."""
    return isinstance(error.__cause__, OSError) and not _is_of_absence(error)


def _is_of_absence(error: ArtifactError) -> bool:
    return isinstance(error.__cause__, FileNotFoundError | NotADirectoryError)


def _read_making(note: Path, key: str) -> tuple[float | None, int]:
    """What the building took, and how many documents were not encoded, as noted at its end."""
    try:
        built = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None, 0
    same = isinstance(built, dict) and built.get("key") == key
    return (built["seconds"], built["shared"]) if same else (None, 0)


def _note_making(note: Path, key: str, seconds: float | None, shared: int) -> None:
    unfinished = note.with_name(f"{note.name}.part")
    made = {"key": key, "seconds": seconds, "shared": shared}
    unfinished.write_text(json.dumps(made), encoding="utf-8")
    unfinished.replace(note)
