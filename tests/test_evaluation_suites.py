"""Suites: the settings of their sets, and how each mistake in them is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from evaluation_fakes import make_set

import m3search
from m3search.errors import ConfigError
from m3search.evaluation import EvaluationSet, load_sets
from m3search.evaluation.depths import retrieved
from m3search.evaluation.suite import ROWS, MultiCodec, modes_of
from m3search.stores.codecs import CODECS
from m3search.stores.manifest import Layout

SUITES = Path(__file__).parent.parent / "eval" / "suites"
MODELS = Path(m3search.__file__).parent / "models"


def test_a_folder_needs_no_other_file(tmp_path: Path) -> None:
    [found] = load_sets([make_set(tmp_path / "animals")])
    assert found == EvaluationSet(tmp_path / "animals", "animals")
    assert found.rows == ROWS
    assert found.measures == ("nDCG@10", "R@100")


def test_a_suite_gives_its_settings_to_its_sets(tmp_path: Path) -> None:
    path = tmp_path / "suites" / "s.toml"
    path.parent.mkdir()
    path.write_text(
        """
        description = "both"
        depth = 50
        language = "en"
        rows = ["dense", "bm25"]
        [[sets]]
        path = "../one"
        [[sets]]
        path = "/far/two"
        name = "second"
        split = "dev"
        depth = 7
        language = "de"
        max_length = 128
        weights = [1, 0, 0.5]
        measures = ["RR@10"]
        multi_codec = "fp16"
        """
    )
    one, two = load_sets([path])
    assert (one.layout, two.layout) == (Layout(), Layout(multi_codec="fp16"))
    assert get_args(MultiCodec) == (*CODECS,)
    assert one.path == path.parent / "../one" and one.name == "one"
    assert (one.depth, one.language, one.rows) == (50, "en", ("dense", "bm25"))
    assert one.weights is None and one.max_length is None
    assert (two.path, two.name, two.split, two.depth) == (Path("/far/two"), "second", "dev", 7)
    assert (two.language, two.max_length, two.weights) == ("de", 128, (1.0, 0.0, 0.5))
    assert two.measures == ("RR@10",) and two.rows == ("dense", "bm25")
    one, two = load_sets([path], data="/data", settings=["depth=9", "sets.2.split=test"])
    assert one.path == Path("/data/../one") and two.path == Path("/far/two")
    assert (one.depth, two.depth, two.split) == (9, 9, "test")  # before what a set says
    one, two = load_sets([path], settings=["depth=9", "sets.2.depth=8", "row_settings.all.depth=5"])
    assert (one.depth, two.depth) == (9, 8)
    assert {each.row_settings["all"].depth for each in (one, two)} == {5}


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("dpeth = 3\n[[sets]]\npath = 'a'", "key dpeth", "'depth'"),
        ("[[sets]]\npath = 'a'\nsplt = 'x'", "key sets.1.splt", "'split'"),
        ("[[sets]]\nname = 'a'", "key sets.1", "the key path"),
        ("sets = []", "s.toml", "no [[sets]]"),
        ("name = 'x'\n[[sets]]\npath = 'a'", "key name", "expected one of answers, bm25"),
        ("depth = 'x'\n[[sets]]\npath = 'a'", "s.toml, key depth", "a whole number"),
        ("missing = 'zeroes'\n[[sets]]\npath = 'a'", "s.toml, key missing", "'zero'"),
        ("[[sets]]\npath = 'a'\ntitle_template = 'x'", "key sets.1.title_template", "{text}"),
        ("[[sets]]\npath = 3", "key sets.1.path", "a path"),
        ("[[sets]]\npath = 'a'\nmeasures = ['ndcg@10']", "key sets.1.measures", "'nDCG@10'"),
        ("[[sets]]\npath = 'a'\nrows = ['dense+spars']", "key sets.1.rows", "'sparse'"),
        ("[[sets]]\npath = 'a'\nrows = ['dense+dense']", "key sets.1.rows", "different modes"),
        ("rows = []\n[[sets]]\npath = 'a'", "s.toml", "no rows"),
        ("[[sets]]\npath = 'a'\nrun_files = { all = 'x' }", "key sets.1.run_files", "'all'"),
        ("[[sets]]\npath = 'a'\nrun_files = { 'a/b' = 'x' }", "key sets.1", "'a/b'"),
        ("[[sets]]\npath = 'a'\ndepth = 0", "key sets.1", "below 1"),
        ("[[sets]]\npath = 'a'\nname = 'a/b'", "key sets.1", "'a/b'"),
        ("[[sets]]\npath = 'a'\nweights = [1, -1, 1]", "key sets.1", "from 0 to"),
        ("[[sets]]\npath = 'a'\n[[sets]]\npath = 'b/a'", "sets", "'a' twice"),
        ("published = 'mkqa/de'\n[[sets]]\npath = 'a'\n[[sets]]\npath = 'b'", "sets", "of two"),
        ("[row_weights]\nall = [1, -1, 1]\n[[sets]]\npath = 'a'", "s.toml", "from 0 to"),
        ("[row_weights]\nal = [1, 1, 1]\n[[sets]]\npath = 'a'", "key row_weights", "'all'"),
        ("[row_weights]\nmulti = [1, 1, 1]\n[[sets]]\npath = 'a'", "row_weights", "'multi'"),
        ("[row_weights]\nbm25 = [1, 1, 1]\n[[sets]]\npath = 'a'", "row_weights", "'bm25'"),
        (
            "[[sets]]\npath = 'a'\n[sets.row_weights]\nall = [1, 1, 1]\n"
            "'multi+sparse+dense' = [1, 1, 1]",
            "key sets.1.row_weights",
            "each once",
        ),
        ("[[sets]]\npath = 'a'\n[sets.row_weights]\nall = [1]", "row_weights.all", "a list of 3"),
    ],
)
def test_a_wrong_suite(tmp_path: Path, text: str, where: str, said: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_sets([path])
    assert where in caught.value.where
    assert said in str(caught.value)


def test_rows_and_their_modes() -> None:
    assert modes_of("all") == ("dense", "sparse", "multi")
    assert modes_of("multi+dense") == ("dense", "multi")
    assert modes_of("sparse") == ("sparse",)
    assert modes_of("bm25") is None


def test_weights_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        """
        weights = [1, 1, 1]
        row_weights = { "sparse+dense" = [0.2, 0.8, 0], all = [0.15, 0.5, 0.35] }
        rows = ["multi", "dense+sparse", "all", "dense+multi", "bm25"]
        [[sets]]
        path = "shared"
        [[sets]]
        path = "own"
        weights = [2, 2, 2]
        [[sets]]
        path = "both"
        weights = [2, 2, 2]
        [sets.row_weights]
        all = [1, 0, 3]
        """
    )
    shared, own, both = load_sets([path])
    plans = shared.plans(100)
    assert list(plans) == ["multi", "dense+sparse", "all", "dense+multi"]
    assert [dict(plan.weights) for plan in plans.values()] == [
        {"multi": 1}, {"dense": 0.2, "sparse": 0.8},
        {"dense": 0.15, "sparse": 0.5, "multi": 0.35}, {"dense": 1, "multi": 1},
    ]  # fmt: skip
    assert shared.weights_of("dense+sparse") == (0.2, 0.8, 0)
    assert own.weights_of("all") == own.weights_of("dense+sparse") == (2, 2, 2)
    assert (both.weights_of("all"), both.weights_of("dense+sparse")) == ((1, 0, 3), (2, 2, 2))
    alone = EvaluationSet(tmp_path, depth=7)
    assert alone.weights_of("all") is None
    assert {plan.depth for plan in alone.plans(5).values()} == {7}
    assert dict(alone.plans(5)["all"].weights) == {"dense": 1, "sparse": 0.3, "multi": 1}


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_suite_of_the_repository_can_be_run(path: Path) -> None:
    sets = load_sets([path], data="/data")
    assert sets and all(each.plans(100) and each.path.parent == Path("/data") for each in sets)


def test_the_report_on_m3_mini_is_of_its_suites(tmp_path: Path) -> None:
    """What a suite says today is what the committed report was made with."""
    place = SUITES.parent / "reports" / "m3-mini" / "report.json"
    report = json.loads(place.read_text(encoding="utf-8"))["sets"]
    sets = load_sets([SUITES / "mini.toml", SUITES / "mini-cut.toml"], data=tmp_path)
    assert [each.name for each in sets] == [*report]
    model = json.loads((MODELS / "m3-mini" / "m3.json").read_text(encoding="utf-8"))
    names = ("split", "missing", "candidates", "lexical_weights", "multi_codec", "title_template")
    for each in sets:
        found = report[each.name]
        settings, plans = found["settings"], each.plans(retrieved(each), model["fusion_weights"])
        assert settings["weights"] == {row: dict(plan.weights) for row, plan in plans.items()}
        assert {name: settings[name] for name in names} == {n: getattr(each, n) for n in names}
        assert (settings["k"], settings["depth"]) == (retrieved(each), each.depth)
        assert settings["max_length"] == (each.max_length or 8192)
        assert {*each.rows, *each.fused} <= found["rows"].keys()
        assert all([*values] == [*each.measures] for values in found["rows"].values())
