"""Chunks and segments: how large they get, their progress, and the texts cut in them."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from index_fakes import IDENTITY, MULTI_DIM, FakeEncoder
from small_indexes import assert_ranks, build, contents, corpus

from m3search.index import Index
from m3search.records import Document
from m3search.stores.codec_check import SAMPLE_VECTORS, check_codec
from m3search.stores.documents import Record
from m3search.stores.multi_writer import VectorWriter
from m3search.stores.writer import IndexWriter


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
    index = build(tmp_path, corpus(60), multi_codec="fp16")
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


def test_the_sample_for_the_codec_keeps_no_batch_alive(tmp_path, monkeypatch):
    """The encoder returns views of one array."""
    batches, sampled = [], []

    class Viewing(FakeEncoder):
        def encode(self, texts, kind="document"):
            encoded = super().encode(texts, kind)
            batch = np.zeros((200 * len(texts), MULTI_DIM), np.float32)
            batch[:, 0] = 1
            batches.append(weakref.ref(batch))
            return replace(encoded, multi=np.split(batch, len(texts)))

    def check(sample, codec):
        sampled.append([len(text) for text in sample])
        return check_codec(sample, codec)

    def watched():
        for document in corpus(12):
            gc.collect()
            alive.append(sum(batch() is not None for batch in batches))
            yield document

    alive = []
    monkeypatch.setattr("m3search.stores.intake.CHUNK_DOCUMENTS", 2)
    monkeypatch.setattr("m3search.stores.writer.check_codec", check)
    Index.build(tmp_path, watched(), Viewing(), segment_documents=6)
    assert sampled == [[SAMPLE_VECTORS] * 6]
    assert max(alive) <= 1  # the one that was encoded last


def test_the_sample_for_the_codec_is_dropped_once_it_has_served(tmp_path):
    Index.build(tmp_path, [], FakeEncoder())
    documents = corpus(4)
    encoded = FakeEncoder().encode([document.text for document in documents])
    with IndexWriter(tmp_path) as writer:
        writer.append([Record.of(document) for document in documents], encoded, [])
        assert len(writer._sample) == 4
        writer.commit(complete=True)
        assert writer._sample == []
