"""Many queries: encoded once, run in batches, and asked from many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from searching import TEXTS, WordEncoder, make_searcher

from m3search.errors import ConfigError
from m3search.records import MODES, Query
from m3search.search import BATCH, EncodedQueries


def test_queries_are_encoded_once_for_many_runs() -> None:
    searcher = make_searcher()
    seen: list[int] = []
    queries = [Query(str(i), text) for i, text in enumerate(TEXTS)]
    encoded = searcher.encode(iter(queries), progress=seen.append)
    assert (len(encoded), sum(seen)) == (len(TEXTS), len(TEXTS))
    for modes in (("dense",), ("dense", "sparse"), MODES):
        assert searcher.run(encoded, 3, modes=modes) == searcher.run(queries, 3, modes=modes)
    assert searcher.encoder.encoded == TEXTS * 4


def test_a_run_of_many_batches_is_the_run_of_each_query() -> None:
    searcher = make_searcher()
    queries = [Query(str(i), TEXTS[i % 6] + " x" * (i % 3)) for i in range(BATCH + 3)]
    steps: list[int] = []
    run = searcher.run(queries, k=2, depth=2, progress=steps.append)
    assert steps == [BATCH, 3]
    assert list(run) == [query.id for query in queries]
    for query in (queries[0], queries[BATCH - 1], queries[BATCH], queries[-1]):
        hits = searcher.search(query.text, k=2, depth=2)
        assert list(run[query.id].items()) == [(hit.document.id, hit.score) for hit in hits]


def test_two_queries_of_one_id_are_refused() -> None:
    with pytest.raises(ConfigError, match="the id '1' twice"):
        make_searcher().run([Query("1", "a"), Query("1", "b")])


def test_the_same_query_gives_the_same_answer_from_many_threads() -> None:
    searcher = make_searcher()
    expected = {text: searcher.search(text) for text in TEXTS}
    with ThreadPoolExecutor(8) as pool:
        for text, hits in zip(TEXTS * 20, pool.map(searcher.search, TEXTS * 20), strict=True):
            assert hits == expected[text]


def test_encoded_queries_know_their_number() -> None:
    encoded = WordEncoder().encode(["a", "b"])
    assert len(EncodedQueries(("1", "2"), encoded)) == 2
