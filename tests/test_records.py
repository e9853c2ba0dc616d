"""The data types: what cannot be changed, compared or left out by accident."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from searching import WordEncoder

from m3search.corpus import read_corpus
from m3search.records import Document, Encoded, Hit, Hits


def test_no_document_can_give_its_metadata_to_another() -> None:
    one, other = Document("1", "text"), Document("2", "text")
    with pytest.raises(TypeError):
        one.metadata["lang"] = "de"  # type: ignore[index]
    assert other.metadata == {} == dict(other.metadata)


def test_documents_without_metadata_are_pickled_copied_and_shown(tmp_path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "text": "tea"}\n')
    (read,) = read_corpus(tmp_path / "corpus.jsonl")
    held = Document("2", "tea", "Title", {"lang": "en"})
    for document in (read, held):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(document, protocol)) == document
        for again in (copy.copy(document), copy.deepcopy(document)):
            assert again == document and type(again) is Document
        shown = json.loads(json.dumps(Hit(1, 0.5, document, {"dense": 0.5}).to_json()))
        assert shown["metadata"] == dict(document.metadata)


def test_arrays_are_compared_by_those_who_know_what_is_meant() -> None:
    """A generated == would ask numpy for the truth of an array, and fail."""
    one, other = (WordEncoder().encode(["late tea"]) for _ in range(2))
    assert one == one and one != other and len({one, other}) == 2
    hits = [Hits.stack([([1], [0.5])], 2) for _ in range(2)]
    assert hits[0] == hits[0] and hits[0] != hits[1]
    np.testing.assert_array_equal(hits[0].rows, hits[1].rows)
    assert isinstance(one[:1], Encoded)
