"""kill -9 at random moments of a build, adds, deletes and compactions.

Run as a program, this file is a server that forks one writer for every line on its standard
input, so that the fifty writers share one import of numpy, scipy and faiss.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import FrameType

import pytest
from index_fakes import FakeEncoder

from m3search.errors import ArtifactError
from m3search.index import Index
from m3search.records import Document
from m3search.stores.files import replace_file

KINDS = ("build", "add", "delete", "compact")
SEGMENT = 5


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


def expected() -> list[dict[str, str]]:
    """Id -> text after each commit, by plain dictionaries."""
    texts = {document.id: document.text for document in corpus()}
    names = list(texts)
    states = [{name: texts[name] for name in names[:count]} for count in (0, 5, 10, 15, 18)]
    for step in range(3):
        texts = {**texts, **{document.id: document.text for document in added(step)}}
        states.append(texts)
        texts = {name: text for name, text in texts.items() if name not in deleted(step)}
        states += [texts, texts]
    return states


def write_until_killed(path: Path, log: Path, event: int) -> None:
    """Writes; ends itself at the event-th call of a function, in Python or in C, if not 0."""
    count = 0

    def tick(frame: FrameType, what: str, _: object) -> None:
        nonlocal count
        count += 1
        if count == event:
            os.kill(os.getpid(), signal.SIGKILL)
        if not event and frame.f_code is replace_file.__code__ and what in ("call", "return"):
            note("commit", what, count)

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


def check_after_kill(folder: Path, log: list[list[str]]) -> None:
    states = expected()
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
        commit = index.manifest.commit
        assert commit >= reported
        assert commit <= reported + 1 or commit <= 4
        assert read(index) == states[commit]
        assert index.manifest.complete == (commit >= 4)
    check_rerun(path, states)


def check_rerun(path: Path, states: list[dict[str, str]]) -> None:
    """Whatever was going on can be done again and comes to its end."""
    try:
        index = Index.open(path)
        complete = index.manifest.complete
    except ArtifactError:
        complete = False
    if not complete:
        index = Index.build(path, corpus(), FakeEncoder(), segment_documents=SEGMENT)
        assert read(index) == states[4]
    texts = {**read(index), **{document.id: document.text for document in added(2)}}
    index.add(added(2), FakeEncoder())
    index.delete(deleted(2))
    index.compact()
    assert read(index) == {n: text for n, text in texts.items() if n not in deleted(2)}
    assert index.verify() == []
    assert [entry.name for entry in (path / "segments").iterdir()] == [
        segment.name for segment in index.manifest.segments
    ]


def test_without_a_kill_the_commits_are_the_expected_ones(server, memory_folder):
    log = server.run(memory_folder / "whole")
    ends = [(int(fields[1]), int(fields[2])) for fields in log if fields[0] == "end"]
    states = expected()
    assert ends == [(commit, len(states[commit])) for commit in range(4, 14)]
    assert read(Index.open(memory_folder / "whole" / "index")) == states[-1]


def test_killed_between_any_two_calls(server, memory_folder):
    """20 moments spread over the four kinds of change, and 15 in the middle of a commit."""
    log = server.run(memory_folder / "whole")
    begins = [(fields[1], int(fields[2])) for fields in log if fields[0] in ("begin", "done")]
    spans: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
    for (kind, start), (_, stop) in pairwise(begins):
        spans[kind].append((start, stop))
    commits = [int(fields[2]) for fields in log if fields[0] == "commit"]
    windows = list(zip(commits[::2], commits[1::2], strict=True))
    assert len(windows) == 14
    draw = random.Random(20240203)
    hit = set()
    for trial in range(35):
        if trial < 20:
            event = draw.randrange(*draw.choice(spans[KINDS[trial % 4]]))
        else:  # from one end of a commit to the other, so that no step of it is left out
            start, stop = draw.choice(windows)
            event = start + int((stop - start) * (trial - 20 + draw.random()) / 15)
        folder = memory_folder / str(trial)
        log = server.run(folder, event=event)
        assert log[-1][0] != "done"
        hit.add(next(fields[1] for fields in reversed(log) if fields[0] == "begin"))
        check_after_kill(folder, log)
    assert hit == set(KINDS)


def test_killed_from_outside(server, memory_folder):
    """15 moments of the clock, in the middle of a system call or not."""
    started = time.monotonic()
    server.run(memory_folder / "whole")
    whole = time.monotonic() - started
    draw = random.Random(20240204)
    for trial in range(15):
        folder = memory_folder / str(trial)
        log = server.run(folder, seconds=whole * (trial + draw.random()) / 15)
        check_after_kill(folder, log)


if __name__ == "__main__":
    serve()
