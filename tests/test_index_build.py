import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from index_fakes import (
    DIM,
    IDENTITY,
    MULTI_DIM,
    VOCABULARY,
    FakeEncoder,
    slow_rank,
    slow_scores,
)
from scipy import sparse as sp

from m3search.errors import ArtifactError, ConfigError
from m3search.index import Index
from m3search.records import MODES, Document
from m3search.stores import commit as commit_module
from m3search.stores.commit import WriteLock
from m3search.stores.multi import VectorWriter
from m3search.stores.snapshot import find_damages


def corpus(count, first=0, words="text"):
    return [
        Document(f"d{i}", f"{words} {i}", f"title {i % 3}" if i % 2 else "", {"n": i})
        for i in range(first, first + count)
    ]


def build(path, documents, **options) -> Index:
    options.setdefault("segment_documents", 7)
    return Index.build(path, documents, FakeEncoder(), **options)


def names(folder) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def contents(index) -> dict[str, Document]:
    rows = np.flatnonzero(index.select("id!=."))  # every live row
    return {document.id: document for document in index.documents(rows)}


def assert_ranks(index, codec="fp16", queries=("text 3", "what", "")):
    """All three modes against loops over the documents, ties and bits included."""
    encoder = FakeEncoder()
    live = index.select("id!=.")
    documents = index.documents(np.arange(index.rows))
    texts = encoder.encode([f"{d.title}\n{d.text}" if d.title else d.text for d in documents])
    for text in queries:
        query = encoder.encode([text], "query")
        for mode in MODES:
            scores = slow_scores(mode, query, texts, codec)
            exact = index.scores(mode, query, np.arange(index.rows))
            np.testing.assert_allclose(exact, scores, atol=1e-6)
            for k in (1, 5, index.rows + 3):
                hits = index.retrieve(mode, query, k)
                rows = slow_rank(exact.tolist(), k, live, positive=mode == "sparse")
                found = hits.rows[0] >= 0
                assert hits.rows[0][found].tolist() == rows
                assert hits.scores[0][found].tobytes() == exact[rows].tobytes()


def test_build_and_open(tmp_path):
    index = build(tmp_path / "a" / "b", corpus(30), source="corpus.jsonl")
    assert (len(index), index.rows, index.report.documents) == (30, 30, 30)
    assert [segment.rows for segment in index.manifest.segments] == [7, 7, 7, 7, 2]
    opened = Index.open(tmp_path / "a" / "b")
    assert opened.manifest == index.manifest
    assert opened.manifest.complete
    assert opened.manifest.source == "corpus.jsonl"
    assert contents(opened) == {document.id: document for document in corpus(30)}
    assert opened.verify() == []
    assert_ranks(opened)
    check = opened.manifest.codec_check
    assert check is not None
    assert check.min_cosine > 0.9999


def test_many_segments_answer_as_one(tmp_path):
    many = build(tmp_path / "many", corpus(40), segment_documents=3, multi_codec="int8")
    one = build(tmp_path / "one", corpus(40), segment_documents=100, multi_codec="int8")
    assert (len(many.manifest.segments), len(one.manifest.segments)) == (14, 1)
    queries = FakeEncoder().encode(["a", "b c", "", "text 9"])
    allowed = np.arange(40) % 3 > 0
    for mode in MODES:
        for k in (1, 10, 50):
            for mask in (None, allowed):
                a, b = (index.retrieve(mode, queries, k, mask) for index in (many, one))
                assert a.rows.tobytes() == b.rows.tobytes()
                assert a.scores.tobytes() == b.scores.tobytes()
        for line in range(4):
            rows = np.array([39, 0, 7, 7])
            a, b = (i.scores(mode, queries[line : line + 1], rows) for i in (many, one))
            assert a.tobytes() == b.tobytes()
    assert_ranks(one, "int8")


def test_identical_documents_rank_by_row_over_segments(tmp_path):
    index = build(tmp_path, [Document(f"d{i}", "same") for i in range(100)], segment_documents=40)
    query = FakeEncoder().encode(["text"])
    for mode in MODES:
        hits = index.retrieve(mode, query, 5)
        if mode != "sparse" or hits.scores[0][0] > 0:
            assert hits.rows.tolist() == [[0, 1, 2, 3, 4]]


def test_an_empty_index_answers(tmp_path):
    index = build(tmp_path, [])
    queries = FakeEncoder().encode(["a", "b"])
    for mode in MODES:
        assert index.retrieve(mode, queries, 3).rows.tolist() == [[-1] * 3] * 2
        assert index.retrieve(mode, queries[:0], 3).rows.shape == (0, 3)
        assert index.scores(mode, queries[:1], np.array([], int)).shape == (0,)
    assert index.rows_of(["a"]).tolist() == [-1]
    assert index.documents([]) == []
    assert index.select("a=b").tolist() == []
    assert (len(index), index.delete(["a"]), index.verify()) == (0, 0, [])
    index.compact()
    assert index.add(corpus(2)).documents == 2


def test_an_index_always_opens_while_it_is_built(tmp_path):
    seen = []

    def watched():
        for document in corpus(20):
            opened = Index.open(tmp_path)
            seen.append((opened.manifest.commit, len(opened), opened.manifest.complete))
            yield document

    build(tmp_path, watched())
    assert seen[0] == (0, 0, False)
    assert seen[-1] == (2, 14, False)


def test_a_build_goes_on_after_an_error(tmp_path):
    def broken():
        yield from corpus(16)
        raise OSError("the disk of the corpus is gone")

    with pytest.raises(OSError, match="is gone"):
        build(tmp_path, broken(), source="c.jsonl")
    index = Index.open(tmp_path)
    assert len(index) == 14
    assert not index.manifest.complete
    with pytest.raises(ArtifactError, match=r"interrupted build from c\.jsonl, 14 documents"):
        index.add(corpus(1), FakeEncoder())

    changed = [*corpus(3, words="new"), *corpus(15, first=5)]
    encoder = FakeEncoder()
    index = Index.build(tmp_path, changed, encoder, segment_documents=7)
    report = index.report
    assert (report.documents, report.replaced) == (9, 3)
    assert (report.unchanged, report.deleted) == (9, 2)
    assert len(encoder.encoded) == 9
    assert contents(index) == {document.id: document for document in changed}
    assert index.manifest.complete
    assert index.verify() == []
    assert_ranks(index)


def test_what_was_encoded_before_an_error_is_committed(tmp_path):
    class Failing(FakeEncoder):
        def encode(self, texts, kind="document"):
            if len(self.encoded) >= 1024:
                raise KeyboardInterrupt
            return super().encode(texts, kind)

    with pytest.raises(KeyboardInterrupt):
        Index.build(tmp_path, corpus(1500), Failing())
    index = Index.open(tmp_path)
    assert len(index) == 1024
    index = Index.build(tmp_path, corpus(1500), FakeEncoder())
    assert (index.report.unchanged, len(index)) == (1024, 1500)

    def broken():
        yield from corpus(600, words="newer")
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        index.add(broken())
    index = index.refresh()
    assert len(index) == 1500
    assert index.select("id!=.").sum() == 1500
    assert sum("newer" in document.text for document in contents(index).values()) == 512


def test_an_add_that_fails_leaves_the_object_at_what_it_committed(tmp_path):
    index = build(tmp_path, corpus(40))

    def broken():
        yield from corpus(600, first=100)
        raise ValueError("a wrong line")

    with pytest.raises(ValueError, match="a wrong line"):
        index.add(broken())
    assert (len(index), index.rows_of(["d100"]).tolist()) == (552, [40])
    assert index.manifest == Index.open(tmp_path).manifest
    assert index.refresh() is index
    assert index.add(corpus(600, first=100)).replaced == 512
    assert len(index) == 640


class Spoiling(FakeEncoder):
    """Puts something into the vectors of the text 'text 1030'."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def encode(self, texts, kind="document"):
        encoded = super().encode(texts, kind)
        return self.spoil(encoded, texts.index("text 1030")) if "text 1030" in texts else encoded


def spoil_dense(encoded, row):
    encoded.dense[row, 3] = np.inf
    return encoded


def spoil_sparse(encoded, row):
    encoded.sparse.data[encoded.sparse.indptr[row]] = np.nan
    return encoded


def spoil_multi(encoded, row):
    encoded.multi[row] = np.full((2, MULTI_DIM), np.nan, np.float32)
    return encoded


def widen_multi(encoded, row):
    encoded.multi[row] = np.ones((2, 2 * MULTI_DIM), np.float32)
    return encoded


def widen_dense(encoded, row):
    return replace(encoded, dense=np.tile(encoded.dense, (1, 2)))


def widen_sparse(encoded, row):
    return replace(encoded, sparse=sp.hstack([encoded.sparse, encoded.sparse], format="csr"))


@pytest.mark.parametrize(
    ("spoil", "name", "message"),
    [
        (spoil_dense, "d1030", "finite numbers in its dense vectors, found NaN or inf"),
        (spoil_sparse, "d1030", "finite numbers in its sparse vectors"),
        (spoil_multi, "d1030", "finite numbers in its multi vectors"),
        (widen_multi, "d1030", f"multi vectors of {MULTI_DIM} dimensions.*found {2 * MULTI_DIM}"),
        (widen_dense, "d1024", f"dense vectors of {DIM} dimensions.*found {2 * DIM}"),
        (widen_sparse, "d1024", f"sparse vectors of {VOCABULARY} dimensions"),
    ],
)
def test_vectors_that_would_hide_a_document_are_refused(tmp_path, spoil, name, message):
    documents = [document._replace(title="") for document in corpus(1100)]
    with pytest.raises(ArtifactError, match=f"document '{name}': expected {message}"):
        Index.build(tmp_path, documents, Spoiling(spoil))
    index = Index.open(tmp_path)
    assert len(index) == 1024  # the chunks before are not lost
    assert index.verify() == []
    assert len(Index.build(tmp_path, documents, FakeEncoder())) == 1100


def test_building_onto_an_index_is_refused(tmp_path):
    build(tmp_path, corpus(3))
    with pytest.raises(ArtifactError, match="--add"):
        build(tmp_path, corpus(3))
    assert len(Index.open(tmp_path)) == 3


@pytest.mark.parametrize("options", [{"multi_codec": "int8"}, {"title_template": "{text}"}])
def test_going_on_with_other_settings_is_refused(tmp_path, options):
    def broken():
        yield from corpus(8)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        build(tmp_path, broken())
    with pytest.raises(ArtifactError, match="interrupted"):
        build(tmp_path, corpus(8), **options)
    other = FakeEncoder(replace(IDENTITY, fingerprint="e" * 64))
    with pytest.raises(ArtifactError, match="fingerprint"):
        Index.build(tmp_path, corpus(8), other)


def test_foreign_places(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"thesis\.tex"):
        build(tmp_path, corpus(1))
    with pytest.raises(ArtifactError, match="found a file"):
        build(tmp_path / "thesis.tex", corpus(1))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    for place in (tmp_path, tmp_path / "none", tmp_path / "thesis.tex"):
        with pytest.raises(ArtifactError, match="expected an index"):
            Index.open(place)


def test_segments_without_a_manifest_are_nobodys_leftovers(tmp_path):
    mine = tmp_path / "segments" / "customers"
    mine.mkdir(parents=True)
    (mine / "list.csv").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"'segments' in it, but without manifest\.json"):
        build(tmp_path, corpus(1))
    assert (mine / "list.csv").read_text() == "years of work"
    assert names(tmp_path) == ["segments"]


def test_a_lost_manifest_loses_nothing_else(tmp_path):
    index = build(tmp_path, corpus(20))
    manifest = (tmp_path / "manifest.json").read_bytes()
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"Nothing was changed\. Restore manifest\.json"):
        build(tmp_path, corpus(1))
    (tmp_path / "manifest.json").write_bytes(manifest)
    assert Index.open(tmp_path).verify() == []
    assert contents(Index.open(tmp_path)) == contents(index)


def test_a_writer_removes_only_what_can_be_a_segment(tmp_path):
    index = build(tmp_path, corpus(3))
    for name in ("00000009", "notes"):
        (tmp_path / "segments" / name).mkdir()
    index.delete(["d1"])
    assert names(tmp_path / "segments") == ["00000001", "notes"]


def test_a_build_killed_before_its_first_commit_can_start_again(tmp_path):
    (tmp_path / "write.lock").write_text("1")
    (tmp_path / "manifest.json.new").write_text("{")
    assert len(build(tmp_path, corpus(3))) == 3


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("a.jsonl", "a.jsonl", True),
        ("a.jsonl", "folder/../a.jsonl", True),
        ("-", "-", True),
        ("a.jsonl", "", True),
        ("", "a.jsonl", True),
        ("a.jsonl", "b.jsonl", False),
        ("a.jsonl", "-", False),
        ("-", "a.jsonl", False),
        ("./-", "-", False),  # a file with that name
    ],
)
def test_a_build_does_not_go_on_with_another_corpus(tmp_path, first, second, same):
    def broken():
        yield from corpus(9)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        build(tmp_path, broken(), source=first)
    if same:
        assert len(build(tmp_path, corpus(9), source=second)) == 9
        return
    with pytest.raises(ArtifactError) as refused:
        build(tmp_path, corpus(3, first=50), source=second)
    assert f"expected {first}, of which the build was interrupted" in str(refused.value)
    assert f"found {second}. Run the first again" in str(refused.value)
    assert len(Index.open(tmp_path)) == 7


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match="int8"):
        build(tmp_path / "a", corpus(1), multi_codec="int7")
    with pytest.raises(ConfigError, match="segment_documents"):
        build(tmp_path / "b", corpus(1), segment_documents=0)


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
        lambda: index.add(corpus(30, first=5), segment_documents=4),
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


def test_truncated_documents_are_counted(tmp_path):
    def long(first):
        return [Document(f"long{i}", "x " * 150) for i in range(first, first + 2)]

    index = build(tmp_path / "a", [*long(0), *corpus(6), *long(2), *corpus(9, 20)])
    assert index.report.truncated == 4  # in two chunks
    assert [segment.truncated for segment in index.manifest.segments] == [2, 2, 0]
    assert Index.open(tmp_path / "a").info()["truncated"] == 4
    assert index.add([*long(4), *corpus(6, 40), *long(6)], segment_documents=7).truncated == 4
    assert index.info()["truncated"] == 8
    index.compact()
    assert index.info()["truncated"] == 8

    def broken():
        yield from [*long(0), *corpus(10)]
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        build(tmp_path / "b", broken())
    gone_on = build(tmp_path / "b", [*long(0), *corpus(10), *long(2)])
    assert (gone_on.report.unchanged, gone_on.report.documents) == (7, 7)
    assert gone_on.report.truncated == 4


def test_truncated_documents_are_counted_over_the_chunks_of_a_segment(tmp_path, monkeypatch):
    monkeypatch.setattr("m3search.stores.intake.CHUNK_DOCUMENTS", 2)
    documents = [Document(f"d{i}", "x " * (150 if i % 3 else 1)) for i in range(9)]
    index = build(tmp_path, documents, segment_documents=100)
    assert [segment.truncated for segment in index.manifest.segments] == [6]
    assert index.report.truncated == 6
    more = [Document(f"e{i}", "x " * 150) for i in range(5)]
    assert index.add(more).truncated == 5
    assert [segment.truncated for segment in index.manifest.segments] == [6, 5]


def test_at_most_all_documents_were_truncated(tmp_path):
    index = build(tmp_path, [Document(f"long{i}", "x " * 150) for i in range(6)])
    index.delete([f"long{i}" for i in range(4)])
    index.compact()
    assert (index.info()["truncated"], index.rows) == (2, 2)


def test_progress_counts_every_document(tmp_path):
    done = []
    build(tmp_path, corpus(20), progress=done.append)
    assert done == [7, 7, 6]


def test_chunks_are_bounded_by_characters(tmp_path, monkeypatch):
    monkeypatch.setattr("m3search.stores.intake.CHUNK_BYTES", 4 * 4 * 20)  # 80 characters
    done = []
    Index.build(tmp_path / "a", corpus(30), FakeEncoder(), progress=done.append)
    assert sum(done) == 30
    assert 5 <= max(done) <= 13
    done.clear()
    short = FakeEncoder(replace(IDENTITY, max_length=5))  # of each document, 20 characters
    books = [Document(f"d{i}", "x" * 1000) for i in range(9)]
    Index.build(tmp_path / "b", books, short, progress=done.append)
    assert done == [4, 4, 1]


def test_a_merge_holds_a_bounded_number_of_bytes(tmp_path, monkeypatch):
    index = build(tmp_path, corpus(60))
    index.delete(["d3", "d40"])
    expected = contents(index)
    monkeypatch.setattr("m3search.stores.segment.BYTES_AT_ONCE", 100)
    taken, append = [], VectorWriter.append_blobs

    def watched(writer, blobs):
        taken.append(sum(map(len, blobs)))
        return append(writer, blobs)

    monkeypatch.setattr(VectorWriter, "append_blobs", watched)
    index.compact()
    assert 50 < max(taken) <= 100
    assert contents(index) == expected
    assert index.verify() == []
    assert_ranks(index)


def test_a_segment_ends_at_its_byte_budget(tmp_path, monkeypatch):
    monkeypatch.setattr("m3search.stores.intake.SEGMENT_BYTES", 1)
    assert len(build(tmp_path, corpus(9), segment_documents=3).manifest.segments) == 3


def test_selected_rows_only(tmp_path):
    index = build(tmp_path, corpus(30))
    index.delete(["d20"])
    allowed = index.select("n>=15,n<25")
    assert np.flatnonzero(allowed).tolist() == [15, 16, 17, 18, 19, 21, 22, 23, 24]
    assert index.select(None) is None
    query = FakeEncoder().encode(["text 3"])
    for mode in MODES:
        exact = index.scores(mode, query, np.arange(30)).tolist()
        hits = index.retrieve(mode, query, 4, allowed)
        best = slow_rank(exact, 4, allowed, positive=mode == "sparse")
        assert hits.rows[0][hits.rows[0] >= 0].tolist() == best
        hits = index.retrieve(mode, query, 30, np.ones(30, bool))
        assert 20 not in hits.rows  # no mask brings back what is deleted
    with pytest.raises(ValueError, match="mask"):
        index.retrieve("dense", query, 4, allowed[:-1])


def test_scores_of_no_row(tmp_path):
    index = build(tmp_path, corpus(9))
    query = FakeEncoder().encode(["a"])
    assert index.scores("dense", query, np.array([-1, 8]))[0] == -np.inf
    with pytest.raises(IndexError):
        index.scores("dense", query, np.array([9]))
    with pytest.raises(IndexError):
        index.documents([-1])


def test_readers_keep_their_commit(tmp_path):
    index = build(tmp_path, corpus(20))
    reader, pinned = Index.open(tmp_path), index.pinned()
    assert reader.refresh() is reader
    queries = FakeEncoder().encode(["a b"])
    before = [reader.retrieve(mode, queries, 9).rows.tolist() for mode in MODES]
    index.add(corpus(9, words="new"))
    index.compact()
    assert names(tmp_path / "segments") == ["00000005"]
    for old in (reader, pinned):
        assert [old.retrieve(mode, queries, 9).rows.tolist() for mode in MODES] == before
        assert contents(old) == {document.id: document for document in corpus(20)}
    newest = reader.refresh()
    assert newest.manifest == index.manifest
    assert newest.refresh() is newest


def test_a_reader_that_meets_a_commit_while_it_opens_takes_the_newer_one(tmp_path, monkeypatch):
    index = build(tmp_path, corpus(20))
    stale = commit_module.read_manifest(tmp_path)
    index.compact()
    answers = iter([stale])
    monkeypatch.setattr(
        "m3search.stores.snapshot.read_manifest",
        lambda path: next(answers, None) or commit_module.read_manifest(path),
    )
    assert Index.open(tmp_path).manifest == index.manifest


@pytest.mark.parametrize("read", [True, False])
def test_what_a_newer_commit_removed_is_no_damage(tmp_path, monkeypatch, read):
    index = build(tmp_path, corpus(20))
    stale = commit_module.read_manifest(tmp_path)
    index.compact()
    answers = iter([stale])
    monkeypatch.setattr(
        "m3search.stores.snapshot.read_manifest",
        lambda path: next(answers, None) or commit_module.read_manifest(path),
    )
    assert find_damages(tmp_path, read=read) == (index.manifest, [])


def test_contradictions_are_found_beside_the_manifest(tmp_path):
    index = build(tmp_path, corpus(5))
    index.add(corpus(1))
    segments = tuple(replace(segment, deletes=None) for segment in index.manifest.segments)
    manifest = replace(index.manifest, segments=segments)
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    found, damages = find_damages(tmp_path, read=True)
    assert found == manifest
    assert any("'d0' a second time" in damage for damage in damages)
    (segment,) = segments[:1]
    stores = {**segment.stores, "dense": replace(segment.stores["dense"], kind="hnsw")}
    newer = replace(manifest, segments=(replace(segment, stores=stores),))
    (tmp_path / "manifest.json").write_bytes(newer.to_bytes())
    found, damages = find_damages(tmp_path, read=False)
    assert (found, len(damages)) == (newer, 1)
    assert "kind 'hnsw'" in damages[0]


def test_threads_read_while_another_writes(tmp_path):
    index = build(tmp_path, corpus(30))
    queries = FakeEncoder().encode(["a b", "c"])
    failures, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            view = index.pinned()
            for mode in MODES:
                rows = view.retrieve(mode, queries, 5).rows
                found = view.ids(rows[rows >= 0])
                if view.rows_of(found).tolist() != rows[rows >= 0].tolist():
                    failures.append((mode, rows))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for step in range(4):
            index.add(corpus(5, first=5 * step, words=f"new {step}"))
            index.delete([f"d{step}"])
            index.compact()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_one_writer_at_a_time(tmp_path):
    index = build(tmp_path, corpus(5))
    lock = WriteLock(tmp_path)
    for change in (lambda: index.add(corpus(1)), lambda: index.delete(["d1"]), index.compact):
        with pytest.raises(ArtifactError, match=f"process {os.getpid()} writing"):
            change()
    assert len(Index.open(tmp_path)) == 5
    lock.release()
    assert index.delete(["d1"]) == 1


def hold_lock(path, ready):
    WriteLock(Path(path))
    ready.set()
    threading.Event().wait()


def test_the_lock_of_a_dead_process_is_free(tmp_path):
    index = build(tmp_path, corpus(5))
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold_lock, args=(str(tmp_path), ready))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(ArtifactError, match=f"process {holder.pid} writing"):
        index.delete(["d1"])
    holder.kill()
    holder.join()
    holder.close()
    assert index.delete(["d1"]) == 1


def test_what_a_killed_writer_left_is_ignored_then_collected(tmp_path):
    index = build(tmp_path, corpus(10))
    segments = tmp_path / "segments"
    (segments / "00000003").mkdir()
    (segments / "00000003" / "dense.faiss").write_bytes(b"half")
    (segments / "00000001" / "deletes-00000009.bits").write_bytes(b"x")
    (tmp_path / "manifest.json.new").write_bytes(b"{")
    (tmp_path / "notes.txt").write_text("mine")
    assert Index.open(tmp_path).verify() == []
    index.add(corpus(3, first=50))
    assert names(segments) == ["00000001", "00000002", "00000003"]
    assert not list(segments.glob("*/deletes*"))
    assert names(tmp_path) == ["manifest.json", "notes.txt", "segments", "write.lock"]
    assert index.verify() == []


FILES = [
    "dense.faiss",
    "sparse.indptr.npy",
    "sparse.rows.npy",
    "sparse.weights.npy",
    "sparse.lengths.npy",
    "multi.lmdb",
    "documents.sqlite",
    "deletes-00000003.bits",
]


@pytest.mark.parametrize("name", FILES)
def test_every_damaged_file_is_named(tmp_path, name):
    index = build(tmp_path, corpus(12))
    index.delete(["d1", "d3"])
    file = tmp_path / "segments" / "00000001" / name
    content = file.read_bytes()
    changed = bytearray(content)
    changed[-1] ^= 0x80
    file.write_bytes(changed)
    try:
        damages = Index.open(tmp_path).verify()
    except ArtifactError as error:  # a damage that shows in the first look
        damages = [str(error)]
    assert any(name in damage for damage in damages)
    file.write_bytes(content + b"x")
    with pytest.raises(ArtifactError, match=f"{name}: expected {len(content)} bytes, found"):
        Index.open(tmp_path)
    assert any(name in damage for damage in index.verify())
    file.unlink()
    with pytest.raises(ArtifactError, match=f"{name}: expected a file of the index"):
        Index.open(tmp_path)
    assert any("missing" in damage for damage in index.verify())
    file.write_bytes(content)
    assert Index.open(tmp_path).verify() == []


def test_stores_with_different_rows_are_damage(tmp_path):
    """A file of another segment, with an entry that is true of it."""
    index = build(tmp_path, corpus(12), segment_documents=7)
    first, second = index.manifest.segments
    for name in ("dense", "sparse", "multi", "documents"):
        stores = {**first.stores, name: second.stores[name]}
        for file in second.stores[name].files:
            content = (tmp_path / "segments" / second.name / file.name).read_bytes()
            (tmp_path / "segments" / first.name / file.name).write_bytes(content)
        manifest = replace(index.manifest, segments=(replace(first, stores=stores), second))
        (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
        with pytest.raises(ArtifactError, match=str(tmp_path)):
            Index.open(tmp_path)


def test_an_unknown_store_kind_is_newer(tmp_path):
    index = build(tmp_path, corpus(3))
    (segment,) = index.manifest.segments
    stores = {**segment.stores, "dense": replace(segment.stores["dense"], kind="hnsw")}
    manifest = replace(index.manifest, segments=(replace(segment, stores=stores),))
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    with pytest.raises(ArtifactError, match=r"kind 'hnsw'\. Update m3search"):
        Index.open(tmp_path)


def test_an_id_live_in_two_segments_is_damage(tmp_path):
    index = build(tmp_path, corpus(5))
    index.add(corpus(1))
    segments = tuple(replace(segment, deletes=None) for segment in index.manifest.segments)
    manifest = replace(index.manifest, segments=segments)
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    assert any("'d0' a second time" in damage for damage in Index.open(tmp_path).verify())


def test_info_is_plain_json(tmp_path):
    index = build(tmp_path, corpus(5))
    info = json.loads(json.dumps(index.info()))
    assert (info["documents"], info["model"]["dim"], info["complete"]) == (5, 8, True)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("segments/*/*")}
    assert info["bytes"] == index.bytes_by_store()
    assert sum(info["bytes"].values()) == sum(sizes.values())
    assert info["bytes"]["multi"] == sizes["multi.lmdb"]


@pytest.mark.parametrize("call", range(1, 30, 2))
def test_a_disk_that_is_full_at_any_sync(tmp_path, monkeypatch, call):
    index = build(tmp_path, corpus(10))
    calls, sync = [0], os.fsync

    def fail(handle):
        calls[0] += 1
        if calls[0] == call:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr("os.fsync", fail)
    changes = (lambda: index.add(corpus(3, 8)), lambda: index.delete(["d4"]), index.compact)
    for change in changes:
        before = Index.open(tmp_path).manifest
        try:
            change()
        except ArtifactError as error:
            assert "No space left on device; " in str(error)
            assert f"{before.documents} documents are committed and safe" in str(error)
            assert str(tmp_path) in error.where
    monkeypatch.setattr("os.fsync", sync)
    for change in changes:
        change()
    index = Index.open(tmp_path)
    assert index.verify() == []
    assert len(contents(index)) == 10


@pytest.mark.parametrize("limit", [3_000, 12_000, 20_000, 60_000])
def test_a_limit_on_file_size(tmp_path, limit):
    """Real writes that fail, in whichever store grows past the limit first."""
    build(tmp_path, corpus(5))
    script = f"""
        import resource, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from index_fakes import FakeEncoder
        from m3search.errors import ArtifactError
        from m3search.index import Index
        from m3search.records import Document
        index = Index.open({str(tmp_path)!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            index.add((Document(f"n{{i}}", "x" * 300) for i in range(600)), FakeEncoder())
        except ArtifactError as error:
            print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stderr == ""
    assert f"{tmp_path / 'segments' / '00000002'}/" in result.stdout
    assert "5 documents are committed and safe" in result.stdout
    index = Index.open(tmp_path)
    assert index.verify() == []
    assert len(index) == 5
    assert index.add(corpus(3, 20), FakeEncoder()).segments == 2


def test_too_many_open_files_is_not_called_damage(tmp_path):
    build(tmp_path, corpus(40), segment_documents=1)
    script = f"""
        import resource
        from m3search.errors import ArtifactError
        from m3search.index import Index
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
        try:
            Index.open({str(tmp_path)!r})
        except ArtifactError as error:
            print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert "Too many open files. Check its permissions and the limit on open files" in result.stdout


def test_the_index_imports_no_torch():
    script = "import sys, m3search.index; print('torch' in sys.modules, 'faiss' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "True"]
