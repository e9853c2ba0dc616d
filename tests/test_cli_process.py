"""The command line as a process of its own: pipes, signals, terminals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.cells import cell_len

DOCUMENTS = [
    {"_id": "late", "title": "Late interaction", "text": "A vector for each token."},
    {"_id": "茶", "title": "茶", "text": "绿茶 和 咖啡 late"},
    {"_id": "dense", "text": "One [vector] for each text."},
    {
        "_id": "long",
        "text": "enough " + "我们今天喝绿茶和咖啡" * 6 + " and words that go on and on and on",
    },
]

PROGRAM = """
import os, signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
if os.isatty(0):  # the first terminal that a new session opens is its own, with Ctrl-C
    os.close(os.open(os.ttyname(0), os.O_RDWR))
sys.path[:0] = {paths!r}
from searching import LoadedEncoder
stand_in = types.ModuleType("m3search.encoder")
stand_in.Encoder = LoadedEncoder
sys.modules["m3search.encoder"] = stand_in
def encode(texts):
    if {sleep}:
        print("encoding", file=sys.stderr, flush=True)
        time.sleep({sleep})
LoadedEncoder.before_encoding = staticmethod(encode)
from m3search.cli import main
main(sys.argv[1:])
"""


def program(*arguments: str, sleep: float = 0) -> list[str]:
    here = Path(__file__).parent
    code = PROGRAM.format(paths=[str(here), str(here.parent)], sleep=sleep)
    return [sys.executable, "-c", code, *arguments]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = "".join(json.dumps(document) + "\n" for document in DOCUMENTS)
    Path("corpus.jsonl").write_text(lines)


@pytest.fixture
def indexed() -> None:
    subprocess.run(program("index", "corpus.jsonl"), check=True, capture_output=True, timeout=60)


def test_a_reader_that_leaves_is_no_error(indexed: None) -> None:
    queries = "late\n" * 3000
    process = subprocess.Popen(
        program("query", "--json"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    os.set_blocking(process.stdin.fileno(), False)
    process.stdin.write(queries.encode())
    with contextlib.suppress(BlockingIOError):
        process.stdin.close()
    assert process.stdout.readline().startswith(b"{")
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 0


def test_ctrl_c_is_quiet() -> None:
    process = subprocess.Popen(
        program("index", "corpus.jsonl", sleep=30), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr
    assert process.stderr.readline() == b"encoding\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"stopped: nothing is committed yet\n")


def talk(arguments: Sequence[str], said: Sequence[str], width: int = 60) -> tuple[int, str]:
    """What a terminal of that width shows, and the exit status; each answer awaits a prompt."""
    environment = os.environ | {"COLUMNS": str(width), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        arguments, stdin=inside, stdout=inside, stderr=inside, env=environment,
        start_new_session=True,
    )  # fmt: skip
    os.close(inside)
    shown, waiting, latest = b"", list(said), b""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 2)[0]:
            if latest == b"\x03":  # input() misses a signal that comes just before it listens
                os.write(terminal, latest)
            continue
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
        if waiting and shown.endswith(b"m3search> "):
            latest = waiting.pop(0).encode()
            os.write(terminal, latest)
    os.close(terminal)
    return process.wait(10), shown.decode()


def test_the_prompt_answers_until_it_is_left(indexed: None) -> None:
    for leave in (":q\n", "\x04"):
        code, shown = talk(program("query", "-k", "1"), ["late\n", "\n", "咖啡\n", leave])
        assert code == 0, shown
        assert "4 documents, model word-hash; :q quits" in shown
        assert shown.count("m3search> ") == 4
        assert len(re.findall(r"multi .*  (?:\x1b\[36m)?(?:late|茶|dense|long)", shown)) == 2
        assert "Traceback" not in shown
    code, shown = talk(program("query", "-k", "1"), ["late\n", "\x03"])
    assert code == 130
    assert "Traceback" not in shown and "Aborted" not in shown


def test_a_narrow_terminal_wraps_and_marks_in_colour(indexed: None) -> None:
    code, shown = talk(program("query", "enough", "--modes", "sparse"), [], width=40)
    assert code == 0
    assert "\x1b[1;33menough\x1b[0m" in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r", "")
    assert all(cell_len(row.rstrip()) <= 40 for row in plain.splitlines())
    assert "我们今天喝绿茶和咖啡" in re.sub(r"\s+", "", plain)
