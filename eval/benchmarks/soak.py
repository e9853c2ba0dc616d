"""Many processes search while one adds, updates, deletes and compacts: is every answer right?

    python eval/benchmarks/soak.py --minutes 10 --readers 8

The writer keeps a copy of what every commit holds. Each reader moves to the newest commit, asks a
random query in every mode and compares ids, scores and texts with a search of that copy by numpy.
The JSON on stdout has the number of searches, commits and answers that were wrong or missing, the
time that one took, and how memory and open files of a reader grew from the second fifth of the time
to the last. Ends with 1 where an answer was wrong. The vectors are random and small: this is no
measure of speed.
"""

from __future__ import annotations

import argparse
import bisect
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from measuring import publish, resident
from scipy import sparse as sp
from timing import table

from m3search.cli.ending import run_script
from m3search.index import Index
from m3search.records import MODES, Document, Encoded, FloatArray, Kind, Mode, ModelIdentity
from m3search.scoring import maxsim
from m3search.stores.rarity import rarity

DIM, VOCABULARY, MULTI_DIM, TERMS = 32, 500, 16, 12
FEWEST, MOST = 300, 1500
"""documents that the index holds"""
K = 10
TOLERANCE = 2e-3
"""of a score: token vectors are stored as float16"""
PATIENCE = 120.0
"""seconds that a reader waits for what a commit holds"""
State = dict[str, int]
"""id -> the number that the text of the document ends with"""


class Numbers:
    """An encoder: the vectors of a text are drawn from the number at its end."""

    identity = ModelIdentity("numbers", "0" * 64, DIM, VOCABULARY, MULTI_DIM, 64, "cls", idf=True)

    def encode(self, texts: Sequence[str], kind: Kind = "document") -> Encoded:
        """n texts."""
        dense = np.empty((len(texts), DIM), dtype=np.float32)
        sparse = np.zeros((len(texts), VOCABULARY), dtype=np.float32)
        multi = []
        for row, text in enumerate(texts):
            rng = np.random.default_rng(int(text.split()[-1]))
            dense[row] = _unit(rng.standard_normal((1, DIM)))[0]
            sparse[row, rng.choice(VOCABULARY, TERMS, replace=False)] = 0.05 + rng.random(TERMS)
            multi.append(_unit(rng.standard_normal((int(rng.integers(1, 9)), MULTI_DIM))))
        return Encoded(dense, sp.csr_array(sparse), multi)

    def passages(self, text: str, tokens: int, overlap: int = 0) -> list[tuple[int, int]]:
        """One: a number is not cut."""
        return [(0, len(text))]


def _unit(vectors: npt.NDArray[np.float64]) -> FloatArray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


class States:
    """What each commit holds, in a folder: the writer puts it there, the readers wait for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._commits: list[int] = []

    def put(self, commit: int, state: State) -> None:
        """From the commit after the last one put up to this one, the index holds this."""
        part = self._folder / "part"
        part.write_text(json.dumps(state))
        part.rename(self._folder / f"{commit}.json")

    def at(self, commit: int) -> State:
        """What that commit holds; TimeoutError where the writer does not say."""
        deadline = time.monotonic() + PATIENCE
        while not self._commits or self._commits[-1] < commit:
            self._commits = sorted(int(path.stem) for path in self._folder.glob("*.json"))
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing said what commit {commit} holds")
            time.sleep(0.002)
        found = self._commits[bisect.bisect_left(self._commits, commit)]
        state: State = json.loads((self._folder / f"{found}.json").read_text())
        return state


class Shadow:
    """The documents of one commit, searched by looking at all of them."""

    def __init__(self, state: State) -> None:
        self.ids = sorted(state)
        self._numbers = state
        self._held = Numbers().encode([str(state[name]) for name in self.ids])

    def text(self, name: str) -> str:
        """The text of a document."""
        return text_of(self._numbers[name])

    def scores(self, mode: Mode, query: Encoded) -> FloatArray:
        """(documents,) in the order of `ids`."""
        if mode == "dense":
            return np.asarray(self._held.dense @ query.dense[0])
        if mode == "sparse":
            counts = np.bincount(self._held.sparse.indices, minlength=VOCABULARY)
            weights = query.sparse.toarray()[0] * rarity(counts, len(self.ids))
            return np.asarray(self._held.sparse @ weights)
        return np.array([maxsim(query.multi[0], vectors) for vectors in self._held.multi])

    def complaint(self, index: Index, mode: Mode, query: Encoded) -> str:
        """What is wrong with the K best of the index in a mode; empty if nothing is."""
        hits = index.retrieve(mode, index.with_rarity(query), K)
        rows = hits.rows[0][hits.rows[0] >= 0]
        scores, names = hits.scores[0][: len(rows)], index.ids(rows)
        true = dict(zip(self.ids, self.scores(mode, query), strict=True))
        best = sorted(score for score in true.values() if score > 0 or mode != "sparse")
        wanted = np.array(best[::-1][:K])
        if len(scores) != len(wanted) or not np.allclose(scores, wanted, atol=TOLERANCE):
            return f"{mode}: scores {scores.tolist()} instead of {wanted.tolist()}"
        if len(set(names)) != len(names) or not set(names) <= set(true):
            return f"{mode}: documents {names}, some twice or not there"
        if not np.allclose([true[name] for name in names], scores, atol=TOLERANCE):
            return f"{mode}: a score of another document among {names}"
        texts = [document.text for document in index.documents(rows)]
        return "" if texts == [self.text(name) for name in names] else f"{mode}: other texts"


def text_of(number: int) -> str:
    """The text of a document; long for some, so that sizes differ."""
    return f"{'word ' * (number % 50)}number {number}"


def read(path: Path, states: Path, number: int, until: float, out: Any) -> None:
    """A reader: searches until the time is over, and sends what it found."""
    rng = np.random.default_rng([1, number])
    known, index = States(states), Index.open(path)
    shadow, commit = Shadow(known.at(index.manifest.commit)), index.manifest.commit
    complaints, moves, spent, held = [], 0, [], []
    while time.time() < until:
        index = index.refresh()
        if index.manifest.commit != commit:
            commit, moves = index.manifest.commit, moves + 1
            shadow = Shadow(known.at(commit))
        query = Numbers().encode([str(rng.integers(1 << 40))], "query")
        for mode in MODES:
            started = time.perf_counter()
            complaint = shadow.complaint(index, mode, query)
            spent.append(1000 * (time.perf_counter() - started))
            if complaint:
                complaints.append(f"commit {commit}: {complaint}")
        held.append((time.time(), resident("VmRSS"), len(list(Path("/proc/self/fd").iterdir()))))
    out.put({"complaints": complaints, "moves": moves, "spent": spent, "held": held})


def write(path: Path, states: States, seed: int, until: float) -> dict[str, int]:
    """The writer: changes the index until the time is over; what it did."""
    rng, numbers = np.random.default_rng(seed), count()
    index = Index.open(path)
    state = states.at(index.manifest.commit)
    done = dict.fromkeys(("added", "updated", "deleted", "compacted", "commits"), 0)
    while time.time() < until:
        before = index.manifest.commit
        kind = _choose(rng, len(state))
        some = rng.choice(sorted(state), int(rng.integers(1, 11)), replace=False).tolist()
        if kind == "deleted":
            index.delete(some)
            state = {name: number for name, number in state.items() if name not in some}
        elif kind == "compacted":
            index.compact()
        else:
            new = [f"n{next(numbers)}" for _ in range(int(rng.integers(1, 21)))]
            names = some if kind == "updated" else new
            change = {name: int(rng.integers(1 << 40)) for name in names}
            index.add(_documents(change), Numbers())
            state = {**state, **change}
        done[kind] += 1
        if index.manifest.commit > before:
            states.put(index.manifest.commit, state)
        done["commits"] += index.manifest.commit - before
    return done


def _choose(rng: np.random.Generator, held: int) -> str:
    if held < FEWEST:
        return "added"
    if held > MOST:
        return "deleted"
    return str(rng.choice(["added", "updated", "deleted", "compacted"], p=[0.4, 0.28, 0.3, 0.02]))


def _documents(state: State) -> Iterator[Document]:
    return (Document(name, text_of(number)) for name, number in state.items())


def growth(held: Sequence[tuple[float, int, int]], column: int) -> float:
    """How much a median of the last fifth of the time is above one of the second fifth."""
    values = np.array([each[column] for each in held], dtype=float)
    fifth = max(1, len(values) // 5)
    return float(np.median(values[-fifth:]) - np.median(values[fifth : 2 * fifth]))


def main() -> None:
    """Runs as the command line asks, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file for the JSON")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        path, folder = Path(place) / "index", Path(place) / "states"
        folder.mkdir()
        state = {f"d{number}": number for number in range(FEWEST)}
        index = Index.build(path, _documents(state), Numbers(), multi_codec="fp16")
        States(folder).put(index.manifest.commit, state)
        until = time.time() + 60 * asked.minutes
        context = multiprocessing.get_context("spawn")
        out = context.Queue()
        readers = [
            context.Process(target=read, args=(path, folder, number, until, out))
            for number in range(asked.readers)
        ]
        for reader in readers:
            reader.start()
        writer = write(path, States(folder), asked.seed, until)
        found = [out.get(timeout=PATIENCE) for _ in readers]
        damages = Index.open(path).verify()
    complaints = [line for each in found for line in each["complaints"]] + damages
    times = np.concatenate([each["spent"] for each in found])
    readings = {
        "searches": len(times),
        "commits_read": sum(each["moves"] for each in found),
        "wrong": len(complaints),
        "median_ms": round(float(np.median(times)), 2),
        "p99_ms": round(float(np.percentile(times, 99)), 2),
        "grown_mb": round(max(growth(each["held"], 1) for each in found) / 1e6, 2),
        "grown_files": max(growth(each["held"], 2) for each in found),
    }
    result = {"readers": readings, "writer": writer, "complaints": complaints[:20]}
    publish(asked, result, table({"readers": readings}))
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    run_script(main)
