"""report.html: one page that needs nothing else, with the numbers of report.json."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import Log, make_set
from evaluation_pages import Page, page_of
from evaluation_results import STAGES, result

from m3search.corpus import write_run
from m3search.evaluation import EvaluationSet, ReportFolder, evaluate_sets
from m3search.evaluation.figures import DEPTHS, Landscape, SetFigures
from m3search.evaluation.style import STYLE

HOSTILE = "<script src=\"http://x.invalid/a.js\">alert('&')</script>\x00"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two sets, one of them with the run of another system."""
    place = tmp_path_factory.mktemp("report")
    write_run(place / "other.trec", {"q1": {"d3": 1.0}})
    one = EvaluationSet(make_set(place / "one"), run_files={"other": str(place / "other.trec")})
    two = EvaluationSet(make_set(place / "two", judged={"q1": {"d3": 1}}), language="en")
    log, folder = Log(), ReportFolder(place / "out")
    folder.finish(
        evaluate_sets([one, two], log.encoders, engine=log.engine(), keep=folder.add,
                      latencies=True)
    )  # fmt: skip
    return place


def test_the_numbers_of_the_page_are_those_of_the_report(made: Path) -> None:
    page = Page.read(made / "out" / "report.html")
    report = json.loads((made / "out" / "report.json").read_text())
    bars, curves = page.marks("quality-plot"), page.marks("recall-plot")
    for name, found in report["sets"].items():
        for row, values in found["rows"].items():
            assert bars.pop(f"{name}, {row}") == f"{100 * values['nDCG@10']:.1f}"
            table = {line[0]: line for line in page.table("R@100")}
            column = table["set"].index(row)
            assert table[name][column] == f"{100 * values['R@100']:.1f}"
        [latency] = [line for line in page.table("Latency") if line[0] == name]
        for stage, cell in zip(page.table("Latency")[0][1:], latency[1:], strict=True):
            timed = found["stages_ms"][stage]
            assert cell == f"{timed['p50']:.1f} / {timed['p95']:.1f}"
        assert page.table("Bytes of a document")[1] == ["one", "375000", "125000"]
    for row, values in report["mean"]["rows"].items():
        assert bars.pop(f"mean of all sets, {row}") == f"{100 * values['nDCG@10']:.1f}"
        assert curves[f"{row}, R@100"] == f"{100 * values['R@100']:.1f}"
    assert not bars
    assert "other, R@100" not in curves  # only one of the sets has it
    assert set(page.marks("latency-plot")) == {*report["mean"]["rows"]}


def test_a_page_from_component_scores_lacks_what_needs_a_search(made: Path, tmp_path: Path) -> None:
    log, folder = Log(), ReportFolder(tmp_path / "again")
    sets = [EvaluationSet(made / name, rows=("dense", "all", "bm25")) for name in ("one", "two")]
    scores = made / "out" / "scores"
    folder.finish(evaluate_sets(sets, log.encoders, scores=scores, keep=folder.add, latencies=True))
    again = Page.read(tmp_path / "again" / "report.html")
    first = Page.read(made / "out" / "report.html")
    assert again.marks("weights-plot") == first.marks("weights-plot")
    assert again.plot("latency-plot") is None  # a point alone would compare nothing
    assert [len(line) for line in again.table("Latency")] == [2, 2, 2]
    assert again.table("Latency")[0] == ["set", "bm25"]
    assert again.plot("quality-plot") is not None


def test_the_page_asks_for_nothing_and_every_plot_is_described(made: Path) -> None:
    page = Page.read(made / "out" / "report.html")
    tags = {each.tag for each in page.root.iter()}
    assert not tags & {"script", "link", "img", "image", "use", "iframe", "object", "embed"}
    for each in page.root.iter():
        for name, value in each.attrib.items():
            local = name != "href" or value[1:] in page.ids
            assert local and name not in ("src", "srcset", "style") and not name.startswith("on")
    assert not re.search(r"url\(|@import|https?://", STYLE + page.text)
    plots = list(page.root.iter("svg"))
    assert len(plots) >= 6
    for plot in plots:
        described = [each for each in plot if each.tag in ("title", "desc")]
        assert [each.attrib["id"] for each in described] == plot.attrib["aria-labelledby"].split()
        assert all(len(each.text or "") > 10 for each in described)
    assert len(page.ids) == len(set(page.ids))
    figures = list(page.root.iter("figure"))
    assert all(len(figure.findtext("figcaption") or "") > 60 for figure in figures)
    used = {word for each in page.root.iter() for word in each.attrib.get("class", "").split()}
    styled = set(re.findall(r"\.([a-z][\w-]*)", STYLE))
    assert used - styled == {"label", "frame"}


class Reader(HTMLParser):
    """Elements as a browser opens and closes them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.seen.add(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_names_are_words_and_never_markup() -> None:
    rows, name = ("dense", "all", HOSTILE), f"set {HOSTILE}"
    sets = [
        result(name if number == 1 else f"{number}", rows, group=f"{number % 2} {HOSTILE}")
        for number in range(12)
    ]
    for some in (sets[1:2], sets[1:4], sets):
        page = page_of(*some, notes=(HOSTILE,))
        reader = Reader(page.text)
        assert not reader.open and "script" not in reader.seen
        assert not [each for each in page.root.iter() if each.tag == "script"]
        shown = HOSTILE.replace("\x00", "\ufffd")
        assert shown in page.words and f"set {shown}" in page.words
        assert "m3search eval <a> & b" in page.words
        assert page.table("Settings")[1][7] == '"{title} & <{text}>"'


def test_few_sets_have_bars_and_many_have_dots_beside_the_means_of_groups() -> None:
    sets = [result(f"s{number}", group=f"g{number % 2}") for number in range(9)]
    few = page_of(*sets[:8])
    assert few.plot("sets-plot") is None
    assert {words.split(",")[0] for words in few.marks("quality-plot")} == {
        *(f"s{number}" for number in range(8)), "mean of g0", "mean of g1", "mean of all sets",
    }  # fmt: skip
    assert few.plot("queries-plot-8") is not None
    many = page_of(*sets)
    dots = many.marks("sets-plot")
    assert len(dots) == 9 * 3
    for each in sets:
        for row, values in each.report.means.items():
            assert dots[f"{each.name}, {row}"] == f"{100 * values['nDCG@10']:.1f}"
    assert {words.split(",")[0] for words in many.marks("quality-plot")} == {
        "mean of g0", "mean of g1", "mean of all sets",
    }  # fmt: skip
    circles = many.marks("queries-plot-1")
    assert many.plot("queries-plot-2") is None
    assert sum(map(int, circles.values())) == 9 * 3


def test_queries_are_compared_with_bm25_or_with_dense() -> None:
    for rows, other in ((("dense", "all", "bm25"), "bm25"), (("dense", "all"), "dense")):
        found = result("one", rows)
        by_row = {row: values["nDCG@10"] for row, values in found.report.per_query.items()}
        pairs = [(by_row[other][query], by_row["all"][query]) for query in by_row["all"]]
        page = page_of(found)
        shown = [f"{100 * round(x, 2):.1f}, all {100 * round(y, 2):.1f}" for x, y in pairs]
        assert page.marks("queries-plot-1") == {
            f"queries with {other} {each}": str(shown.count(each)) for each in shown
        }
        better = sum(y > x for x, y in pairs)
        assert f"one: better {better}, worse {sum(y < x for x, y in pairs)}" in page.words
    assert page_of(result("one", ("bm25",))).plot("queries-plot-1") is None


def test_a_row_costs_the_sum_of_its_stages() -> None:
    page = page_of(result("one"), result("two"))
    assert {row: said.split(" in ")[1] for row, said in page.marks("latency-plot").items()} == {
        "dense": "8.5 ms", "all": "12.9 ms", "bm25": "0.0 ms",
    }  # fmt: skip
    untimed = {name: found for name, found in STAGES.items() if name != "score multi"}
    page = page_of(result("one"), result("two", stages_ms=untimed))
    assert set(page.marks("latency-plot")) == {"dense", "bm25"}
    page = page_of(result("one", stages_ms=None, bytes=None))
    assert page.plot("latency-plot") is None
    assert not {"Latency", "Bytes of a document"} & {
        table.findtext("caption") for table in page.root.iter("table")
    }


def landscape(used: tuple[float, float] | None, value: float, *more: float) -> SetFigures:
    steps = (tuple(sorted((0.0, 0.3, 1.0, *more))), (0.0, 1.0))
    values = value + 0.01 * np.arange(len(steps[0]) * 2, dtype=float).reshape(-1, 2)
    return SetFigures({"all": (0.5,) * len(DEPTHS)}, Landscape(steps, values, used, 3))


def test_the_map_of_weights_is_the_mean_of_the_sets() -> None:
    one, two = result("one"), result("two")
    page = page_of(one, two, figures={
        "one": landscape((0.3, 1.0), 0.2), "two": landscape((0.5, 1.0), 0.4, 0.5),
    })  # fmt: skip
    assert page.marks("weights-plot") == {
        "sparse 0, multi 0": "30.0", "sparse 0, multi 1": "31.0", "sparse 0.3, multi 0": "32.0",
        "sparse 0.3, multi 1": "33.0", "sparse 1, multi 0": "35.0", "sparse 1, multi 1": "36.0",
    }  # fmt: skip
    plot = page.plot("weights-plot")
    frames = [each for each in plot if each.attrib.get("class") == "frame"]  # type: ignore[union-attr]
    assert len(frames) == 2 * 2
    assert "sparse 0.3 with multi 1, sparse 0.5 with multi 1" in page.words
    assert page_of(one, figures={"one": landscape(None, 0.2)}).words.count("Framed") == 0
    assert page_of(one).plot("weights-plot") is None


def test_sets_without_a_common_row_or_measure_lack_plots_only() -> None:
    page = page_of(result("one", ("bm25",)), result("two", ("dense",)))
    assert page.plot("recall-plot") is None and page.plot("latency-plot") is None
    assert set(page.marks("quality-plot")) == {"one, bm25", "two, dense"}
