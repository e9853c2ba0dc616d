"""Small indexes of made-up documents, and what their answers have to be."""

from __future__ import annotations

import numpy as np
from index_fakes import TOLERANCE, FakeEncoder, slow_rank, slow_scores

from m3search.index import Index
from m3search.records import MODES, Document


def corpus(count, first=0, words="text"):
    return [
        Document(f"d{i}", f"{words} {i}", f"title {i % 3}" if i % 2 else "", {"n": i})
        for i in range(first, first + count)
    ]


def build(path, documents, **options) -> Index:
    options.setdefault("segment_documents", 7)
    return Index.build(path, documents, FakeEncoder(), **options)


def names(folder) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def contents(index) -> dict[str, Document]:
    rows = np.flatnonzero(index.select("id!=."))  # every live row
    return {document.id: document for document in index.documents(rows)}


def assert_ranks(index, queries=("text 3", "what", "")):
    """All three modes against loops over the documents, ties and bits included."""
    encoder = FakeEncoder()
    live = index.select("id!=.")
    documents = index.documents(np.arange(index.rows))
    texts = encoder.encode([f"{d.title}\n{d.text}" if d.title else d.text for d in documents])
    for text in queries:
        query = encoder.encode([text], "query")
        for mode in MODES:
            scores = slow_scores(mode, query, texts, index.manifest.layout.multi_codec)
            exact = index.scores(mode, query, np.arange(index.rows))
            np.testing.assert_allclose(exact, scores, atol=TOLERANCE[mode])
            for k in (1, 5, index.rows + 3):
                hits = index.retrieve(mode, query, k)
                rows = slow_rank(exact.tolist(), k, live, positive=mode == "sparse")
                found = hits.rows[0] >= 0
                assert hits.rows[0][found].tolist() == rows
                assert hits.scores[0][found].tobytes() == exact[rows].tobytes()
