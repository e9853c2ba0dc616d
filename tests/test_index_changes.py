"""Adding, deleting and compacting: what an index holds after each change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from index_fakes import IDENTITY, FakeEncoder
from small_indexes import assert_ranks, build, contents, corpus, names

from m3search.errors import ArtifactError, ConfigError
from m3search.index import Index
from m3search.records import MODES
from m3search.search import Searcher


def test_add_delete_and_compact(tmp_path):
    index = build(tmp_path, corpus(20))
    report = index.add([*corpus(3, first=5, words="new"), *corpus(4, first=100)])
    assert (report.documents, report.replaced, report.segments) == (7, 3, 4)
    assert (len(index), index.rows) == (24, 27)
    assert index.delete(["d1", "d6", "nobody", "d1"]) == 2
    assert index.delete("d2") == 1
    assert index.delete([]) == 0
    assert index.rows_of(["d1", "d5", "d100", "x"]).tolist() == [-1, 20, 23, -1]
    expected = {d.id: d for d in [*corpus(20), *corpus(3, 5, "new"), *corpus(4, 100)]}
    for name in ("d1", "d2", "d6"):
        del expected[name]
    assert contents(index) == expected
    assert_ranks(index)
    queries = FakeEncoder().encode(["a b", "text 17", ""])
    before = {mode: index.retrieve(mode, queries, 30) for mode in MODES}
    found = {mode: index.ids(hits.rows[hits.rows >= 0]) for mode, hits in before.items()}
    index.compact()
    assert (len(index), index.rows, len(index.manifest.segments)) == (21, 21, 1)
    assert contents(index) == expected
    for mode in MODES:
        after = index.retrieve(mode, queries, 30)
        assert after.scores.tobytes() == before[mode].scores.tobytes()
        assert index.ids(after.rows[after.rows >= 0]) == found[mode]
    assert_ranks(index)
    assert Index.open(tmp_path).verify() == []
    commit = index.manifest.commit
    index.compact()
    assert index.manifest.commit == commit


def test_each_change_is_one_commit(tmp_path):
    index = build(tmp_path, corpus(10), segment_documents=100)
    commits = [index.manifest.commit]
    for change in (
        lambda: index.add(corpus(30, first=5), segment_documents=5),
        lambda: index.delete(["d1", "d30"]),
        index.compact,
        lambda: index.delete(["nobody"]),
    ):
        change()
        commits.append(index.manifest.commit)
    assert commits == [1, 2, 3, 4, 4]


def test_deleting_everything(tmp_path):
    index = build(tmp_path, corpus(10))
    assert index.delete([f"d{i}" for i in range(10)]) == 10
    assert (len(index), index.rows, index.manifest.segments) == (0, 0, ())
    assert names(tmp_path / "segments") == []
    assert index.add(corpus(1)).segments == 1
    assert index.manifest.segments[0].name == "00000003"  # a name is never used again
    assert index.verify() == []


def test_add_needs_the_same_model(tmp_path):
    build(tmp_path, corpus(5))
    index = Index.open(tmp_path)
    with pytest.raises(ConfigError, match=r"Encoder\.load"):
        index.add(corpus(1))
    for field, value in (("max_length", 65), ("mcls", True), ("fingerprint", "0")):
        with pytest.raises(ArtifactError, match=field):
            index.add(corpus(1), FakeEncoder(replace(IDENTITY, **{field: value})))
    index.add(corpus(1, 50), FakeEncoder(replace(IDENTITY, name="moved/elsewhere")))
    assert len(index) == 6


def test_an_id_twice_in_one_call(tmp_path):
    with pytest.raises(ConfigError, match="'d2'"):
        build(tmp_path, [*corpus(20), *corpus(1, first=2)])
    assert len(Index.open(tmp_path)) == 14
    index = build(tmp_path, corpus(20))
    with pytest.raises(ConfigError, match="'d30'"):
        index.add([*corpus(1, 30), *corpus(1, 30)])
    assert index.add(corpus(20)).replaced == 20


def test_an_id_that_is_no_text_is_refused(tmp_path):
    """What a shell gives for a byte that is not UTF-8."""
    index = build(tmp_path, corpus(3))
    for ask in (index.delete, index.rows_of):
        with pytest.raises(ConfigError, match=r"id '\\udcff': expected text in UTF-8"):
            ask(["d1", "\udcff"])
        with pytest.raises(ConfigError, match="id 7: expected text in UTF-8, found 7"):
            ask(["d1", 7])
    assert len(Index.open(tmp_path)) == 3


class WholeEncoder(FakeEncoder):
    """One that a searcher takes: it has all modes."""

    def require(self, modes):
        assert {*modes} <= {*MODES}


def test_the_weights_of_an_index_hold_where_a_search_names_none(tmp_path):
    index = build(tmp_path, corpus(20))
    searcher = Searcher(index, WholeEncoder())
    assert index.manifest.fusion_weights == IDENTITY.fusion_weights
    by_model = searcher.search("text 17", k=30)
    asked = searcher.search("text 17", k=30, weights=(0.2, 3, 0))
    assert [hit.score for hit in asked] != [hit.score for hit in by_model]
    commit = index.manifest.commit
    index.set_weights({"dense": 0.2, "sparse": 3, "multi": 0})
    assert index.manifest.commit == commit + 1
    assert searcher.search("text 17", k=30) == asked
    index.set_weights((0.2, 3, 0))
    assert index.manifest.commit == commit + 1  # there was nothing to change
    index.add(corpus(3, first=100))
    index.delete(["d100", "d101", "d102"])
    index.compact()
    opened = Index.open(index.path)
    assert opened.manifest.fusion_weights == (0.2, 3.0, 0.0)
    again = Searcher(opened, WholeEncoder())
    assert again.search("text 17", k=30) == asked
    assert again.search("text 17", k=30, weights=(1, 0.3, 1)) == by_model
    for wrong in ((1, -1, 1), (0, 0, 0), (1, 2)):
        with pytest.raises(ConfigError, match="weights"):
            index.set_weights(wrong)
