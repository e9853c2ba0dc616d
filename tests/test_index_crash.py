"""kill -9 at random moments of a build, adds, deletes, merges and compactions.

At KILLS moments, an environment variable; 50 where it is not set, which take a quarter of a minute.
Run as a program, this file is a server that forks one writer for every line on its standard
input, so that the writers share one import of numpy, scipy and faiss.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import FrameType

import pytest
from index_fakes import FakeEncoder
from small_indexes import assert_ranks

from m3search.errors import ArtifactError
from m3search.index import Index
from m3search.records import Document
from m3search.stores import tiers
from m3search.stores.files import replace_file

KINDS = ("build", "add", "delete", "compact", "merge")
SEGMENT, MOST_SEGMENTS = 5, 2
KILLS = int(os.environ.get("KILLS", "50"))
INSIDE, AT_COMMITS = KILLS // 2, KILLS // 4
"""moments in any of the kinds, and in the middle of a commit; the others are told by the clock"""


def corpus() -> list[Document]:
    return [Document(f"d{i}", f"text {i}", "", {"n": i}) for i in range(18)]


def added(step: int) -> list[Document]:
    """Some that the index holds, some that it does not."""
    return [Document(f"d{i}", f"round {step} {i}") for i in range(7 * step, 7 * step + 9)]


def deleted(step: int) -> list[str]:
    return [f"d{i}" for i in range(5 * step, 5 * step + 4)]


def write_all(path: Path, begin, end) -> None:
    """Builds, then adds, deletes and compacts three times over."""
    begin("build")
    index = Index.build(path, corpus(), FakeEncoder(), segment_documents=SEGMENT)
    end(index)
    for step in range(3):
        for kind, change in (
            ("add", lambda: index.add(added(step), segment_documents=SEGMENT)),  # noqa: B023
            ("delete", lambda: index.delete(deleted(step))),  # noqa: B023
            ("compact", index.compact),
        ):
            begin(kind)
            change()
            end(index)


def expected(ends: Sequence[int]) -> dict[int, dict[str, str]]:
    """Commit -> id -> text, by plain dictionaries; ends: the last commit of each change.

    Of the build alone the last is there. A change is one commit, and the others are of merges.
    """
    texts = {document.id: document.text for document in corpus()}
    states = {ends[0]: texts}
    for number, (last, end) in enumerate(pairwise(ends)):
        step, kind = divmod(number, 3)
        if kind == 0:
            texts = {**texts, **{document.id: document.text for document in added(step)}}
        elif kind == 1:
            texts = {name: text for name, text in texts.items() if name not in deleted(step)}
        states.update(dict.fromkeys(range(last + 1, end + 1), texts))
    return states


NOTED = {replace_file.__code__: "commit", tiers.merge_run.__code__: "merge"}


def write_until_killed(path: Path, log: Path, event: int) -> None:
    """Writes; ends itself at the event-th call of a function, in Python or in C, if not 0."""
    count = 0

    def tick(frame: FrameType, what: str, _: object) -> None:
        nonlocal count
        count += 1
        if count == event:
            os.kill(os.getpid(), signal.SIGKILL)
        name = NOTED.get(frame.f_code)
        if not event and name and what in ("call", "return"):
            note(name, what, count)

    def note(*fields: object) -> None:
        with log.open("a") as file:
            file.write(" ".join(map(str, fields)) + "\n")

    sys.setprofile(tick)
    write_all(
        path,
        lambda kind: note("begin", kind, count),
        lambda index: note("end", index.manifest.commit, len(index)),
    )
    sys.setprofile(None)
    note("done", "all", count)


def serve() -> None:
    tiers.MOST_SEGMENTS = tiers.MOST_WHILE_BUILDING = MOST_SEGMENTS
    for line in sys.stdin:
        path, log, event, seconds = json.loads(line)
        child = os.fork()
        if child == 0:
            write_until_killed(Path(path), Path(log), event)
            os._exit(0)
        if seconds:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        sys.stdout.write(f"{os.waitpid(child, 0)[1]}\n")
        sys.stdout.flush()


class Server:
    """Starts writers one at a time, and ends them after `seconds` or at an event."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, folder: Path, *, event: int = 0, seconds: float = 0) -> list[list[str]]:
        """What the writer logged."""
        folder.mkdir()
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin
        assert stdout
        order = [str(folder / "index"), str(folder / "log"), event, seconds]
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        status = int(stdout.readline())
        assert status in (0, signal.SIGKILL)
        log = folder / "log"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    """The writers sync; what the tests themselves write need not outlive a power cut."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()


def read(index: Index) -> dict[str, str]:
    rows = index.rows_of([f"d{i}" for i in range(60)])
    documents = index.documents(rows[rows >= 0])
    assert len(documents) == len(index)
    return {document.id: document.text for document in documents}


class Whole:
    """What a writer that is not killed does, and when, in calls of a function."""

    def __init__(self, server: Server, folder: Path) -> None:
        started = time.monotonic()
        server.run(folder / "timed")
        self.seconds = time.monotonic() - started
        log = server.run(folder / "whole")
        self.index = Index.open(folder / "whole" / "index")
        self.ends = [int(fields[1]) for fields in log if fields[0] == "end"]
        self.counts = [int(fields[2]) for fields in log if fields[0] == "end"]
        self.states = expected(self.ends)
        self.spans: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
        begins = [(fields[1], int(fields[2])) for fields in log if fields[0] in ("begin", "done")]
        for (kind, start), (_, stop) in pairwise(begins):
            self.spans[kind].append((start, stop))
        self.spans["merge"] = _spans(log, "merge")
        self.commits = _spans(log, "commit")


def _spans(log: list[list[str]], name: str) -> list[tuple[int, int]]:
    calls = [int(fields[2]) for fields in log if fields[0] == name]
    return list(zip(calls[::2], calls[1::2], strict=True))


@pytest.fixture
def whole(server, memory_folder):
    return Whole(server, memory_folder)


def check_after_kill(folder: Path, log: list[list[str]], whole: Whole) -> None:
    reported = max([int(fields[1]) for fields in log if fields[0] == "end"], default=0)
    path = folder / "index"
    try:
        index = Index.open(path)
    except ArtifactError as error:  # killed before there was an index
        assert not (path / "manifest.json").exists()
        assert reported == 0
        assert "expected an index" in str(error)
    else:
        assert index.verify() == []
        assert_ranks(index, ("text 3",))
        commit, texts = index.manifest.commit, read(index)
        assert reported <= commit <= min(end for end in [*whole.ends, 99] if end > reported)
        if commit < whole.ends[0]:  # whole segments, in their order
            assert len(texts) in (0, 5, 10, 15, 18)
            assert texts == {d.id: d.text for d in corpus()[: len(texts)]}
            assert not index.manifest.complete or len(texts) == 18
        else:
            assert texts == whole.states[commit]
            assert index.manifest.complete
    check_rerun(path, whole.states[whole.ends[0]])


def check_rerun(path: Path, built: dict[str, str]) -> None:
    """Whatever was going on can be done again and comes to its end."""
    try:
        index = Index.open(path)
        complete = index.manifest.complete
    except ArtifactError:
        complete = False
    if not complete:
        index = Index.build(path, corpus(), FakeEncoder(), segment_documents=SEGMENT)
        assert read(index) == built
    texts = {**read(index), **{document.id: document.text for document in added(2)}}
    index.add(added(2), FakeEncoder())
    index.delete(deleted(2))
    index.compact()
    assert read(index) == {n: text for n, text in texts.items() if n not in deleted(2)}
    assert index.verify() == []
    assert_ranks(index, ("round 2 17",))
    assert [entry.name for entry in (path / "segments").iterdir()] == [
        segment.name for segment in index.manifest.segments
    ]


def test_without_a_kill_the_commits_are_the_expected_ones(whole):
    assert len(whole.ends) == 10
    assert whole.counts == [len(whole.states[end]) for end in whole.ends]
    assert read(whole.index) == whole.states[whole.ends[-1]]
    assert len(whole.spans["merge"]) >= 4  # in the build and in every add
    assert len(whole.commits) == whole.ends[-1] + 1


def test_killed_between_any_two_calls(server, memory_folder, whole):
    """Moments spread over the kinds of change, and in the middle of a commit."""
    draw = random.Random(20240203)
    hit = set()
    for trial in range(INSIDE + AT_COMMITS):
        if trial < INSIDE:
            event = draw.randrange(*draw.choice(whole.spans[KINDS[trial % len(KINDS)]]))
        else:  # from one end of a commit to the other, so that no step of it is left out
            start, stop = draw.choice(whole.commits)
            event = start + int((stop - start) * (trial - INSIDE + draw.random()) / AT_COMMITS)
        folder = memory_folder / str(trial)
        log = server.run(folder, event=event)
        assert log[-1][0] != "done"
        hit.add(next(fields[1] for fields in reversed(log) if fields[0] == "begin"))
        check_after_kill(folder, log, whole)
    assert {*hit, "merge"} == {*KINDS}


def test_killed_from_outside(server, memory_folder, whole):
    """Moments of the clock, in the middle of a system call or not."""
    draw = random.Random(20240204)
    moments = KILLS - INSIDE - AT_COMMITS
    for trial in range(moments):
        folder = memory_folder / str(trial)
        log = server.run(folder, seconds=whole.seconds * (trial + draw.random()) / moments)
        check_after_kill(folder, log, whole)


if __name__ == "__main__":
    serve()
