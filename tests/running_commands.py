"""The command line run in the process of the tests, in a folder with a small corpus."""

from __future__ import annotations

import io
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from searching import LoadedEncoder

from m3search.cli import main

DOCUMENTS = [
    {"_id": "late", "title": "Late interaction", "text": "A vector for each token.", "lang": "en"},
    {"_id": "茶", "title": "茶", "text": "绿茶 和 咖啡 late", "lang": "zh", "year": 2001},
    {"_id": "dense", "text": "One [vector] for each text.", "lang": "en", "year": 1999},
]


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(name="place", autouse=True)
def folder_of_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in = types.ModuleType("m3search.encoder")
    stand_in.Encoder = LoadedEncoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "m3search.encoder", stand_in)
    monkeypatch.setattr(LoadedEncoder, "loads", [])
    monkeypatch.chdir(tmp_path)
    lines = "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in DOCUMENTS)
    Path("corpus.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


@pytest.fixture(name="m3")
def command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Result]:
    import m3search.index  # noqa: F401  (finds its compiled loops in the user's own cache)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
        if stdin is not None:
            raw = stdin if isinstance(stdin, bytes) else stdin.encode()
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), "utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, err = capsys.readouterr()
        return Result(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture(name="indexed")
def command_line_with_index(m3: Callable[..., Result]) -> Callable[..., Result]:
    assert m3("index", "corpus.jsonl").code == 0
    return m3


def lines_of(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(name="judged")
def folder_of_a_judged_set(place: Path) -> Path:
    """A BEIR folder `tiny` of the three documents and two queries."""
    folder = place / "tiny"
    (folder / "qrels").mkdir(parents=True)
    (place / "corpus.jsonl").rename(folder / "corpus.jsonl")
    queries = [{"_id": "q1", "text": "late token"}, {"_id": "q2", "text": "one vector text"}]
    (folder / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    judgements = "query-id\tcorpus-id\tscore\nq1\tlate\t1\nq2\tdense\t1\n"
    (folder / "qrels" / "test.tsv").write_text(judgements)
    return folder
