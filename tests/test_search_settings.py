"""The settings of a search: filter, weights and modes, and each that is out of range."""

from __future__ import annotations

import math
from typing import Any

import pytest
from searching import TEXTS, make_searcher

from m3search.errors import ConfigError
from m3search.records import MODES, Document, Mode, Query
from m3search.stores.filter import Filter


def test_filter_holds_in_every_stage() -> None:
    documents = [
        Document(str(i), text, metadata={"lang": "de" if i % 2 else "en"})
        for i, text in enumerate(TEXTS)
    ]
    for modes in (("dense",), ("sparse",), ("multi",), MODES):
        hits = make_searcher(documents).search("late", modes=modes, filter="lang=de")
        assert {hit.document.id for hit in hits} <= {"1", "3", "5"}
        assert hits
    assert make_searcher(documents).search("late", filter="lang=xx") == []
    parsed = Filter.parse("lang=de")
    assert make_searcher(documents).search("late", filter=parsed) == make_searcher(
        documents
    ).search("late", filter="lang=de")
    with pytest.raises(ConfigError, match="conditions joined by commas"):
        make_searcher(documents).search("late", filter="lang")
    run = make_searcher(documents).run([Query("q", "late")], filter="lang=de")
    assert set(run["q"]) == {"1", "3", "5"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "k: expected a whole number from 1 up, found 0"),
        ({"k": 1.5}, "k: expected a whole number"),
        ({"depth": 0}, "depth: expected a whole number from 1 up, found 0"),
        ({"modes": ("sparce",)}, "Did you mean 'sparse'"),
        ({"modes": ()}, "modes: expected a sequence"),
        ({"modes": "dense"}, "modes: expected a sequence"),
        ({"weights": (1, 2)}, "weights: expected three numbers"),
        ({"weights": (1, -1, 1)}, "-1.0 for sparse"),
        ({"weights": (1, math.nan, 1)}, "nan for sparse"),
        ({"weights": (1, 1, math.inf)}, "inf for multi"),
        ({"weights": (0, 0, 0)}, "only zeros"),
        ({"weights": (1, 0, 0), "modes": ("sparse", "multi")}, "a weight above 0 for sparse or"),
        ({"weights": (1, -1, 1), "modes": ("sparse",)}, "-1.0 for sparse"),
        ({"weights": ("a", 0, 1)}, "weights: expected numbers"),
        ({"weights": {"dense": 1}}, "none for sparse, multi"),
        ({"weights": {"dens": 1}}, "Did you mean 'dense'"),
        ({"missing": "none"}, "missing: expected one of exact, min, zero"),
        ({"candidates": "sparse"}, "candidates: expected one of dense, union"),
    ],
)
def test_a_setting_out_of_range_is_named(given: dict[str, Any], message: str) -> None:
    for searcher in (make_searcher(), make_searcher([])):
        with pytest.raises(ConfigError, match=message):
            searcher.search("late", **given)
        with pytest.raises(ConfigError, match=message):
            searcher.run([], **given)


def test_weights_as_a_mapping_and_a_weight_of_zero() -> None:
    searcher = make_searcher()
    as_tuple = searcher.search("late tea", weights=(2, 0, 1))
    assert searcher.search("late tea", weights={"dense": 2, "multi": 1, "sparse": 0}) == as_tuple
    for hit in as_tuple:
        assert hit.score == pytest.approx(2 * hit.scores["dense"] + hit.scores["multi"], abs=1e-6)
    only = searcher.search("late tea", weights={"sparse": 5}, modes=["sparse"])
    assert all(hit.score == hit.scores["sparse"] for hit in only)


def test_the_index_says_the_weights_that_are_not_given() -> None:
    searcher = make_searcher()
    asked = searcher.search("late tea", weights=(0.5, 2, 0))
    run = searcher.run([Query("1", "late tea")], weights=(0.5, 2, 0))
    searcher.index.manifest.fusion_weights = (0.5, 2.0, 0.0)
    assert searcher.search("late tea") == asked != searcher.search("late tea", weights=(1, 0.3, 1))
    assert searcher.run([Query("1", "late tea")]) == run


@pytest.mark.parametrize("mode", MODES)
def test_one_mode_alone_weighs_1_whatever_was_given(mode: Mode) -> None:
    searcher = make_searcher()
    expected = searcher.search("late tea", modes=[mode])
    assert searcher.search("late tea", modes=[mode], weights=(0, 0, 0)) == expected
    assert all(hit.score == hit.scores[mode] for hit in expected)


def test_modes_in_any_order_are_one_question() -> None:
    searcher = make_searcher()
    assert searcher.search("late", modes=("multi", "dense", "dense")) == searcher.search(
        "late", modes=("dense", "multi")
    )


def test_what_is_no_text_and_no_filter_is_named() -> None:
    searcher = make_searcher()
    for text in (None, ["a", "b"], 3):
        with pytest.raises(ConfigError, match="search: expected one text"):
            searcher.search(text)  # type: ignore[arg-type]
    for condition in ({"lang": "en"}, 5):
        with pytest.raises(ConfigError, match="filter: expected a condition"):
            searcher.search("a", filter=condition)  # type: ignore[arg-type]
