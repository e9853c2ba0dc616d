"""`m3search eval` of names: data sets that are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hub_copies import Hub, put_miracl
from running_commands import (  # noqa: F401
    command_line,
    folder_of_a_test,
    lines_of,
)

TEXTS = {"1#0": ("Tea", "a drink"), "2#0": ("Rice", "a grain"), "3#0": ("", "untitled")}
QUERIES = {"q1": "what is tea", "q2": "une boisson", "q3": "not judged"}
JUDGED = {"q1": {"1#0": 1, "2#0": 0}, "q2": {"1#0": 1}}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(tmp_path / "hub", monkeypatch)


def test_eval_of_a_data_set(m3: Any, hub: Hub, place: Path) -> None:
    put_miracl(hub, "yo", TEXTS, QUERIES, JUDGED)
    options = ("--data", "sets", "--rows", "sparse", "--json")
    result = m3("eval", "miracl/yo", *options)
    assert result.code == 0, result.err
    (found,) = lines_of(result.out)
    assert list(found["sets"]) == ["miracl-yo"]
    assert found["sets"]["miracl-yo"]["settings"]["split"] == "dev"
    assert "fetching miracl/yo from" in result.err
    assert result.err.endswith("report in eval/reports/miracl-yo/report.md\n")
    wrong = m3("eval", "miracl/yoo", *options)
    assert wrong.code == 1 and "Did you mean miracl/yo" in wrong.err
