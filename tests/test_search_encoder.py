"""The encoder of a searcher is the one that made the index, and is loaded once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from searching import IDENTITY, TEXTS, WordEncoder, make_index

from m3search.errors import ArtifactError
from m3search.records import MODES, Query
from m3search.search import Searcher


def test_an_encoder_that_did_not_make_the_index_is_refused() -> None:
    for other in (
        replace(IDENTITY, fingerprint="0" * 64),
        replace(IDENTITY, mcls=True),
        replace(IDENTITY, pooling="mean"),
    ):
        with pytest.raises(ArtifactError, match="expected the model that made the index"):
            Searcher(make_index(TEXTS), WordEncoder(other))
    Searcher(make_index(TEXTS), WordEncoder(replace(IDENTITY, max_length=64, name="/elsewhere")))


def test_an_index_that_another_model_made_meanwhile_is_refused() -> None:
    """As one may be that was built anew in the same folder, and is reached by a refresh."""
    searcher = Searcher(make_index(TEXTS), WordEncoder())
    query = searcher.encode([Query("q", "late")])
    assert searcher.search("late")
    newer = make_index(TEXTS)
    newer.manifest.model = replace(IDENTITY, fingerprint="0" * 64)
    searcher.index = newer
    for ask in (
        lambda: searcher.search("late"),
        lambda: searcher.run(query),
        lambda: next(searcher.candidates(query, stages=MODES, modes=MODES, depth=3)),
    ):
        with pytest.raises(ArtifactError, match="expected the model that made the index"):
            ask()


def test_the_encoder_of_the_manifest_is_loaded_once_and_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder_module = pytest.importorskip("m3search.encoder")
    asked: list[tuple[Any, ...]] = []
    identity = IDENTITY

    def load(name: str, **given: Any) -> WordEncoder:
        asked.append((name, given))
        return WordEncoder(identity)

    monkeypatch.setattr(encoder_module.Encoder, "load", load)
    searcher = Searcher(make_index(TEXTS))
    assert asked == []
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(searcher.search, TEXTS * 3))
    given = {"max_length": 512, "mcls": False, "backend": "torch"}
    assert asked == [("word-hash", given)]
    identity = replace(IDENTITY, fingerprint="0" * 64)
    with pytest.raises(ArtifactError, match="encoder word-hash"):
        Searcher(make_index(TEXTS)).search("late")
