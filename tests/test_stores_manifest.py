import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from index_fakes import IDENTITY

from m3search.errors import ArtifactError
from m3search.stores.files import ArrayWriter, checksum, map_array, replace_file
from m3search.stores.manifest import (
    CodecCheck,
    DeletesEntry,
    FileEntry,
    Layout,
    Manifest,
    SegmentEntry,
    StoreEntry,
    is_as_written,
    parse_manifest,
)

PATH = Path("some/manifest.json")
FILE = FileEntry("dense.faiss", 10, "a" * 64)
SEGMENT = SegmentEntry(
    "00000001", 5, 4, {"dense": StoreEntry("flat", (FILE,))}, DeletesEntry(FILE, 2)
)
LAYOUT = Layout("{text}", "int8", 2, "log8")
MANIFEST = Manifest(
    3, True, "corpus.jsonl", IDENTITY, LAYOUT, (SEGMENT,), 2, CodecCheck(1, 2, 1, 0.5, 1)
)


def test_there_and_back():
    assert parse_manifest(PATH, MANIFEST.to_bytes()) == MANIFEST
    empty = replace(MANIFEST, segments=(), codec_check=None)
    assert parse_manifest(PATH, empty.to_bytes()) == empty


def sealed(fields) -> bytes:
    """The manifest of fields, with the checksum that they ask for."""
    del fields["sha256"]
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    fields["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(fields).encode()


def test_an_index_of_a_model_without_weights_has_the_default_ones():
    known = replace(MANIFEST, model=replace(IDENTITY, fusion_weights=(0.5, 0.0, 1.0)))
    assert parse_manifest(PATH, known.to_bytes()) == known
    fields = json.loads(MANIFEST.to_bytes())
    del fields["model"]["fusion_weights"]
    assert parse_manifest(PATH, sealed(fields)).model.fusion_weights == (1, 0.3, 1)


def test_the_first_indexes_say_less_of_their_layout_and_stores():
    fields = json.loads(MANIFEST.to_bytes())
    del fields["multi_pooling"], fields["sparse_codec"], fields["dense_codec"]
    del fields["segments"][0]["stores"]["dense"]["details"]
    assert parse_manifest(PATH, sealed(fields)).layout == Layout("{text}", "int8", 1, "fp32")


def test_details_of_a_store_are_kept():
    store = StoreEntry("flat", (FILE,), {"probes": 8, "recall": 0.991})
    known = replace(MANIFEST, segments=(replace(SEGMENT, stores={"dense": store}),))
    assert parse_manifest(PATH, known.to_bytes()) == known


def test_fields_that_other_programs_read():
    fields = json.loads(MANIFEST.to_bytes())
    assert fields["format"] == "m3search-index"
    assert fields["version"] == 1
    assert (fields["documents"], fields["rows"], fields["commit"]) == (3, 5, 3)
    assert (fields["truncated"], fields["segments"][0]["truncated"]) == (4, 4)
    assert fields["segments"][0]["stores"]["dense"]["kind"] == "flat"
    assert fields["model"]["name"] == "fake"


@pytest.mark.parametrize("place", range(5))
def test_every_cut_is_noticed(place):
    content = MANIFEST.to_bytes()
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        parse_manifest(PATH, content[: len(content) * place // 5])


def test_every_changed_digit_is_noticed():
    content = MANIFEST.to_bytes()
    for place in [i for i, byte in enumerate(content) if chr(byte) in "12356789"]:
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(ArtifactError):
            parse_manifest(PATH, bytes(changed))


@pytest.mark.parametrize(
    ("old", "new"), [(b"\\u00fc", b"\\u00FC"), (b'{\n "', b'{\r "'), (b"}\n", b"}")]
)
def test_bytes_that_mean_the_same_are_told_apart(old, new):
    content = replace(MANIFEST, source="\u00fcber.jsonl").to_bytes()
    assert is_as_written(content)
    changed = content[::-1].replace(old[::-1], new[::-1], 1)[::-1]
    assert parse_manifest(PATH, changed) == parse_manifest(PATH, content)
    assert changed != content and not is_as_written(changed)


@pytest.mark.parametrize("content", [b"[]", b"null", b"{}", b'{"format": "lucene"}'])
def test_foreign(content):
    with pytest.raises(ArtifactError, match="m3search-index"):
        parse_manifest(PATH, content)


def test_newer_and_older():
    fields = json.loads(MANIFEST.to_bytes())
    with pytest.raises(ArtifactError, match=r"found version 2\. Update m3search"):
        parse_manifest(PATH, json.dumps({**fields, "version": 2}).encode())
    with pytest.raises(ArtifactError, match=r"found version 0\. Build"):
        parse_manifest(PATH, json.dumps({**fields, "version": 0}).encode())


@pytest.mark.parametrize("name", ["commit", "model", "segments", "codec_check"])
def test_a_missing_field(name):
    class Short(Manifest):
        def to_json(self):
            fields = super().to_json()
            del fields[name]
            return fields

    with pytest.raises(ArtifactError, match="fields of version 1"):
        parse_manifest(PATH, Short(**vars(MANIFEST)).to_bytes())


def test_arrays_written_in_pieces(tmp_path):
    path = tmp_path / "a.npy"
    with ArrayWriter(path, "<i4") as writer:
        for piece in ([], [1, 2], [3]):
            writer.append(piece)
    assert np.load(path).tolist() == map_array(path, "<i4", 3).tolist() == [1, 2, 3]
    with pytest.raises(ArtifactError, match=r"4 values of <i4.*found \(3,\) values"):
        map_array(path, "<i4", 4)
    with pytest.raises(ArtifactError, match="<i8"):
        map_array(path, "<i8")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    replace_file(path, b"one")

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"two")
    assert path.read_bytes() == b"one"
    assert checksum(path) == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
