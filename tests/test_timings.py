"""Stages are measured for who asks, in the order in which they are met."""

from __future__ import annotations

import pytest

from m3search.timings import Timings, stage


def test_stages_stand_in_the_order_met_and_only_while_measured() -> None:
    with stage("before"):
        pass
    with Timings() as timings:
        for _ in range(3):
            with stage("whole"), stage("part"):
                pass
        with pytest.raises(ValueError, match="kept"), stage("failing"):
            raise ValueError("kept")
    with stage("after"):
        pass
    assert {name: len(each) for name, each in timings.seconds.items()} == {
        "whole": 3,
        "part": 3,
        "failing": 1,
    }
    assert all(w >= p for w, p in zip(*list(timings.seconds.values())[:2], strict=True))


def test_percentiles_are_in_milliseconds() -> None:
    timings = Timings()
    timings.seconds["encode"] = [0.001 * number for number in range(1, 102)]
    found = timings.milliseconds()["encode"]
    assert found == pytest.approx({"p50": 51, "p95": 96, "p99": 100})


def test_an_inner_measuring_takes_its_stages_from_the_outer() -> None:
    with Timings() as outer:
        with Timings() as inner, stage("inner"):
            pass
        with stage("outer"):
            pass
    assert (list(outer.seconds), list(inner.seconds)) == (["outer"], ["inner"])
