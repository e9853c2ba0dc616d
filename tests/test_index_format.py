"""An index that the first version of format 1 has written opens, answers and grows in this one.

`data/index-format-1` was built by that version, with the encoder of `index_fakes`: six documents in
two segments, one of them deleted. It must never be built anew.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from index_fakes import FakeEncoder
from small_indexes import contents

from m3search.index import Index
from m3search.records import Document

WRITTEN = Path(__file__).parent / "data" / "index-format-1"
DOCUMENTS = [
    Document(
        "tea",
        "Black tea, infused for four minutes.",
        "Tea",
        {"lang": "en", "year": 1999, "tags": ["drink", "hot"]},
    ),
    Document("thé", "Le thé vert se boit sans lait.", "", {"lang": "fr", "year": 2004}),
    Document("茶", "綠茶與烏龍茶", "茶", {"lang": "zh", "hot": True}),
    Document("rice", "Rice is boiled or steamed.", "Rice", {"lang": "en", "year": 2011.5}),
    Document("empty", "", "An empty text"),
]
ANSWERS = {
    "dense": {
        "empty": 0.47355058789253235,
        "茶": 0.3732369840145111,
        "thé": 0.15328654646873474,
        "rice": -0.3537759780883789,
        "tea": -0.4002169668674469,
    },
    "sparse": {
        "thé": 1.1860712766647339,
        "rice": 0.6924870610237122,
        "empty": 0.29856422543525696,
    },
    "multi": {
        "empty": 0.9653224945068359,
        "茶": 0.0,
        "rice": 0.0,
        "thé": -0.20064134895801544,
        "tea": -0.4770972430706024,
    },
}
"""to the query "tea", as that version gave them"""


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.open(shutil.copytree(WRITTEN, tmp_path / "index"))


def answers(index: Index, mode: str) -> dict[str, float]:
    hits = index.retrieve(mode, FakeEncoder().encode(["tea"], "query"), 9)  # type: ignore[arg-type]
    found = hits.rows[0] >= 0
    names = index.ids(hits.rows[0][found])
    return dict(zip(names, hits.scores[0][found].tolist(), strict=True))


def test_it_answers_as_it_did(index: Index) -> None:
    assert (len(index), index.rows, index.manifest.layout.multi_codec) == (5, 6, "fp16")
    assert index.verify() == []
    assert contents(index) == {document.id: document for document in DOCUMENTS}
    for mode, wanted in ANSWERS.items():
        found = answers(index, mode)
        assert list(found) == list(wanted)
        assert list(found.values()) == pytest.approx(list(wanted.values()), abs=1e-7)


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("lang=en", ["tea", "rice"]),
        ("lang!=en", ["thé", "茶", "empty"]),
        ("year>=2000", ["thé", "rice"]),
        ("tags=hot", ["tea"]),
        ("hot=true", ["茶"]),
        ("title=茶", ["茶"]),
    ],
)
def test_its_filters_hold(index: Index, condition: str, names: list[str]) -> None:
    assert index.ids(np.flatnonzero(index.select(condition))) == names


def test_it_grows_and_is_compacted(index: Index) -> None:
    index.add([Document("new", "another", "", {"year": 2020})], FakeEncoder())
    before = {mode: answers(index, mode) for mode in ANSWERS}
    assert {"new", *(document.id for document in DOCUMENTS)} == set(before["dense"])
    index.compact()
    opened = Index.open(index.path)
    assert (len(opened), opened.rows, opened.verify()) == (6, 6, [])
    assert {mode: answers(opened, mode) for mode in ANSWERS} == before
    assert opened.ids(np.flatnonzero(opened.select("year>=2000"))) == ["thé", "rice", "new"]
