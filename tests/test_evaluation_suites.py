"""Suites: the settings of their sets, and how each mistake in them is answered."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from evaluation_fakes import make_set

from m3search import plan
from m3search.errors import ConfigError
from m3search.evaluation import EvaluationSet, load_sets, suite
from m3search.evaluation.suite import ROWS, modes_of


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
        """
    )
    one, two = load_sets([path])
    assert one.path == path.parent / "../one" and one.name == "one"
    assert (one.depth, one.language, one.rows) == (50, "en", ("dense", "bm25"))
    assert one.weights is None and one.max_length is None
    assert (two.path, two.name, two.split, two.depth) == (Path("/far/two"), "second", "dev", 7)
    assert (two.language, two.max_length, two.weights) == ("de", 128, (1.0, 0.0, 0.5))
    assert two.measures == ("RR@10",) and two.rows == ("dense", "bm25")
    one, two = load_sets([path], data="/data", settings=["depth=9", "sets.2.split=test"])
    assert one.path == Path("/data/../one") and two.path == Path("/far/two")
    assert (one.depth, two.depth, two.split) == (9, 7, "test")


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("dpeth = 3\n[[sets]]\npath = 'a'", "key dpeth", "'depth'"),
        ("[[sets]]\npath = 'a'\nsplt = 'x'", "key sets.1.splt", "'split'"),
        ("[[sets]]\nname = 'a'", "key sets.1", "the key path"),
        ("sets = []", "s.toml", "no [[sets]]"),
        ("name = 'x'\n[[sets]]\npath = 'a'", "key name", "expected one of candidates"),
        ("depth = 'x'\n[[sets]]\npath = 'a'", "s.toml, key depth", "a whole number"),
        ("missing = 'zeroes'\n[[sets]]\npath = 'a'", "s.toml, key missing", "'zero'"),
        ("[[sets]]\npath = 'a'\ntitle_template = 'x'", "key sets.1.title_template", "{text}"),
        ("[[sets]]\npath = 3", "key sets.1.path", "a path"),
        ("[[sets]]\npath = 'a'\nmeasures = ['ndcg@10']", "key sets.1.measures", "'nDCG@10'"),
        ("[[sets]]\npath = 'a'\nrows = ['dense+spars']", "key sets.1.rows", "'sparse'"),
        ("[[sets]]\npath = 'a'\nrows = ['dense+dense']", "key sets.1.rows", "different modes"),
        ("rows = []\n[[sets]]\npath = 'a'", "s.toml", "no rows"),
        ("[[sets]]\npath = 'a'\ndepth = 0", "key sets.1", "below 1"),
        ("[[sets]]\npath = 'a'\nname = 'a/b'", "key sets.1", "'a/b'"),
        ("[[sets]]\npath = 'a'\nweights = [1, -1, 1]", "key sets.1", "from 0 up"),
        ("[[sets]]\npath = 'a'\n[[sets]]\npath = 'b/a'", "sets", "'a' twice"),
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


def test_a_suite_takes_what_a_search_takes() -> None:
    assert get_args(suite.Missing) == get_args(plan.Missing)
    assert get_args(suite.Candidates) == get_args(plan.Candidates)
