"""The bundled sample keeps what its README promises."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from m3search.corpus import read_corpus, read_qrels, read_queries

SAMPLE = Path(__file__).parent.parent / "eval" / "sample"
LANGUAGES = {"ar", "en", "es", "hi", "ja", "ru", "sw", "zh"}


def test_forty_topics_in_eight_languages() -> None:
    documents = list(read_corpus(SAMPLE / "corpus.jsonl"))
    assert len(documents) == 320
    by_topic = Counter(document.metadata["topic"] for document in documents)
    assert len(by_topic) == 40
    assert set(by_topic.values()) == {8}
    assert {document.metadata["lang"] for document in documents} == LANGUAGES
    assert len({document.text for document in documents}) == 320
    for document in documents:
        assert document.id == f"{document.metadata['lang']}-{document.metadata['topic']}"
        assert document.title
        if document.metadata["lang"] in {"zh", "ja"}:
            assert 110 <= len(document.text) <= 260, document.id
        else:
            assert 60 <= len(document.text.split()) <= 120, document.id


def test_queries_are_judged_in_their_own_and_other_languages() -> None:
    queries = list(read_queries(SAMPLE / "queries.jsonl"))
    qrels = read_qrels(SAMPLE / "qrels" / "test.tsv")
    ids = {document.id for document in read_corpus(SAMPLE / "corpus.jsonl")}
    assert len(queries) == len(qrels) == 64
    for query in queries:
        grades = qrels[query.id]
        assert set(grades) <= ids
        language = query.id.split("-")[1]
        assert [d.split("-")[0] for d, grade in grades.items() if grade == 2] == [language]
        assert Counter(grades.values()) == {2: 1, 1: 7}


def test_the_sample_is_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 400_000
