"""Explanations add up to the scores they explain; snippets never cut a word or a mark."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from searching import WordEncoder, make_index, word_id

from m3search.errors import ConfigError
from m3search.records import Document, Hit, Token
from m3search.search import Searcher
from m3search.snippet import (
    Span,
    cut_snippet,
    is_boundary,
    joins_previous,
    printable,
    term_spans,
)

TEXTS = ["late interaction, late answers", "dense vectors", "an answer about tea"]


def spans_by_id(
    text: str, tokens: Sequence[Token], weights: Mapping[int, float], least: float = 0.0
) -> list[Span]:
    return term_spans(text, tokens, [weights.get(token.id, 0.0) for token in tokens], least)


def spans_of(text: str, *words: str) -> list[Span]:
    tokens = WordEncoder().tokens(text)
    return spans_by_id(text, tokens, {word_id(word): 1.0 for word in words})


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(st.text("abc ", max_size=12), min_size=1, max_size=5),
    query=st.text("abc ", max_size=8),
)
def test_terms_sum_to_sparse_and_tokens_average_to_multi(texts: list[str], query: str) -> None:
    searcher = Searcher(make_index(texts), WordEncoder())
    for hit in searcher.search(query):
        explanation = searcher.explain(query, hit)
        total = sum(match.product for match in explanation.terms)
        assert total == pytest.approx(hit.scores["sparse"], abs=1e-6)
        similarities = [match.similarity for match in explanation.tokens]
        mean = sum(similarities) / len(similarities)
        assert mean == pytest.approx(hit.scores["multi"], abs=1e-6)


def test_explanation_by_hand() -> None:
    searcher = Searcher(make_index(TEXTS), WordEncoder())
    hit = next(hit for hit in searcher.search("late vectors") if hit.document.id == "d0")
    explanation = searcher.explain("late vectors", hit)
    (term,) = explanation.terms
    assert term.term == "late"
    # the query has two words, the document four, two of them "late"
    assert (term.query_weight, term.document_weight, term.product) == (0.5, 0.5, 0.25)
    late, _, marker = explanation.tokens
    assert (late.query, late.document, late.similarity) == ("late", "late", pytest.approx(1.0))
    assert (marker.query, marker.document) == ("</s>", "</s>")
    assert explanation.to_json()["terms"] == [
        {"term": "late", "query_weight": 0.5, "document_weight": 0.5, "product": 0.25}
    ]


def test_terms_come_largest_product_first() -> None:
    searcher = Searcher(make_index(["tea rice rice rice"]), WordEncoder())
    (hit,) = searcher.search("tea rice")
    assert [match.term for match in searcher.explain("tea rice", hit).terms] == ["rice", "tea"]


def test_the_title_is_explained_with_the_text() -> None:
    searcher = Searcher(make_index([Document("1", "green leaves", "Tea")]), WordEncoder())
    (hit,) = searcher.search("tea")
    explanation = searcher.explain("tea", hit)
    assert [match.term for match in explanation.terms] == ["tea"]
    assert explanation.tokens[0].document == "Tea"


def test_pooled_vectors_have_no_token_to_name() -> None:
    index = make_index(TEXTS)
    index.encoded.multi[0] = index.encoded.multi[0][:2]
    searcher = Searcher(index, WordEncoder())
    hit = next(hit for hit in searcher.search("late") if hit.document.id == "d0")
    assert {match.document for match in searcher.explain("late", hit).tokens} == {""}


def test_only_documents_of_the_index_are_explained() -> None:
    searcher = Searcher(make_index(TEXTS), WordEncoder())
    stranger = Hit(1, 0.0, Document("x", "late"), {})
    with pytest.raises(ConfigError, match="found 'x'"):
        searcher.explain("late", stranger)


@pytest.mark.parametrize("field", ["text", "title"])
def test_a_document_that_was_replaced_since_is_not_explained(field: str) -> None:
    """Its old words with the vectors of the new ones would be an explanation of nothing."""
    index = make_index([Document("1", "late tea", "Tea"), Document("2", "rice")])
    searcher = Searcher(index, WordEncoder())
    hit = searcher.search("late", k=1)[0]
    assert searcher.explain("late", hit).terms
    index.texts[0] = index.texts[0]._replace(**{field: "other words"})
    with pytest.raises(ConfigError, match="'1', found others: it was replaced since"):
        searcher.explain("late", hit)
    index.texts[0] = hit.document._replace(metadata={"lang": "en"})  # decides no vector
    assert searcher.explain("late", hit).terms


def test_the_latest_query_is_not_encoded_again() -> None:
    encoder = WordEncoder()
    searcher = Searcher(make_index(TEXTS), encoder)
    for hit in searcher.search("late"):
        searcher.explain("late", hit)
        searcher.snippet("late", hit)
    assert encoder.encoded == ["late"]


def test_a_short_text_is_its_own_snippet() -> None:
    searcher = Searcher(make_index(TEXTS), WordEncoder())
    hit = next(hit for hit in searcher.search("late answers") if hit.document.id == "d0")
    expected = "**late** interaction, **late** **answers**"
    assert searcher.snippet("late answers", hit).mark() == expected
    assert searcher.snippet("late", hit).mark("[", "]") == "[late] interaction, [late] answers"


def test_a_long_text_is_cut_around_the_densest_group() -> None:
    text = "tea " + "word " * 200 + "green tea with rice " + "word " * 200 + "rice"
    spans = spans_of(text, "tea", "rice", "green")
    shown = cut_snippet(text, spans, 100).mark()
    assert "**green** **tea** with **rice**" in shown
    assert shown.startswith("…word ") and shown.endswith(" word…")
    assert 80 <= len(shown.replace("**", "")) <= 102


def test_different_words_weigh_more_than_one_repeated() -> None:
    text = "tea tea tea " + "word " * 100 + "tea rice " + "word " * 100
    assert "**tea** **rice**" in cut_snippet(text, spans_of(text, "tea", "rice"), 60).mark()


def test_heavy_words_weigh_more_than_light_ones() -> None:
    text = "the of " + "word " * 100 + "interaction " + "word " * 100
    weights = {word_id("the"): 0.1, word_id("of"): 0.1, word_id("interaction"): 0.3}
    spans = spans_by_id(text, WordEncoder().tokens(text), weights)
    assert "**interaction**" in cut_snippet(text, spans, 60).mark()


def test_without_a_match_the_beginning_is_shown() -> None:
    text = "start " + "word " * 100
    shown = cut_snippet(text, [], 50).mark()
    assert shown.startswith("start word") and shown.endswith("word…") and len(shown) <= 51
    assert cut_snippet("", [], 50).pieces == []


def test_pieces_of_words_mark_the_whole_word_or_nothing() -> None:
    text = "retrieval and retrieving"
    tokens = [
        Token(1, "retriev", 0, 7, 0), Token(2, "##al", 7, 9, 1),
        Token(1, "retriev", 14, 21, 2), Token(3, "##ing", 21, 24, 3),
    ]  # fmt: skip
    assert spans_by_id(text, tokens, {1: 0.5}) == [Span(0, 9, 0.5), Span(14, 24, 0.5)]
    assert spans_by_id(text, tokens, {3: 0.5, 2: 0.5}) == []  # an ending says little of a word
    assert spans_by_id(text, tokens, {1: 0.5, 3: 0.25})[1] == Span(14, 24, 0.75)


def test_a_word_of_many_light_pieces_weighs_what_they_do_together() -> None:
    text = "unbelievably so"
    tokens = [
        Token(1, "un", 0, 2, 0), Token(2, "##believ", 2, 8, 1), Token(3, "##ably", 8, 12, 2),
        Token(4, "so", 13, 15, 3),
    ]  # fmt: skip
    weights = {1: 0.25, 2: 0.25, 3: 0.25, 4: 0.5}
    assert spans_by_id(text, tokens, weights, 0.75) == [Span(0, 12, 0.75)]
    assert spans_by_id(text, tokens, weights, 0.5) == [Span(0, 12, 0.75), Span(13, 15, 0.5)]
    assert spans_by_id(text, tokens, weights, 0.8) == []


def test_of_a_matched_word_that_is_cut_the_rest_is_marked() -> None:
    text = "tea " + "x" * 200
    shown = cut_snippet(text, [Span(0, 3, 2.0), Span(4, 204, 1.0)], 100).mark()
    assert shown == f"**tea** **{'x' * 96}**…"
    assert cut_snippet("x" * 100, [Span(0, 100, 1.0)], 30).mark() == f"**{'x' * 30}**…"


def test_spaces_and_punctuation_inside_a_piece_are_not_marked() -> None:
    text = "green tea, rice"
    tokens = [Token(1, "▁tea", 5, 9, 0), Token(2, ",", 9, 10, 1), Token(3, "</s>", 0, 0, 2)]
    assert spans_by_id(text, tokens, {1: 1.0, 2: 1.0, 3: 1.0}) == [Span(6, 9, 1.0)]


def test_scripts_without_spaces_mark_the_piece_alone() -> None:
    text = "我们今天喝绿茶和咖啡"
    assert spans_by_id(text, [Token(1, "绿茶", 5, 7, 0)], {1: 1.0}) == [Span(5, 7, 1.0)]
    assert cut_snippet(text, [Span(5, 7, 1.0)]).mark() == "我们今天喝**绿茶**和咖啡"
    beside = [Span(5, 6, 1.0), Span(6, 7, 1.0), Span(8, 10, 1.0)]
    assert cut_snippet(text, beside).pieces == [
        ("我们今天喝", False), ("绿茶", True), ("和", False), ("咖啡", True),
    ]  # fmt: skip
    assert cut_snippet("กินข้าว", [Span(0, 3, 1.0), Span(3, 7, 1.0)]).mark() == "**กินข้าว**"
    assert cut_snippet("绿 茶", [Span(0, 1, 1.0), Span(2, 3, 1.0)]).mark() == "**绿** **茶**"
    mixed = "使用BGE模型"
    assert spans_by_id(mixed, [Token(1, "BG", 2, 4, 0)], {1: 1.0}) == [Span(2, 5, 1.0)]


def test_marks_stay_with_their_letters() -> None:
    hindi = "हिन्दी भाषा"  # the piece ends before a vowel sign
    assert spans_by_id(hindi, [Token(1, "हिन्द", 0, 5, 0)], {1: 1.0}) == [Span(0, 6, 1.0)]
    thai = "ที่นี่"  # a piece that stops between a consonant and its tone
    assert spans_by_id(thai, [Token(1, "ท", 0, 1, 0)], {1: 1.0}) == []
    assert spans_by_id(thai, [Token(1, "ที", 0, 2, 0)], {1: 1.0}) == [Span(0, 3, 1.0)]


def test_a_snippet_of_text_without_spaces_is_cut_anywhere_but_inside_a_cluster() -> None:
    text = "กี่" * 300
    shown = cut_snippet(text, [Span(450, 453, 1.0)], 60).mark()
    assert "**กี่**" in shown
    inner = shown.replace("**", "").strip("…")
    assert {inner[i : i + 3] for i in range(0, len(inner), 3)} == {"กี่"}


def test_control_characters_never_reach_a_terminal() -> None:
    text = "a\x1b[31mred\x07 \u202eabc\r\n\r\n  next\ud800"
    assert printable(text) == "a [31mred abc next\ufffd"
    assert cut_snippet(text, []).mark() == "a [31mred abc next\ufffd"


ANY_SCRIPT = st.text(
    st.one_of(
        st.sampled_from("ab é\u0301 \n.,-"),
        st.sampled_from("กีี่นที่ำ"),
        st.sampled_from("हिन्दी क्षेत्र"),
        st.sampled_from("日本語がパ\u3099、。"),
        st.sampled_from("\u1112\u1161\u11ab한글"),
        st.sampled_from("👩\u200d👧🏽🇩🇪🇫"),
        st.characters(codec="utf-8", categories=["L", "M", "N", "P", "Zs"]),
    ),
    max_size=200,
)


@st.composite
def texts_with_spans(draw: st.DrawFn) -> tuple[str, list[Span]]:
    text = draw(ANY_SCRIPT)
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=12))
    tokens = [Token(i, text[a:b], a, b, i) for i, (a, b) in enumerate(pairwise(sorted(cuts)))]
    return text, spans_by_id(text, tokens, {token.id: 1.0 for token in tokens[::2]})


@settings(deadline=None, max_examples=400)
@given(case=texts_with_spans(), width=st.integers(10, 80))
@example(case=("a" * 500, [Span(0, 500, 1.0)]), width=40)
@example(case=("\u0301" * 500, []), width=40)
def test_a_snippet_is_a_run_of_the_text_at_cluster_boundaries(
    case: tuple[str, list[Span]], width: int
) -> None:
    regex = pytest.importorskip("regex")
    text, spans = case
    for before, after in pairwise(spans):
        assert before.end <= after.start
    for span in spans:
        assert is_boundary(text, span.start) and is_boundary(text, span.end)
    pieces = cut_snippet(text, spans, width).pieces
    shown = "".join(piece for piece, _ in pieces)
    assert all(piece for piece, _ in pieces)
    longest = max([*(s.end - s.start for s in spans), *map(len, regex.findall(r"\X", text)), 0])
    assert len(shown) <= max(width, longest) + longest + 2
    body = shown.removeprefix("…" if text[:1] != "…" else "").removesuffix("…")
    if "…" in text or "-" in text:
        return
    assert body.strip() in printable(text)
    clusters = regex.findall(r"\X", printable(text))
    ends, position = {0}, 0
    for cluster in clusters:
        position += len(cluster)
        ends.add(position)
    whole, body = printable(text), body.strip()
    starts = [i for i in range(len(whole)) if whole.startswith(body, i)]
    assert not body or any(i in ends and i + len(body) in ends for i in starts)


@given(ANY_SCRIPT)
def test_no_combining_mark_may_be_parted_from_its_letter(text: str) -> None:
    for position in range(1, len(text)):
        if unicodedata.category(text[position]).startswith("M"):
            assert joins_previous(text, position) and not is_boundary(text, position)


@pytest.mark.parametrize(
    ("text", "position", "boundary"),
    [
        ("ab cd", 2, True),
        ("ab cd", 1, False),
        ("日本", 1, True),
        ("👩\u200d👧", 2, False),
        ("👧🏽", 1, False),
        ("🇩🇪", 1, False),
        ("a1", 1, False),
        ("ក្ក", 2, False),  # Khmer: the sign before the second letter puts it below the first
        ("a-b", 1, True),
        ("", 0, True),
    ],
)
def test_boundaries_by_hand(text: str, position: int, boundary: bool) -> None:
    assert is_boundary(text, position) is boundary
