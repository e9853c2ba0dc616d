"""Any sequence of changes, against a dictionary and loops over its documents."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from index_fakes import IDENTITY, TOLERANCE, VOCABULARY, FakeEncoder, slow_rank, slow_scores

from m3search.candidates import retrieve_documents
from m3search.index import Index
from m3search.records import MODES, Document
from m3search.stores.rarity import rarity

IDS = st.integers(0, 14).map(lambda number: f"d{number}")
DOCUMENTS = st.lists(
    st.builds(
        Document,
        id=IDS,
        text=st.sampled_from(["tea", "cup of tea", "", "milk"]),  # few: many documents tie
        title=st.sampled_from(["", "Title"]),
        metadata=st.fixed_dictionaries({"n": st.integers(0, 3)}),
    ),
    unique_by=lambda document: document.id,
    max_size=9,
)
SIZES = st.integers(1, 6)
MODEL = replace(IDENTITY, idf=True)


class Changes(RuleBasedStateMachine):
    """`held` maps an id to its document in the order of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.sync = mock.patch("os.fsync")  # nothing here needs to outlive a power cut
        self.sync.start()
        self.held: dict[str, Document] = {}

    def teardown(self) -> None:
        self.sync.stop()
        shutil.rmtree(self.folder)

    @initialize(
        documents=DOCUMENTS,
        size=SIZES,
        codec=st.sampled_from(["fp16", "int8"]),
        chunk=st.sampled_from([0, 2]),
    )
    def build(self, documents, size, codec, chunk):
        self.codec, self.chunk = codec, chunk
        self.index = Index.build(
            self.folder / "index",
            documents,
            FakeEncoder(MODEL),
            segment_documents=size,
            multi_codec=codec,
            chunk=chunk,
        )
        self.held = {document.id: document for document in documents}

    @rule(documents=DOCUMENTS, size=SIZES)
    def add(self, documents, size):
        replaced = sum(document.id in self.held for document in documents)
        report = self.index.add(documents, FakeEncoder(MODEL), segment_documents=size)
        assert (report.documents, report.replaced) == (len(documents), replaced)
        for document in documents:
            self.held.pop(document.id, None)
            self.held[document.id] = document

    @rule(names=st.lists(IDS, max_size=6))
    def delete(self, names):
        assert self.index.delete(names) == len(set(names) & set(self.held))
        for name in names:
            self.held.pop(name, None)

    @rule()
    def compact(self):
        self.index.compact()
        assert self.index.rows == self.index.manifest.live_rows
        assert self.chunk or self.index.rows == len(self.held)

    @rule()
    def reopen(self):
        self.index = Index.open(self.folder / "index")
        assert self.index.verify() == []

    @rule(number=st.integers(0, 3))
    def select(self, number):
        rows = np.flatnonzero(self.index.select(f"n>={number}"))
        wanted = [name for name, d in self.held.items() if d.metadata["n"] >= number]
        assert list(dict.fromkeys(self.index.ids(rows))) == wanted
        assert self.chunk or len(rows) == len(wanted)

    @invariant()
    def holds_the_documents(self):
        assert len(self.index) == len(self.held)
        rows = self.index.rows_of(list(self.held))
        assert (np.diff(rows) > 0).all()
        assert self.index.documents(rows) == list(self.held.values())

    @rule(text=st.sampled_from(["tea", "milk", "other"]), k=st.integers(1, 20), odd=st.booleans())
    def retrieve(self, text, k, odd):
        encoder = FakeEncoder()
        if self.chunk:
            self.retrieve_passages(encoder.encode([text], "query"), k)
            return
        names = list(self.held)
        rows = self.index.rows_of(names)
        documents = self.held.values()
        texts = encoder.encode(
            [f"{d.title}\n{d.text}" if d.title and d.text else d.title or d.text for d in documents]
        )
        query = encoder.encode([text], "query")
        allowed = rows % 2 == 1 if odd else None
        mask = np.arange(self.index.rows) % 2 == 1 if odd else None
        kept = texts.sparse if allowed is None else texts.sparse[np.flatnonzero(allowed)]
        counts = np.bincount(kept.indices, minlength=VOCABULARY)[query.sparse.indices]
        expected = query.sparse.data * rarity(counts, kept.shape[0])
        np.testing.assert_allclose(
            self.index.with_rarity(query, mask).sparse.data, expected, rtol=1e-6
        )
        for mode in MODES:
            exact = self.index.scores(mode, query, rows)
            slow = slow_scores(mode, query, texts, self.codec)
            np.testing.assert_allclose(exact, slow, atol=TOLERANCE[mode])
            best = slow_rank(exact.tolist(), k, allowed, positive=mode == "sparse")
            hits = self.index.retrieve(mode, query, k, mask)
            found = hits.rows[0] >= 0
            assert hits.rows[0][found].tolist() == rows[best].tolist()
            assert hits.scores[0][found].tobytes() == exact[best].tobytes()
            assert hits.rows.shape == (1, k)

    def retrieve_passages(self, query, k):
        """As an index that is built at once from the documents that are left."""
        with tempfile.TemporaryDirectory() as folder:
            fresh = Index.build(
                Path(folder) / "fresh",
                self.held.values(),
                FakeEncoder(MODEL),
                multi_codec=self.codec,
                chunk=self.chunk,
            )
            ours, theirs = self.index.with_rarity(query), fresh.with_rarity(query)
            assert ours.sparse.data.tobytes() == theirs.sparse.data.tobytes()
            for mode in MODES:
                ours, theirs = (
                    retrieve_documents(index, mode, query, k) for index in (self.index, fresh)
                )
                assert ours.scores.tobytes() == theirs.scores.tobytes()
                found = ours.rows[0] >= 0
                here, there = ours.rows[0][found], theirs.rows[0][found]
                assert self.index.ids(here) == fresh.ids(there)
                assert self.index.spans(here).tolist() == fresh.spans(there).tolist()


Changes.TestCase.settings = settings(max_examples=25, stateful_step_count=14, deadline=None)
TestChanges = Changes.TestCase
