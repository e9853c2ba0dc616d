"""BM25 written as its formula stands."""

from __future__ import annotations

from math import log


def slow_bm25(documents: list[list[str]], query: list[str], k1: float, b: float) -> list[float]:
    """Lucene's formula, term by term."""
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        total = 0.0
        for term in query:
            having = sum(term in other for other in documents)
            idf = log(1 + (len(documents) - having + 0.5) / (having + 0.5))
            often = words.count(term)
            total += idf * often / (often + k1 * (1 - b + b * len(words) / mean))
        scores.append(total)
    return scores
