"""`m3search eval` of names: data sets that are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hub_copies import JUDGED, QUERIES, TEXTS, Hub, hub_of_a_test, put_miracl  # noqa: F401
from running_commands import (  # noqa: F401
    command_line,
    folder_of_a_test,
    lines_of,
)


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


def test_eval_of_a_preset(m3: Any, hub: Hub, place: Path) -> None:
    for language in ("yo", "sw"):
        put_miracl(hub, language, TEXTS, QUERIES, JUDGED)
    options = ("--lang", "yo,sw", "--data", "sets", "--rows", "sparse,all", "--json")
    result = m3("eval", "miracl", *options)
    assert result.code == 0, result.err
    (found,) = lines_of(result.out)
    assert list(found["sets"]) == ["miracl-yo", "miracl-sw"]
    settings = found["sets"]["miracl-sw"]["settings"]
    assert (settings["depth"], settings["lexical_weights"]) == (1000, "ceil100")
    assert settings["row_settings"]["all"] == {"depth": 200, "candidates": "dense"}
    beside = found["published"]["miracl"]["nDCG@10"]["rows"]["all"]
    assert beside["sets"]["miracl-yo"]["published"] == 0.835
    assert beside["average"]["sets"] == 2
    text = (place / "eval" / "reports" / "miracl" / "report.md").read_text()
    assert "## nDCG@10 on miracl beside the published values" in text
    tuned = m3(
        "tune", "miracl", "--lang", "yo", "--data", "sets", "--from-scores", "eval/reports/miracl"
    )
    assert tuned.code == 0, tuned.err
    wrong = m3("eval", "mircl")
    assert wrong.code == 1 and "Did you mean miracl?" in wrong.err
