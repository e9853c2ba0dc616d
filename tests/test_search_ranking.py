"""The query pipeline against one that scores every document in every mode and sorts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse as sp
from searching import (
    DIM,
    TEXTS,
    VOCABULARY,
    ListIndex,
    WordEncoder,
    make_index,
    make_searcher,
)

from m3search.records import MODES, Document, Encoded, Hit, Kind, Mode, Query, Token
from m3search.search import Searcher


def search_slowly(
    index: ListIndex,
    query: Encoded,
    k: int,
    *,
    weights: tuple[float, ...] = (1, 0.3, 1),
    depth: int = 200,
    modes: tuple[Mode, ...] = MODES,
    missing: str = "exact",
    candidates: str = "union",
) -> list[tuple[str, float]]:
    """(id, score) by the definition: no batch, no early cut, no array of scores."""
    live = [row for row in range(len(index.texts)) if row not in index.deleted]
    exact = {mode: {row: index.score(mode, query, row) for row in live} for mode in MODES}

    def best(mode: Mode, size: int) -> list[int]:
        rows = sorted(live, key=lambda row: (-np.float32(exact[mode][row]), row))
        return [row for row in rows if mode != "sparse" or exact[mode][row] > 0][:size]

    if len(modes) == 1 and candidates == "union":
        return [(index.texts[r].id, exact[modes[0]][r]) for r in best(modes[0], k)]
    stages = ["dense"] if candidates == "dense" else [m for m in modes if m != "multi"]
    lists = {mode: best(mode, max(depth, k)) for mode in stages}
    weight = dict(zip(MODES, weights, strict=True))
    if len(modes) == 1:
        weight = {modes[0]: 1.0}
    ranked = []
    for row in sorted(set().union(*lists.values())):
        total = 0.0
        for mode in modes:
            score = exact[mode][row]
            if missing != "exact" and mode in lists and row not in lists[mode]:
                listed = [exact[mode][other] for other in lists[mode]]
                score = min(listed) if missing == "min" and listed else 0.0
            total += weight[mode] * float(np.float32(score))
        ranked.append((row, total))
    ranked.sort(key=lambda pair: (-np.float32(pair[1]), pair[0]))
    return [(index.texts[row].id, score) for row, score in ranked[:k]]


some_words = st.lists(st.sampled_from(["tea", "rice", "late", "x"]), max_size=5).map(" ".join)

some_texts = st.lists(some_words, max_size=8)

mode_sets = st.lists(st.sampled_from(MODES), min_size=1, max_size=3, unique=True).map(
    lambda chosen: tuple(mode for mode in MODES if mode in chosen)
)


@settings(deadline=None, max_examples=300)
@given(
    texts=some_texts,
    query=some_words,
    k=st.one_of(st.integers(1, 3), st.just(20)),
    depth=st.integers(1, 5),
    modes=mode_sets,
    weights=st.tuples(*[st.sampled_from([0.15, 0.5, 1.0, 2.0])] * 3),
    missing=st.sampled_from(["exact", "zero", "min"]),
    candidates=st.sampled_from(["union", "dense"]),
    deleted=st.sets(st.integers(0, 7), max_size=3),
)
def test_search_agrees_with_scoring_everything(
    texts: list[str], query: str, k: int, deleted: set[int], **given: Any
) -> None:
    searcher = make_searcher(texts, deleted=[row for row in deleted if row < len(texts)])
    expected = search_slowly(searcher.index, WordEncoder().encode([query]), k, **given)
    hits = searcher.search(query, k, **given)
    assert [hit.document.id for hit in hits] == [name for name, _ in expected]
    assert [hit.score for hit in hits] == pytest.approx([s for _, s in expected], abs=1e-6)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    run = searcher.run([Query("q", query)], k, **given)
    assert list(run["q"].items()) == [(hit.document.id, hit.score) for hit in hits]


@given(texts=some_texts.filter(bool), query=some_words, modes=mode_sets)
@settings(deadline=None, max_examples=50)
def test_hits_carry_the_exact_score_of_every_mode(
    texts: list[str], query: str, modes: tuple[Mode, ...]
) -> None:
    searcher = make_searcher(texts)
    encoded = WordEncoder().encode([query])
    for hit in searcher.search(query, modes=modes, depth=1, missing="zero"):
        row = int(hit.document.id[1:])
        for mode in MODES:
            exact = searcher.index.score(mode, encoded, row)
            assert hit.scores[mode] == pytest.approx(exact, abs=1e-6)


def test_a_candidate_of_one_mode_gets_its_exact_score_in_the_others() -> None:
    """Depth 1: the dense stage finds row 0 only, the sparse stage row 1 only."""
    dense = np.array([[1.0, 0, 0, 0], [0.6, 0.8, 0, 0]], np.float32)
    index = make_index(["x", "y"])
    sparse = index.encoded.sparse[:0].__class__(np.array([[0.5, 0.0], [2.0, 0.0]], np.float32))
    vectors = [np.array([[0.0, 1.0, 0, 0]], np.float32), np.array([[1.0, 0, 0, 0]], np.float32)]
    index.encoded = Encoded(dense, sparse, vectors)
    query = Encoded(dense[:1], sparse.__class__(np.array([[1.0, 0.0]], np.float32)), vectors[1:])
    searcher = Searcher(index, WordEncoder())
    searcher.encode_query = lambda text: query  # type: ignore[method-assign]
    ask = {"k": 1, "depth": 1, "weights": (1, 1, 1)}
    # row 0: 1.0 + 0.5 + 0.0; row 1: 0.6 + 2.0 + 1.0
    (hit,) = searcher.search("q", **ask)
    assert (hit.document.id, hit.score) == ("d1", pytest.approx(3.6))
    assert hit.scores == {"dense": pytest.approx(0.6), "sparse": 2.0, "multi": 1.0}
    # what a stage did not return counts 0: row 1 loses its dense score, not the exact one shown
    (hit,) = searcher.search("q", missing="zero", **ask)
    assert (hit.score, hit.scores["dense"]) == (pytest.approx(3.0), pytest.approx(0.6))
    # or the minimum of the list: 1.0, that of row 0
    assert searcher.search("q", missing="min", **ask)[0].score == pytest.approx(4.0)
    # dense candidates only: row 1 is never seen, and the sparse score of row 0 is exact
    (hit,) = searcher.search("q", candidates="dense", missing="zero", **ask)
    assert (hit.document.id, hit.score) == ("d0", pytest.approx(1.5))
    # re-ranking dense candidates by one other mode, as the paper does for its multi rows
    (hit,) = searcher.search("q", k=1, depth=1, modes=("multi",), candidates="dense")
    assert (hit.document.id, hit.score) == ("d0", 0.0)


def test_depth_is_never_less_than_k() -> None:
    assert len(make_searcher().search("late", k=5, depth=1, modes=("dense", "multi"))) == 5


def test_equal_scores_come_in_the_order_of_rows() -> None:
    hits = make_searcher(["same words"] * 6).search("words", k=4)
    assert [hit.document.id for hit in hits] == ["d0", "d1", "d2", "d3"]


def test_k_beyond_the_corpus_gives_all_there_is() -> None:
    assert len(make_searcher().search("late", k=10**12, depth=10**12)) == len(TEXTS)


def test_an_empty_index_answers_with_nothing() -> None:
    searcher = make_searcher([])
    assert searcher.search("late") == []
    assert searcher.run([Query("1", "late"), Query("2", "")]) == {"1": {}, "2": {}}
    assert searcher.run([]) == {}
    assert make_searcher(["a"], deleted=[0]).search("a") == []


def test_an_empty_query_and_unknown_terms_are_answered_by_the_other_modes() -> None:
    searcher = make_searcher()
    for text in ("", "zzz"):
        assert searcher.search(text, modes=("sparse",)) == []
        hits = searcher.search(text, k=3)
        assert len(hits) == 3
        assert all(hit.scores["sparse"] == 0 for hit in hits)


def test_a_snippet_marks_what_weighs_in_the_query() -> None:
    """`late` has most of the query's weight; `a`, with a fifth of it, is left unmarked."""
    text = "late " * 5 + "a"
    document = Document("d", "a late hour, a late bus")
    encoder = WordEncoder()
    index = ListIndex([document], encoder.encode([document.text]))
    searcher = Searcher(index, encoder)  # type: ignore[arg-type]
    (hit,) = searcher.search(text, k=1)
    assert searcher.snippet(text, hit).mark() == "a **late** hour, a **late** bus"


def test_a_word_of_many_pieces_is_marked_though_each_weighs_little() -> None:
    """The whole word is a term of its own, which has no place in the text and weighs far more."""
    text = "the unbelievable rest"

    class Pieces(WordEncoder):
        def tokens(self, text: str, kind: Kind = "document") -> list[Token]:
            pieces = ["the", "un", "believ", "able", "rest"]
            starts = [text.index(piece) for piece in pieces]
            return [
                Token(row, piece, start, start + len(piece), row)
                for row, (piece, start) in enumerate(zip(pieces, starts, strict=True))
            ]

    searcher = Searcher(make_index([text]), Pieces())
    whole, weights = VOCABULARY - 1, [0.2, 0.3, 0.3, 0.3, 0.0]
    terms = np.zeros((1, VOCABULARY), np.float32)
    terms[0, :5], terms[0, whole] = weights, 1.0
    query = Encoded(np.eye(1, DIM, dtype=np.float32), sp.csr_array(terms), [np.eye(1, DIM)])
    searcher.encode_query = lambda _: query  # type: ignore[method-assign]
    hit = Hit(1, 1.0, Document("d0", text), {})
    assert searcher.snippet("q", hit).mark() == "the **unbelievable** rest"
