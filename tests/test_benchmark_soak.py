"""The soak benchmark: what its readers find wrong, and what they wait for."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from m3search.index import Index
from m3search.records import MODES, Document

sys.path.insert(0, str(Path(__file__).parent.parent / "eval" / "benchmarks"))
soak: Any = import_module("soak")


def test_a_reader_finds_what_an_index_answers_wrongly(tmp_path: Path) -> None:
    state = {f"d{number}": number for number in range(40)}
    documents = [Document(name, soak.text_of(number)) for name, number in state.items()]
    index = Index.build(tmp_path / "index", documents, soak.Numbers(), multi_codec="fp16")
    query = soak.Numbers().encode(["7"], "query")

    def complaints(wrong: dict[str, int]) -> list[str]:
        shadow = soak.Shadow(wrong)
        return [shadow.complaint(index, mode, query) for mode in MODES]

    assert complaints(state) == ["", "", ""]
    without = {name: number for name, number in state.items() if name != "d7"}
    assert all(complaints(without))  # what was deleted is found
    assert all(complaints(state | {"new": 7}))  # what was added is not found
    assert all(complaints(state | {"d7": 8, "d8": 7}))  # two have each other's content
    changed = soak.Shadow(state)
    changed._numbers = state | {"d7": 57}  # another text of the same vectors
    assert changed.complaint(index, "dense", query) == "dense: other texts"


def test_a_reader_waits_for_what_a_commit_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = soak.States(tmp_path)
    states.put(2, {"a": 1})
    states.put(5, {"b": 1})
    assert [soak.States(tmp_path).at(commit) for commit in (1, 2, 3, 5)] == (
        [{"a": 1}, {"a": 1}, {"b": 1}, {"b": 1}]
    )
    monkeypatch.setattr(soak, "PATIENCE", 0.01)
    with pytest.raises(TimeoutError, match="commit 6"):
        states.at(6)
