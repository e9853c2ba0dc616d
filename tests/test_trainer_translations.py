"""English for pieces: from word lists, and from parallel texts, against IBM model 1 as written."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from new_vocabularies import write_old
from trainer_scripts import Record, script, write

translating, texts = script("word_translations"), script("training_texts")
swapping = script("swap_vocabulary")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return swapping.load_old(write_old(tmp_path_factory.mktemp("old"))).words


def make_sides(count: int) -> Any:
    """Texts of five words out of twenty, a piece and an English one that all have beside them."""
    random = np.random.default_rng(3)
    foreign, english = [], []
    for _ in range(count):
        said = random.choice(20, size=5, replace=False)
        foreign.append(np.append(100 + random.permutation(said), 99))
        english.append(np.append(random.permutation(said), 50))
    return translating.Sides(foreign, english)


def test_translations_by_word_lists(tmp_path: Path, old: Any) -> None:
    ids = old.tokenizer.get_vocab()
    (tmp_path / "lexicon.es-en.tsv").write_text("Agua\tWater\nagua\tthe light\nel faro\tlight\n")
    (tmp_path / "dictionary.it-en.tsv").write_text("faro\tlight\nxyz\tq\n")
    chances = np.zeros(len(old.vectors))
    chances[ids["the"]] = 1e-3
    files = translating.lexicon_files(tmp_path)
    english = translating.English(old, chances)
    found = translating.from_lexicons(files, {"▁agua": 7, "▁faro": 8, "▁el": 9}, english)
    assert set(found) == {7, 8} and found[8] == {ids["light"]: 1.0}
    assert found[7] == pytest.approx(  # a phrase of two words counts half, its rare one double
        {ids["water"]: 1.0, ids["light"]: 1 / 3, ids["the"]: 1 / 6}
    )


def test_translations_by_parallel_texts() -> None:
    found = translating.from_parallel({"xx": make_sides(400)})
    best = {piece: max(weights, key=lambda w: weights[w]) for piece, weights in found.items()}
    assert best == {100 + word: word for word in range(20)} | {99: 50}
    for piece, weights in found.items():
        assert weights[best[piece]] > 0.9 * sum(weights.values())


def slow_model_1(
    pairs: Sequence[tuple[list[int], list[int]]],
) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int], float]]:
    """Of (source, target): p(target | source) and the expected count, as Brown et al. write it."""
    chances: dict[tuple[int, int], float] = defaultdict(lambda: 1.0)
    for _ in range(translating.ROUNDS):
        counts: dict[tuple[int, int], float] = defaultdict(float)
        for sources, targets in pairs:
            for target in targets:
                total = sum(chances[source, target] for source in sources)
                for source in sources:
                    counts[source, target] += chances[source, target] / total
        totals: dict[int, float] = defaultdict(float)
        for (source, _), count in counts.items():
            totals[source] += count
        chances = {pair: count / totals[pair[0]] for pair, count in counts.items()}
    return chances, counts


def test_two_pieces_are_translations_where_each_is_of_the_other() -> None:
    random = np.random.default_rng(6)
    pairs = [
        (random.integers(3, 9, 4).tolist(), random.integers(20, 26, 3).tolist()) for _ in range(30)
    ]
    sides = translating.Sides(*(list(map(np.array, column)) for column in zip(*pairs, strict=True)))
    cells = translating.make_cells(sides)
    agreed, expected = translating.align(cells)
    there, counts = slow_model_1(pairs)
    back, counts_back = slow_model_1([(english, foreign) for foreign, english in pairs])
    kinds = list(zip(cells.foreign.tolist(), cells.english.tolist(), strict=True))
    assert len(kinds) == len(there)
    for (foreign, english), product, count in zip(kinds, agreed, expected, strict=True):
        both = there[foreign, english] * back[english, foreign]
        assert product == pytest.approx(both)
        least = min(counts[foreign, english], counts_back[english, foreign])
        assert count == pytest.approx(least)


def test_translations_weigh_as_often_as_they_were_seen() -> None:
    lists, parallel = {1: {5: 6.0, 6: 2.0}, 2: {7: 3.0}}, {1: {5: 0.5}, 3: {8: 0.1, 9: 0.2}}
    assert translating.merge([lists, parallel]) == {
        1: {5: 6.5, 6: 2.0},
        2: {7: 3.0},
        3: {8: 0.1, 9: 0.2},
    }
    assert lists[1] == {5: 6.0, 6: 2.0} and parallel[1] == {5: 0.5}


def test_cells_are_all_pairs_of_tokens() -> None:
    sides = translating.Sides(
        [np.array([5, 6]), np.array([5])], [np.array([1, 2, 1]), np.array([2, 3])]
    )
    cells = translating.make_cells(sides)
    met = Counter(zip(cells.foreign[cells.kinds], cells.english[cells.kinds], strict=True))
    assert met == {(5, 1): 2, (6, 1): 2, (5, 2): 2, (6, 2): 1, (5, 3): 1}
    places = list(zip(cells.rows.tolist(), cells.columns.tolist(), strict=True))
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 2), (4, 2)]


def count_cells(sides: Any) -> int:
    return sum(len(f) * len(e) for f, e in zip(sides.foreign, sides.english, strict=True))


def test_some_texts_of_too_many_cells() -> None:
    sides = make_sides(400)
    assert translating.limit_cells(sides, count_cells(sides)) is sides
    some = translating.limit_cells(sides, 1000)  # 36 of each text
    assert count_cells(some) == 27 * 36
    places = [
        next(n for n, ids in enumerate(sides.foreign) if ids is each) for each in some.foreign
    ]
    assert places == sorted(set(places)) and places[-1] > 300 and places[0] < 100
    for place, english in zip(places, some.english, strict=True):
        assert english is sides.english[place]
    again = translating.limit_cells(sides, 1000)
    assert all(a is b for a, b in zip(again.foreign, some.foreign, strict=True))
    assert translating.LONGEST**2 <= translating.MOST_CELLS  # so that a text is always left


def test_each_language_aligns_no_more_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make_cells(sides: Any) -> Any:
        cells = make(sides)
        made.append(len(cells.rows))
        return cells

    make = translating.make_cells
    monkeypatch.setattr(translating, "make_cells", make_cells)
    monkeypatch.setattr(translating, "MOST_CELLS", 7200)
    found = translating.from_parallel({"xx": make_sides(400), "yy": make_sides(10)})
    assert made == [7200, 360]
    best = {piece: max(weights, key=lambda w: weights[w]) for piece, weights in found.items()}
    assert best == {100 + word: word for word in range(20)} | {99: 50}


def test_english_pieces_are_those_no_rarer_in_english() -> None:
    sides = {
        "xx": translating.Sides([np.array([1, 1, 2])], [np.array([0])]),
        "yy": translating.Sides([np.array([2]), np.array([3, 3, 4, 4])], [np.array([0])] * 2),
    }
    english = np.array([1, 2, 2, 5])  # a quarter, a half, a quarter; of 8 tokens, a quarter each
    found = translating.english_pieces(sides, english, 6)
    assert found.tolist() == [False, True, True, False, False, True]  # 0 is met nowhere
    assert not translating.english_pieces(sides, np.empty(0, np.int64), 6)[1:5].any()


def test_parallel_pairs(tmp_path: Path) -> None:
    lines: list[Record] = [
        {"query": "faro", "pos": ["lighthouse"], "lang": "es-en"},
        {"query": "faro", "pos": ["one", "two"], "lang": "es-en"},
        {"query": "faro", "pos": ["phare"], "lang": "es-fr"},
        {"query": "light", "pos": ["light"], "lang": "en"},
    ]
    found = list(texts.read_parallel([write(tmp_path / "a.multi.jsonl", lines)]))
    assert found == [("es", "faro", "lighthouse")]
