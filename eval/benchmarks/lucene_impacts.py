"""Lucene's search by impacts: weights as whole numbers in place of frequencies of terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse as sp

from m3search.evaluation.java import start_java
from m3search.records import IntArray

LUCENE = "org.apache.lucene"
FIELD = "contents"
SCALE = 100
"""weights are multiplied by this and rounded up, as FlagEmbedding writes them for Anserini"""
BUFFER_MB = 256.0


class LuceneImpacts:
    """An index of lexical weights in Lucene, by Anserini's similarity for impacts."""

    def __init__(self, folder: Path, vectors: sp.csr_array, k: int) -> None:
        """vectors: (documents, vocabulary) weights."""
        self._java = start_java()
        self._k = k
        self._similarity = self._java("io.anserini.search.similarity.ImpactSimilarity")()
        self._searcher = self._index(folder, vectors)

    def answer(self, query: sp.csr_array) -> IntArray:
        """The numbers of the k best documents of a query (1, vocabulary)."""
        return np.array([hit.doc for hit in self.search(query).scoreDocs], dtype=np.int64)

    def search(self, query: sp.csr_array) -> Any:
        """The same as an object of Java: to read a thousand hits takes longer than to find them."""
        java = self._java
        builder = java(f"{LUCENE}.search.BooleanQuery$Builder")()
        should = java(f"{LUCENE}.search.BooleanClause$Occur").SHOULD
        terms, boosts = java(f"{LUCENE}.index.Term"), java(f"{LUCENE}.search.BoostQuery")
        term_query = java(f"{LUCENE}.search.TermQuery")
        for term, weight in zip(query.indices.tolist(), query.data.tolist(), strict=True):
            clause = boosts(term_query(terms(FIELD, str(term))), float(weight))
            builder.add(clause, should)
        return self._searcher.search(builder.build(), self._k)

    def _index(self, folder: Path, vectors: sp.csr_array) -> Any:
        java = self._java
        spaces = java(f"{LUCENE}.analysis.core.WhitespaceAnalyzer")()
        settings = java(f"{LUCENE}.index.IndexWriterConfig")(spaces)
        settings.setSimilarity(self._similarity)
        settings.setRAMBufferSizeMB(BUFFER_MB)
        settings.setMergePolicy(java(f"{LUCENE}.index.LogDocMergePolicy")())  # keeps the order
        place = java("java.nio.file.Paths").get(str(folder))
        directory = java(f"{LUCENE}.store.FSDirectory").open(place)
        writer = java(f"{LUCENE}.index.IndexWriter")(directory, settings)
        entry, field = java(f"{LUCENE}.document.Document"), java(f"{LUCENE}.document.TextField")
        no = java(f"{LUCENE}.document.Field$Store").NO
        frequencies = np.ceil(SCALE * vectors.data).astype(np.int64)
        for row in range(vectors.shape[0]):
            span = slice(vectors.indptr[row], vectors.indptr[row + 1])
            words = np.repeat(vectors.indices[span], frequencies[span])
            line = entry()
            line.add(field(FIELD, " ".join(map(str, words.tolist())), no))
            writer.addDocument(line)
        writer.forceMerge(1)
        writer.close()
        reader = java(f"{LUCENE}.index.DirectoryReader").open(directory)
        searcher = java(f"{LUCENE}.search.IndexSearcher")(
            reader, signature=f"(L{LUCENE.replace('.', '/')}/index/IndexReader;)V"
        )
        searcher.setSimilarity(self._similarity)
        return searcher
