"""Building an index: what it then holds, and where and of what none is built."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from index_fakes import DIM, IDENTITY, MULTI_DIM, VOCABULARY, FakeEncoder
from scipy import sparse as sp
from small_indexes import assert_ranks, build, contents, corpus, names

from m3search.errors import ArtifactError, ConfigError
from m3search.index import Index
from m3search.records import Document


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
    assert check.min_cosine > 0.99


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


def test_building_onto_an_index_is_refused(tmp_path):
    build(tmp_path, corpus(3))
    with pytest.raises(ArtifactError, match="--add"):
        build(tmp_path, corpus(3))
    assert len(Index.open(tmp_path)) == 3


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


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match="int8"):
        build(tmp_path / "a", corpus(1), multi_codec="int7")
    with pytest.raises(ConfigError, match="log8"):
        build(tmp_path / "a", corpus(1), sparse_codec="log7")
    with pytest.raises(ConfigError, match="fp16"):
        build(tmp_path / "a", corpus(1), dense_codec="fp8")
    with pytest.raises(ConfigError, match="pooling: expected a whole number"):
        build(tmp_path / "a", corpus(1), multi_pooling=0)
    assert not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match="segment_documents"):
        build(tmp_path / "b", corpus(1), segment_documents=0)


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


def lower_sparse(encoded, row):
    encoded.sparse.data[encoded.sparse.indptr[row] + 1] = 0
    return encoded


def shorten_multi(encoded, row):
    encoded.multi[row] = np.eye(3, MULTI_DIM, dtype=np.float32)
    encoded.multi[row][1] *= 0.9
    return encoded


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lower_sparse, "sparse weights above 0, found one that is not"),
        (shorten_multi, "multi vectors of length 1, found one of another length"),
    ],
)
def test_vectors_that_are_not_what_the_format_promises_are_refused(tmp_path, spoil, message):
    documents = [document._replace(title="") for document in corpus(1100)]
    with pytest.raises(ConfigError, match=f"document 'd1030': expected {message}"):
        Index.build(tmp_path, documents, Spoiling(spoil))
    assert len(Index.open(tmp_path)) == 1024


def test_vectors_rounded_to_half_the_bits_are_unit_vectors(tmp_path):
    def round_all(encoded, row):
        def brain(vectors):  # bfloat16, cut instead of rounded
            return (vectors.view(np.uint32) & 0xFFFF0000).view(np.float32)

        return replace(encoded, multi=[brain(text) for text in encoded.multi])

    documents = [document._replace(title="") for document in corpus(1100)]
    assert len(Index.build(tmp_path, documents, Spoiling(round_all))) == 1100


@pytest.mark.parametrize(
    "wrong", [Document("a", None), Document("a", "t", None), Document(None, "t"), Document([], "t")]
)
def test_a_document_without_a_text_is_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="expected an id, a title and a text"):
        build(tmp_path, [*corpus(9), wrong])
    assert len(Index.open(tmp_path)) == 7


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


def test_info_is_plain_json(tmp_path):
    index = build(tmp_path, corpus(5))
    info = json.loads(json.dumps(index.info()))
    assert (info["documents"], info["model"]["dim"], info["complete"]) == (5, 8, True)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("segments/*/*")}
    assert info["bytes"] == index.bytes_by_store()
    assert sum(info["bytes"].values()) == sum(sizes.values())
    assert info["bytes"]["multi"] == sizes["multi.lmdb"]


def test_the_index_imports_no_torch():
    script = "import sys, m3search.index; print('torch' in sys.modules, 'faiss' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "True"]


def test_the_fingerprint_is_of_what_is_in_an_index(tmp_path):
    def made(folder, texts=5, **identity):
        encoder = FakeEncoder(replace(IDENTITY, **identity))
        return Index.build(tmp_path / folder, corpus(texts), encoder).manifest.fingerprint

    first = made("first")
    assert Index.open(tmp_path / "first").manifest.fingerprint == first
    assert made("again") == made("elsewhere", name="b") == first
    others = {made("more", 6), made("other", pooling="mean")}
    assert len(others | {first}) == 3
    index = Index.open(tmp_path / "first")
    index.delete([next(iter(corpus(5))).id])
    assert index.manifest.fingerprint not in {*others, first}
