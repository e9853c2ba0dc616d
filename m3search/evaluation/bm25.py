"""The BM25 baseline: bm25s over the words of `words.py`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import bm25s

from m3search.corpus import document_text
from m3search.evaluation.baselines import K1, B
from m3search.evaluation.languages import Guess, checked_language
from m3search.evaluation.words import Tokenizer
from m3search.fusion import top_k
from m3search.records import Document, Query, Run


@dataclass(frozen=True)
class Language:
    """The language BM25 works in, and how it became known."""

    code: str | None
    origin: str
    """"given", or "guessed" with the largest share that one language has in a sample"""

    @classmethod
    def known_or_guessed(cls, given: str | None, guess: Guess) -> Language:
        """The language given, else the one guessed."""
        if given is not None:
            return cls(checked_language(given), "given")
        return cls(guess.language, f"guessed, {guess.share:.0%} of a sample")


class BM25:
    """A BM25 index in memory (the Lucene variant: Kamphuis et al. 2020)."""

    def __init__(
        self, documents: Iterable[Document], language: Language, *, k1: float = K1, b: float = B
    ) -> None:
        self.language = language
        self.k1, self.b = k1, b
        self._tokenize = Tokenizer(language.code)
        self._vocabulary: dict[str, int] = {}
        self._ids: list[str] = []
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene", backend="numpy")
        rows = []
        for document in documents:
            self._ids.append(document.id)
            rows.append([self._term(word) for word in self._tokenize(document_text(document))])
        if self._vocabulary:
            self._index.index((rows, dict(self._vocabulary)), show_progress=False)

    def _term(self, word: str) -> int:
        return self._vocabulary.setdefault(word, len(self._vocabulary))

    def run(self, queries: Iterable[Query], k: int = 100) -> Run:
        """The k best documents of every query that share a word with it.

        Order is score descending, then place in the corpus ascending.
        """
        return {query.id: self._search(query.text, k) for query in queries}

    def _search(self, text: str, k: int) -> dict[str, float]:
        words = self._tokenize(text)
        terms = [self._vocabulary[word] for word in words if word in self._vocabulary]
        if not terms:
            return {}
        scores = self._index.get_scores_from_ids(terms)
        found = scores.nonzero()[0]
        rows, best = top_k(found, scores[found], k)
        return {
            self._ids[row]: score for row, score in zip(rows.tolist(), best.tolist(), strict=True)
        }

    def settings(self) -> dict[str, Any]:
        """What a report says of the baseline, JSON-ready."""
        return {
            "implementation": f"bm25s {version('bm25s')}",
            "variant": "lucene",
            "k1": self.k1,
            "b": self.b,
            "language": self.language.code,
            "language_origin": self.language.origin,
            "stemmer": self._tokenize.stemmer,
            "stop_words": len(self._tokenize.stop_words),
            "terms": len(self._vocabulary),
        }
