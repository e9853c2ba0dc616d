"""The BM25 baseline by Lucene itself, which pyserini's package brings with it.

Lucene's classes are called without pyserini's own searcher: that one rounds scores to four digits,
moves equal ones apart, knows fewer languages, and loads torch and an OpenAI client.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

from m3search.corpus import document_text
from m3search.evaluation.baselines import K1, WORDS, B
from m3search.evaluation.bm25 import Language
from m3search.evaluation.java import Classes, start_java
from m3search.evaluation.words import Tokenizer
from m3search.records import Document, Query, Run

FIELD = "contents"
LUCENE = "org.apache.lucene"
BUFFER_MB = 64.0
"""of documents in memory before they become a segment"""
MOST_TERMS = 2**31 - 1
"""of a query; Lucene's own limit is 1024, and texts are queries, too"""

ANALYZERS = {
    "ar": "ar.ArabicAnalyzer", "bg": "bg.BulgarianAnalyzer", "bn": "bn.BengaliAnalyzer",
    "ca": "ca.CatalanAnalyzer", "ckb": "ckb.SoraniAnalyzer", "cs": "cz.CzechAnalyzer",
    "da": "da.DanishAnalyzer", "de": "de.GermanAnalyzer", "el": "el.GreekAnalyzer",
    "es": "es.SpanishAnalyzer", "et": "et.EstonianAnalyzer", "eu": "eu.BasqueAnalyzer",
    "fa": "fa.PersianAnalyzer", "fi": "fi.FinnishAnalyzer", "fr": "fr.FrenchAnalyzer",
    "ga": "ga.IrishAnalyzer", "gl": "gl.GalicianAnalyzer", "hi": "hi.HindiAnalyzer",
    "hu": "hu.HungarianAnalyzer", "hy": "hy.ArmenianAnalyzer", "id": "id.IndonesianAnalyzer",
    "it": "it.ItalianAnalyzer", "ja": "ja.JapaneseAnalyzer", "ko": "cjk.CJKAnalyzer",
    "lt": "lt.LithuanianAnalyzer", "lv": "lv.LatvianAnalyzer", "ne": "ne.NepaliAnalyzer",
    "nl": "nl.DutchAnalyzer", "no": "no.NorwegianAnalyzer", "pl": "morfologik.MorfologikAnalyzer",
    "pt": "pt.PortugueseAnalyzer", "ro": "ro.RomanianAnalyzer", "ru": "ru.RussianAnalyzer",
    "sr": "sr.SerbianAnalyzer", "sv": "sv.SwedishAnalyzer", "ta": "ta.TamilAnalyzer",
    "te": "te.TeluguAnalyzer", "th": "th.ThaiAnalyzer", "tr": "tr.TurkishAnalyzer",
    "uk": "uk.UkrainianMorfologikAnalyzer", "zh": "cjk.CJKAnalyzer",
}  # fmt: skip
"""Lucene's for each language but English, which has Anserini's: Porter's stemmer, 33 stop words"""


class _Analysis(NamedTuple):
    """What makes terms of a text."""

    name: str
    analyzer: Any
    """Lucene's"""
    read: Callable[[str], str]
    """what it is given of a text"""
    words: Mapping[str, Any]
    """what a report says of the words of bm25s, where these are what it is given"""


class LuceneBM25:
    """A BM25 index of Lucene in a temporary folder, which goes with the object.

    Documents without a term count neither for the mean length nor for a term's rarity, and
    lengths from 40 terms up are rounded to a byte: so does Lucene.
    """

    def __init__(
        self, documents: Iterable[Document], language: Language, *, k1: float = K1, b: float = B
    ) -> None:
        """ConfigError where the extra is not installed."""
        self.language = language
        self.k1, self.b = k1, b
        self._classes = start_java()
        self._analysis = _make_analysis(self._classes, language.code)
        self._ids: list[str] = []
        folder = tempfile.mkdtemp(prefix="m3search-lucene-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._searcher = self._index(documents, folder)
        self._queries = self._classes("io.anserini.search.query.BagOfWordsQueryGenerator")()

    def _index(self, documents: Iterable[Document], folder: str) -> Any:
        """The searcher over all documents, the number of each being its place."""
        java = self._classes
        similarity = java(f"{LUCENE}.search.similarities.BM25Similarity")(self.k1, self.b)
        settings = java(f"{LUCENE}.index.IndexWriterConfig")(self._analysis.analyzer)
        settings.setSimilarity(similarity)
        settings.setRAMBufferSizeMB(BUFFER_MB)
        settings.setMergePolicy(java(f"{LUCENE}.index.LogDocMergePolicy")())  # keeps the order
        directory = java(f"{LUCENE}.store.FSDirectory").open(
            java("java.nio.file.Paths").get(folder)
        )
        writer = java(f"{LUCENE}.index.IndexWriter")(directory, settings)
        entry, text_field = (
            java(f"{LUCENE}.document.{name}") for name in ("Document", "TextField")
        )
        no, read = java(f"{LUCENE}.document.Field$Store").NO, self._analysis.read
        for document in documents:
            self._ids.append(document.id)
            line = entry()
            line.add(text_field(FIELD, read(document_text(document)), no))
            writer.addDocument(line)
        writer.close()
        reader = java(f"{LUCENE}.index.DirectoryReader").open(directory)
        searchers = java(f"{LUCENE}.search.IndexSearcher")
        searchers.setMaxClauseCount(MOST_TERMS)
        searcher = searchers(reader, signature=f"(L{LUCENE.replace('.', '/')}/index/IndexReader;)V")
        searcher.setSimilarity(similarity)
        return searcher

    def run(self, queries: Iterable[Query], k: int = 100) -> Run:
        """The k best documents of every query that share a word with it.

        Order is score descending, then place in the corpus ascending.
        """
        return {query.id: self._search(query.text, k) for query in queries}

    def _search(self, text: str, k: int) -> dict[str, float]:
        words = self._analysis.read(text)
        query = self._queries.buildQuery(FIELD, self._analysis.analyzer, words)
        found = self._searcher.search(query, k).scoreDocs
        return {self._ids[hit.doc]: hit.score for hit in found}

    def settings(self) -> dict[str, Any]:
        """What a report says of the baseline, JSON-ready."""
        release = self._classes(f"{LUCENE}.util.Version").LATEST.toString()
        return {
            "implementation": f"Lucene {release} (pyserini {version('pyserini')})",
            "variant": "lucene",
            "k1": self.k1,
            "b": self.b,
            "language": self.language.code,
            "language_origin": self.language.origin,
            "analyzer": self._analysis.name,
            **self._analysis.words,
        }


def _make_analysis(java: Classes, language: str | None) -> _Analysis:
    """Lucene's analyser of the language, or where it has none the words that bm25s counts."""
    if language == "en":
        english = java("io.anserini.analysis.DefaultEnglishAnalyzer")
        return _Analysis("DefaultEnglishAnalyzer", english.newStemmingInstance("porter"), str, {})
    if language in ANALYZERS and (language != "th" or _splits_thai(java)):
        name = ANALYZERS[language]
        return _Analysis(name.split(".")[-1], java(f"{LUCENE}.analysis.{name}")(), str, {})
    words = Tokenizer(language)
    spaces = java(f"{LUCENE}.analysis.core.WhitespaceAnalyzer")()
    known = {"stemmer": words.stemmer, "stop_words": len(words.stop_words)}
    return _Analysis(WORDS, spaces, lambda text: " ".join(words(text)), known)


def _splits_thai(java: Classes) -> bool:
    """Whether this Java knows where Thai words end; one without the data of Thailand does not."""
    return bool(java(f"{LUCENE}.analysis.th.ThaiTokenizer").DBBI_AVAILABLE)
