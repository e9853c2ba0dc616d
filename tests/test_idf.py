"""Lexical weights times the rarity of their terms: in every search, and after every change."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_fakes import QUERIES, TEXTS, WORDS, WordEncoder, make_set
from index_fakes import IDENTITY, FakeEncoder, slow_scores
from scipy import sparse as sp
from tiny_models import stating
from typer.testing import CliRunner

from m3search.cli.program import app
from m3search.encoder import Encoder
from m3search.errors import ArtifactError
from m3search.evaluation import EvaluationSet, evaluate_sets
from m3search.index import Index
from m3search.model.checkpoint import load_checkpoint, read_info, save_checkpoint
from m3search.records import Document, Encoded, ModelIdentity, Query
from m3search.search import Searcher
from m3search.stores.rarity import rarity
from m3search.timings import WEIGH, Timings
from m3search.training.mining.candidates import Example, IndexSource

DOCUMENTS = [
    Document(f"d{i}", f"{'rare' if i % 7 == 0 else 'often'} text {i}", metadata={"n": i})
    for i in range(40)
]
RARE = replace(IDENTITY, idf=True)


def build(path: Path, documents: list[Document] = DOCUMENTS, **options: int) -> Index:
    return Index.build(path, documents, FakeEncoder(RARE), **options)


def slow_rarity(count: int, rows: int) -> float:
    return math.log(1 + (rows - count + 0.5) / (count + 0.5)) / math.log(1 + (rows - 0.5) / 1.5)


def slow_weights(query: Encoded, texts: Encoded) -> np.ndarray:
    """(columns,) of one query, by loops over the texts that may be found."""
    columns = [set(texts.sparse[[row]].indices.tolist()) for row in range(len(texts))]
    weights = np.zeros(query.sparse.shape[1])
    for term, weight in zip(query.sparse.indices, query.sparse.data, strict=True):
        count = sum(int(term) in row for row in columns)
        weights[term] = weight * slow_rarity(max(count, 1), len(columns))
    return weights


def texts_of(documents: list[Document]) -> Encoded:
    return FakeEncoder().encode([document.text for document in documents])


def test_rarity_is_one_for_the_rarest_and_falls() -> None:
    counts = np.array([1, 2, 10, 99, 100, 0])
    found = rarity(counts, 100)
    expected = [slow_rarity(max(int(count), 1), 100) for count in counts]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[0] == found[-1] == 1 and (np.diff(found[:-1]) < 0).all() and found[4] > 0
    assert rarity(np.array([1]), 1).tolist() == [1.0]
    assert rarity(np.zeros(2, np.int64), 0).tolist() == [1.0, 1.0]


def test_searches_weigh_terms_by_their_rarity(tmp_path: Path) -> None:
    index = build(tmp_path, segment_documents=7)
    assert len(index.manifest.segments) > 1
    searcher = Searcher(index, FakeEncoder(RARE))
    query = FakeEncoder().encode(["rare text 7"], "query")
    weights = slow_weights(query, texts_of(DOCUMENTS))
    np.testing.assert_allclose(index.with_rarity(query).sparse.toarray()[0], weights, rtol=1e-6)
    weighed = replace(query, sparse=sp.csr_array(weights[np.newaxis]))
    expected = slow_scores("sparse", weighed, texts_of(DOCUMENTS), "int4")
    by_id = dict(zip([document.id for document in DOCUMENTS], expected.tolist(), strict=True))
    hits = searcher.search("rare text 7", 5)
    assert {h.document.id: h.scores["sparse"] for h in hits} == pytest.approx(
        {h.document.id: by_id[h.document.id] for h in hits}, rel=1e-5
    )
    alone = searcher.run([Query("q", "rare text 7")], 40, modes=["sparse"])["q"]
    assert alone == pytest.approx({name: s for name, s in by_id.items() if s > 0}, rel=1e-5)
    (scored,) = searcher.candidates(searcher.encode([Query("q", "rare text 7")]), depth=40)
    found = dict(zip(scored.documents, scored.scored.scores["sparse"].tolist(), strict=True))
    assert found == pytest.approx(by_id, rel=1e-5)


def test_a_model_that_does_not_say_so_has_weights_as_they_are(tmp_path: Path) -> None:
    index = Index.build(tmp_path, DOCUMENTS, FakeEncoder())
    query = FakeEncoder().encode(["rare text 7"], "query")
    assert index.with_rarity(query) is query


def test_deleted_and_added_documents_count_at_once(tmp_path: Path) -> None:
    index = build(tmp_path / "changed", segment_documents=7)
    query = FakeEncoder().encode(["often text 1"], "query")
    index.with_rarity(query)  # what is counted here must not be taken later
    index.delete([document.id for document in DOCUMENTS[:15]])
    index.add([Document("new", "often text 1")], FakeEncoder(RARE))
    left = [*DOCUMENTS[15:], Document("new", "often text 1")]
    fresh = build(tmp_path / "fresh", left)
    for _ in range(2):
        found = index.with_rarity(query).sparse
        np.testing.assert_allclose(
            found.toarray()[0], slow_weights(query, texts_of(left)), rtol=1e-6
        )
        assert found.data.tobytes() == fresh.with_rarity(query).sparse.data.tobytes()
    index.compact()
    assert index.with_rarity(query).sparse.data.tobytes() == found.data.tobytes()


@pytest.mark.parametrize("condition", ["n<20", "n=7", "n>100"])
def test_a_filtered_search_is_a_search_of_the_filtered_corpus(
    tmp_path: Path, condition: str
) -> None:
    index = build(tmp_path / "all", segment_documents=9)
    index.delete(["d3"])
    kept = index.ids(np.flatnonzero(index.select(condition)))
    apart = build(tmp_path / "apart", [d for d in DOCUMENTS if d.id in kept])
    ours, theirs = (Searcher(each, FakeEncoder(RARE)) for each in (index, apart))
    found = ours.search("often text 1", 10, filter=condition)
    wanted = theirs.search("often text 1", 10)
    assert [(h.document.id, h.score, h.scores) for h in found] == [
        (h.document.id, h.score, h.scores) for h in wanted
    ]
    queries = [Query("q", "often text 1")]
    assert ours.run(queries, 10, filter=condition) == theirs.run(queries, 10)


def test_filtered_and_unfiltered_counts_do_not_mix(tmp_path: Path) -> None:
    """On one commit, in any order, with few rows left out, few kept, and half of them."""
    index = build(tmp_path, segment_documents=30)
    index.delete(["d1"])
    query = FakeEncoder().encode(["often text 1", "rare text 7", ""], "query")
    for condition in ("n<20", None, "n>=2", "n=7", None, "n<20"):
        mask = index.select(condition or "n>=0")
        kept = [d for d in DOCUMENTS if d.id in set(index.ids(np.flatnonzero(mask)))]
        found = index.with_rarity(query, mask if condition else None)
        for row in range(3):
            wanted = slow_weights(query[row : row + 1], texts_of(kept))
            np.testing.assert_allclose(found.sparse.toarray()[row], wanted, rtol=1e-6)


def test_passages_are_counted_as_rows(tmp_path: Path) -> None:
    documents = [Document(f"d{i}", f"tea and milk {i} and more {i}") for i in range(9)]
    index = build(tmp_path / "all", documents, chunk=2)
    index.delete(["d4"])
    left = [document for document in documents if document.id != "d4"]
    fresh = build(tmp_path / "left", left, chunk=2)
    assert index.rows > len(documents)
    ours, theirs = (Searcher(each, FakeEncoder(RARE)) for each in (index, fresh))
    for condition in (None, "id!=d3"):
        found, wanted = (
            [(h.document.id, h.score) for h in each.search("tea and", 9, filter=condition)]
            for each in (ours, theirs)
        )
        assert found == wanted


def test_only_what_asks_for_terms_counts_them(tmp_path: Path) -> None:
    searcher = Searcher(build(tmp_path), FakeEncoder(RARE))
    queries = [Query("q", "often text 1")]
    for modes, weighed in ((["dense"], False), (["dense", "multi"], False), (["sparse"], True)):
        with Timings() as timings:
            searcher.run(queries, modes=modes)
        assert (WEIGH in timings.seconds) is weighed


def test_an_index_without_documents_has_no_hits(tmp_path: Path) -> None:
    searcher = Searcher(build(tmp_path, []), FakeEncoder(RARE))
    assert searcher.search("tea") == [] and searcher.run([Query("q", "tea")]) == {"q": {}}


def test_threads_that_share_a_searcher_find_the_same(tmp_path: Path) -> None:
    index = build(tmp_path, segment_documents=7)
    index.delete(["d3", "d20"])
    searcher = Searcher(index, FakeEncoder(RARE))
    texts = [document.text for document in DOCUMENTS]
    alone = [searcher.run([Query("q", text)]) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: searcher.run([Query("q", text)]), texts))
    assert together == alone


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stating(tiny_checkpoint, tmp_path_factory.mktemp("idf"), idf=True)


def test_a_checkpoint_says_so(checkpoint: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert read_info(checkpoint).idf and not read_info(tiny_checkpoint).idf
    assert Encoder.load(checkpoint).identity.idf
    save_checkpoint(tmp_path, *load_checkpoint(checkpoint))
    record = json.loads((tmp_path / "m3.json").read_text())
    (tmp_path / "m3.json").write_text(json.dumps(record | {"idf": "yes"}))
    with pytest.raises(ArtifactError, match=r"m3\.json: expected idf true or false"):
        read_info(tmp_path)


@pytest.mark.parametrize("options", [(), ("--filter", "n<5")])
def test_what_is_explained_adds_up(
    checkpoint: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    texts = ["a lighthouse", "lighthouses of tea", "tea and bread", "the lighthouse", "bread"]
    documents = [Document(f"d{i}", text, metadata={"n": i}) for i, text in enumerate(texts * 3)]
    Index.build(tmp_path / "index", documents, Encoder.load(checkpoint))
    arguments = ["query", "lighthouse of bread", "--index", str(tmp_path / "index"), "--json",
                 "--explain", *options]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines
    for line in lines:
        products = sum(term["product"] for term in line["explain"]["terms"])
        assert products == pytest.approx(line["scores"]["sparse"], rel=1e-4)


def test_positives_of_mining_are_scored_as_candidates_are(tmp_path: Path) -> None:
    """Whether a positive is among the candidates or not, its score is the same."""
    searcher = Searcher(build(tmp_path), FakeEncoder(RARE))
    source = IndexSource(searcher, ["sparse"])
    query = "often text 1"
    ranked = list(searcher.run([Query("q", query)], 40, modes=["sparse"])["q"])
    last = next(document for document in DOCUMENTS if document.id == ranked[-1])
    few, all_of_them = (source.find([Example(query, (last,))], k)[0] for k in (1, 40))
    assert last.text not in [candidate.passage.text for candidate in few.candidates]
    assert few.positive_scores == pytest.approx(all_of_them.positive_scores, rel=1e-6)


def test_what_a_search_has_counted_serves_its_hits(checkpoint: Path, tmp_path: Path) -> None:
    documents = [Document(f"d{i}", f"lighthouse {i}", metadata={"n": i}) for i in range(9)]
    encoder = Encoder.load(checkpoint)
    searcher = Searcher(Index.build(tmp_path, documents, encoder), encoder)
    hits = searcher.search("a lighthouse", 3, filter="n<5")
    with Timings() as timings:
        for hit in hits:
            searcher.explain("a lighthouse", hit, "n<5")
            searcher.snippet("a lighthouse", hit, filter="n<5")
    assert hits and not {WEIGH, "filter"} & set(timings.seconds)


class RareEncoder(WordEncoder):
    """That of the evaluations' tests, of a model that asks for rarity."""

    @property
    def identity(self) -> ModelIdentity:
        return replace(super().identity, idf=True)


def test_an_evaluation_weighs_and_times_it(tmp_path: Path) -> None:
    """By loops over its documents; whole numbers, as Lucene has them, are left as they are."""
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("sparse",))
    encoder: Any = RareEncoder(WORDS)
    found = {}
    for kind in ("float", "ceil100"):
        kept: list[Any] = []
        experiment = evaluate_sets(
            [replace(wanted, lexical_weights=kind)],  # type: ignore[arg-type]
            lambda _: encoder,
            keep=lambda _, runs, *rest, kept=kept: kept.append(runs["sparse"]),
            latencies=True,
        )
        assert (WEIGH in experiment.sets[0].details["stages_ms"]) == (kind == "float")
        (found[kind],) = kept
    texts = encoder.encode([*TEXTS.values()])
    for name in ("q1", "q2"):
        query = encoder.encode([QUERIES[name]], "query")
        for kind, weights in (
            ("float", slow_weights(query, texts)),
            ("ceil100", query.sparse.toarray()[0]),
        ):
            scores = dict(zip(TEXTS, (texts.sparse @ weights).tolist(), strict=True))
            expected = {each: score for each, score in scores.items() if score > 0}
            assert expected and found[kind][name] == pytest.approx(expected, rel=1e-5)
