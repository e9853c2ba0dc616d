"""A damaged index: every file and every contradiction is named."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from small_indexes import build, corpus

from m3search.errors import ArtifactError
from m3search.index import Index
from m3search.stores.snapshot import find_damages

FILES = [
    "dense.faiss",
    "sparse.terms.npy",
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


def test_any_bit_of_any_file_and_any_end(tmp_path, monkeypatch):
    """Of an index that has all files there are: passages, deletes, shortcuts, all stores."""
    monkeypatch.setattr("m3search.stores.clusters.LEAST_ROWS", 100)
    monkeypatch.setattr("m3search.stores.token_lists.LEAST_ROWS", 100)
    index = build(tmp_path, corpus(60, words="a b c d e f"), segment_documents=500, chunk=4)
    index.delete(["d1", "d40"])
    (segment,) = index.manifest.segments
    assert {file.name for file in segment.files} == {
        "dense.faiss", "dense.ivf.faiss", "documents.passages.npy", "documents.sqlite",
        "deletes-00000002.bits", "multi.centroids.npy", "multi.indptr.npy", "multi.lmdb",
        "multi.rows.npy", "sparse.lengths.npy", "sparse.rows.npy", "sparse.terms.npy",
        "sparse.weights.npy",
    }  # fmt: skip
    del index  # an open LMDB file would be shared, whatever is on disk
    draw = random.Random(7)
    for file in segment.files:
        path = tmp_path / "segments" / segment.name / file.name
        content = path.read_bytes()
        for place in [0, len(content) // 2, *(draw.randrange(len(content)) for _ in range(4))]:
            changed = bytearray(content)
            changed[place] ^= 1 << draw.randrange(8)
            path.write_bytes(changed)
            _, damages = find_damages(tmp_path, read=True)
            assert damages == [f"{path}: the content differs from its checksum"]
        for size in (0, 1, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:size])
            told = f"{path}: {size} bytes instead of {len(content)}"
            assert find_damages(tmp_path, read=False)[1] == [told]
            with pytest.raises(ArtifactError, match=f"{file.name}: expected {len(content)} bytes"):
                Index.open(tmp_path)
        path.write_bytes(content)
    assert find_damages(tmp_path, read=True)[1] == []


def test_any_bit_of_the_manifest(tmp_path):
    build(tmp_path, corpus(3), source="\u00fc.jsonl")
    path = tmp_path / "manifest.json"
    content, draw = path.read_bytes(), random.Random(8)
    flips = [(place, 1 << draw.randrange(8)) for place in range(0, len(content), 7)]
    flips.append((content.index(b"\\u00fc") + 4, 0x20))  # F, which JSON takes for the same
    for place, bit in flips:
        changed = bytearray(content)
        changed[place] ^= bit
        path.write_bytes(changed)
        try:
            damages = find_damages(tmp_path, read=True)[1]
        except ArtifactError as error:
            damages = [str(error)]
        assert len(damages) == 1 and str(path) in damages[0]
    for size in (0, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:size])
        with pytest.raises(ArtifactError, match=r"manifest\.json: expected JSON"):
            Index.open(tmp_path)


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


@pytest.mark.parametrize("name", ["dense.faiss", "sparse.weights.npy", "multi.lmdb"])
def test_a_merge_does_not_seal_damage_anew(tmp_path, name):
    """Its checksums are the only ones that tell of it."""
    index = build(tmp_path, corpus(12))
    index.delete(["d1"])
    (file,) = [path for path in (tmp_path / "segments" / "00000001").iterdir() if path.name == name]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    opened = Index.open(tmp_path)
    with pytest.raises(ArtifactError, match=f"{name}: expected the content that was written"):
        opened.compact()
    assert any(name in damage for damage in Index.open(tmp_path).verify())
    content[-1] ^= 1
    file.write_bytes(content)
    opened.compact()
    assert Index.open(tmp_path).verify() == []
