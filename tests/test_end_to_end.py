"""The real encoder, index and searcher together, on a small checkpoint and on the embedded one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import m3search as m3
from m3search.corpus import document_text, read_corpus, read_qrels, read_queries
from m3search.encoder import Encoder
from m3search.records import Document
from m3search.scoring import maxsim

SAMPLE = Path(__file__).parent.parent / "eval" / "sample"
TEMPLATE = "{text} ({title})"


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [d for d in read_corpus(SAMPLE / "corpus.jsonl") if d.metadata["lang"] == "en"]


def test_hits_are_scored_as_their_texts_are_encoded(
    tiny_checkpoint: Path, tmp_path: Path, documents: list[Document]
) -> None:
    """Two segments, a title template of one's own, and an index opened anew without an encoder."""
    encoder = Encoder.load(tiny_checkpoint, device="cpu", dtype=torch.float32)
    m3.Index.build(
        tmp_path / "index", documents, encoder, title_template=TEMPLATE, segment_documents=25,
        multi_codec="fp16",
    )  # fmt: skip
    searcher = m3.Searcher(m3.Index.open(tmp_path / "index"))
    text = "which tree stores water?"
    query = encoder.encode([text], "query")
    hits = searcher.search(text, k=7, weights=(0.5, 2.0, 1.0))
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6, 7]
    for hit in hits:
        encoded = encoder.encode([document_text(hit.document, TEMPLATE)])
        dense = float(query.dense[0] @ encoded.dense[0])
        sparse = float((query.sparse @ encoded.sparse.T).toarray()[0, 0])
        multi = maxsim(query.multi[0], encoded.multi[0])
        expected = {"dense": dense, "sparse": sparse, "multi": multi}
        # documents are stored as the default precision of this machine makes them
        assert hit.scores == pytest.approx(expected, abs=2e-2)
        parts = [hit.scores["dense"], hit.scores["sparse"], hit.scores["multi"]]
        assert hit.score == pytest.approx(np.dot([0.5, 2.0, 1.0], parts), abs=1e-5)
        explanation = searcher.explain(text, hit)
        products = sum(match.product for match in explanation.terms)
        assert products == pytest.approx(hit.scores["sparse"], abs=1e-5)
        similarities = [match.similarity for match in explanation.tokens]
        assert np.mean(similarities) == pytest.approx(hit.scores["multi"], abs=1e-5)
        words = document_text(hit.document, TEMPLATE)
        assert all(match.document for match in explanation.tokens)
        matched = {match.document.strip("▁") for match in explanation.tokens} - {"</s>"}
        assert all(piece in words for piece in matched)
        own = searcher.explain(words, hit).tokens  # a text's tokens are nearest to themselves
        assert [match.query for match in own] == [token.text for token in encoder.tokens(words)]
        assert [match.document for match in own] == [match.query for match in own]


def test_the_embedded_model_answers_questions(tmp_path: Path, documents: list[Document]) -> None:
    index = m3.Index.build(tmp_path / "index", documents, m3.Encoder.load())
    assert index.manifest.model.name == "m3-mini"
    searcher = m3.Searcher(m3.Index.open(tmp_path / "index"))
    queries = [q for q in read_queries(SAMPLE / "queries.jsonl") if q.id.startswith("q-en")]
    qrels = {
        query: {d: grade for d, grade in grades.items() if grade == 2}
        for query, grades in read_qrels(SAMPLE / "qrels" / "test.tsv").items()
        if query.startswith("q-en")
    }
    for modes, least in ((("dense",), 0.9), (("sparse",), 0.7), (m3.records.MODES, 0.9)):
        run = searcher.run(queries, k=10, modes=modes)
        report = m3.evaluate({"run": run}, qrels, ["nDCG@10"])
        assert report.means["run"]["nDCG@10"] >= least, modes


def test_queries_rank_the_same_alone_and_in_a_file(
    tmp_path: Path, documents: list[Document]
) -> None:
    searcher = m3.Searcher(m3.Index.build(tmp_path / "index", documents, m3.Encoder.load()))
    queries = list(read_queries(SAMPLE / "queries.jsonl"))
    together = searcher.run(queries, k=10)
    for query in queries[:16]:
        alone = [hit.document.id for hit in searcher.search(query.text, k=10)]
        assert alone == list(together[query.id])
