"""Any sequence of changes, against a dictionary and loops over its documents."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from index_fakes import IDENTITY, TOLERANCE, VOCABULARY, FakeEncoder, slow_rank, slow_scores

from m3search.candidates import retrieve_documents
from m3search.index import Index
from m3search.records import MODES, Document
from m3search.stores import tiers
from m3search.stores.codecs import CODECS
from m3search.stores.floats import FLOATS
from m3search.stores.impacts import IMPACTS
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
TEXTS = st.sampled_from(["tea", "milk", "other"])
FEW = {"MOST_SEGMENTS": 3, "MOST_WHILE_BUILDING": 4, "MOST_ROWS": 8, "LEAST_DELETED": 2}
"""so that segments are merged, and written anew where most of one is deleted"""
MODEL = replace(IDENTITY, idf=True)


class Changes(RuleBasedStateMachine):
    """`held` maps an id to its document in the order of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.patches = contextlib.ExitStack()
        self.patches.enter_context(mock.patch("os.fsync"))  # no power is cut here
        self.patches.enter_context(mock.patch.multiple(tiers, **FEW))
        self.held: dict[str, Document] = {}

    def teardown(self) -> None:
        self.patches.close()
        shutil.rmtree(self.folder)

    @initialize(
        documents=DOCUMENTS,
        size=SIZES,
        layout=st.fixed_dictionaries(
            {
                "dense_codec": st.sampled_from([*FLOATS]),
                "sparse_codec": st.sampled_from([*IMPACTS]),
                "multi_codec": st.sampled_from([*CODECS]),
                "chunk": st.sampled_from([0, 2]),
            }
        ),
    )
    def build(self, documents, size, layout):
        self.layout, self.chunk = layout, layout["chunk"]
        folder, encoder = self.folder / "index", FakeEncoder(MODEL)
        self.index = Index.build(folder, documents, encoder, segment_documents=size, **layout)
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

    @rule(text=TEXTS, k=st.integers(1, 20), odd=st.booleans())
    @precondition(lambda self: not self.chunk)
    def retrieve(self, text, k, odd):
        encoder = FakeEncoder()
        names = list(self.held)
        rows = self.index.rows_of(names)
        documents = self.held.values()
        texts = encoder.encode(
            [f"{d.title}\n{d.text}" if d.title and d.text else d.title or d.text for d in documents]
        )
        stored = replace(
            self.index.as_stored(texts), multi=texts.multi
        )  # `slow_scores` rounds them
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
            slow = slow_scores(mode, query, stored, self.layout["multi_codec"])
            np.testing.assert_allclose(exact, slow, atol=TOLERANCE[mode])
            best = slow_rank(exact.tolist(), k, allowed, positive=mode == "sparse")
            hits = self.index.retrieve(mode, query, k, mask)
            found = hits.rows[0] >= 0
            assert hits.rows[0][found].tolist() == rows[best].tolist()
            assert hits.scores[0][found].tobytes() == exact[best].tobytes()
            assert hits.rows.shape == (1, k)

    @rule(text=TEXTS, k=st.integers(1, 20), wanted=st.sampled_from([None, "n>=2", "n=1", "n!=3"]))
    def answer(self, text, k, wanted):
        """As an index that is built at once from the documents that are left, also to a filter."""
        query = FakeEncoder().encode([text], "query")
        with tempfile.TemporaryDirectory() as folder:
            both = (
                self.index,
                Index.build(
                    Path(folder) / "fresh", self.held.values(), FakeEncoder(MODEL), **self.layout
                ),
            )
            masks = [index.select(wanted) for index in both]
            asked = [
                index.with_rarity(query, mask) for index, mask in zip(both, masks, strict=True)
            ]
            assert asked[0].sparse.data.tobytes() == asked[1].sparse.data.tobytes()
            for mode in MODES:
                found = [
                    retrieve_documents(index, mode, each, k, mask)
                    for index, each, mask in zip(both, asked, masks, strict=True)
                ]
                assert found[0].scores.tobytes() == found[1].scores.tobytes()
                here, there = (hits.rows[0][hits.rows[0] >= 0] for hits in found)
                assert self.index.ids(here) == both[1].ids(there)
                if self.chunk:
                    assert self.index.spans(here).tolist() == both[1].spans(there).tolist()


Changes.TestCase.settings = settings(max_examples=40, stateful_step_count=14, deadline=None)
TestChanges = Changes.TestCase
