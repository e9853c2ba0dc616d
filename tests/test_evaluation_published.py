"""Values of ours beside published ones: cells, differences and averages."""

from __future__ import annotations

import json

import pytest
from evaluation_pages import page_of

from m3search.evaluation import Experiment, Report, SetResult
from m3search.evaluation.markdown import markdown
from m3search.evaluation.presets import find_preset
from m3search.evaluation.published import compare_published
from m3search.evaluation.tables import published_table, to_markdown


def result(name: str, published: str, means: dict[str, dict[str, float]]) -> SetResult:
    queries = {row: {m: {"q": v} for m, v in by.items()} for row, by in means.items()}
    measures = tuple(dict.fromkeys(m for by in means.values() for m in by))
    report = Report(measures, 1, means, queries, dict.fromkeys(means, 0))
    details = {
        "counts": {"documents": 1, "queries": 1, "judgements": 1},
        "settings": {
            "split": "dev", "k": 1, "depth": 1, "missing": "exact", "candidates": "union",
            "max_length": 1, "title_template": "{text}", "weights": {},
        },
        "seconds": {},
    }  # fmt: skip
    return SetResult(name, report, details | ({"published": published} if published else {}))


def test_cells_differences_and_the_average_of_what_was_run() -> None:
    yo = result("a", "miracl/yo", {"dense": {"nDCG@10": 0.8}, "all": {"nDCG@10": 0.84, "R@100": 1}})
    sw = result("b", "miracl/sw", {"dense": {"nDCG@10": 0.8, "R@100": 0.9}, "bm25": {"nDCG@10": 0}})
    other = result("c", "", {"dense": {"nDCG@10": 0.1}})
    [found] = compare_published([yo, sw, other])
    assert (found.preset, found.table.measure, found.table.place) == (
        "miracl",
        "nDCG@10",
        "Table 1",
    )
    assert found.to_json()["rows"] == {
        "dense": {
            "sets": {
                "a": pytest.approx({"ours": 0.8, "published": 0.818, "difference": -0.018}),
                "b": pytest.approx({"ours": 0.8, "published": 0.787, "difference": 0.013}),
            },
            "average": pytest.approx(
                {"ours": 0.8, "published": 0.8025, "difference": -0.0025, "sets": 2}
            ),
        },
        "all": {
            "sets": {"a": pytest.approx({"ours": 0.84, "published": 0.835, "difference": 0.005})},
            "average": pytest.approx(
                {"ours": 0.84, "published": 0.835, "difference": 0.005, "sets": 1}
            ),
        },
    }
    text = to_markdown(Experiment((yo, sw, other), {}))
    assert "Our bm25" not in text  # of Swahili nothing is published for it
    part = text[text.index("## nDCG@10 on miracl") :].splitlines()
    assert part[2:7] == [
        "| set | dense | all |",
        "|---|---:|---:|",
        "| a | 80.0 (81.8, -1.8) | 84.0 (83.5, +0.5) |",
        "| b | 80.0 (78.7, +1.3) |  |",
        "| average | 80.0 (80.2, -0.2) | 84.0 (83.5, +0.5) |",
    ]
    page = page_of(yo, sw, other)
    title = "nDCG@10 on miracl beside the published values"
    assert page.table(title)[1] == ["a", "80.0 (81.8, -1.8)", "84.0 (83.5, +0.5)"]
    assert "published" not in Experiment((other,), {}).to_json()
    assert "published" not in to_markdown(Experiment((other,), {}))


def test_another_bm25_than_the_published_one_is_told() -> None:
    every = []
    for language in find_preset("miracl").languages:
        each = result(f"m-{language}", f"miracl/{language}", {"bm25": {"nDCG@10": 0.4}})
        each.details["bm25"] = {"implementation": "bm25s 0.2", "k1": 1.2, "b": 0.75}
        every.append(each)
    (found,) = compare_published(every)
    assert found.rows["bm25"].average is not None
    note = "Our bm25 is bm25s 0.2 with k1 1.2, b 0.75; what pyserini has by default, as there"
    assert note in markdown(published_table(found))
    for each in every:  # that of Lucene goes before, where it is there
        each.report.means["bm25-lucene"] = {"nDCG@10": 0.385}
        each.details["bm25-lucene"] = {"implementation": "Lucene 9", "k1": 0.9, "b": 0.4}
    (found,) = compare_published(every)
    assert found.rows["bm25"].average is not None and found.rows[
        "bm25"
    ].average.ours == pytest.approx(0.385)
    assert found.bm25 == ("Lucene 9 with k1 0.9, b 0.4",)


def test_all_languages_have_the_average_of_the_paper() -> None:
    """Also in a measure of which it has no single language."""
    languages = find_preset("miracl").languages
    means = {"dense": {"nDCG@10": 0.5, "R@100": 0.9}}
    every = [result(f"m-{each}", f"miracl/{each}", means) for each in languages]
    ndcg, recall = compare_published(every)
    assert ndcg.rows["dense"].average is not None and recall.rows["dense"].average is not None
    assert ndcg.rows["dense"].average.published == pytest.approx(0.692)
    assert recall.rows["dense"].average.to_json() == pytest.approx(
        {"ours": 0.9, "published": 0.955, "difference": -0.055}
    )
    assert (recall.rows["dense"].sets, recall.rows["dense"].languages) == ({}, 18)
    assert "| average | 90.0 (95.5, -5.5) |" in markdown(published_table(recall))
    assert len(compare_published(every[1:])) == 1
    found = json.loads(json.dumps(Experiment(tuple(every), {}).to_json()))
    assert found["published"]["miracl"]["R@100"]["rows"]["dense"]["average"]["sets"] == 18
