"""A new vocabulary for an old encoder: where its pieces lie, and what smaller embeddings keep."""

from __future__ import annotations

import json
import types
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from new_vocabularies import train, write_old, write_training_files
from tiny_models import HIDDEN
from torch import nn
from trainer_scripts import Record, Runner, script, write
from transformers import AutoModel, ElectraModel

from m3search.errors import DataError
from m3search.model.checkpoint import load_backbone, load_tokenizer
from m3search.training.positions import extend_positions
from m3search.training.recipe import Start
from m3search.training.start import start_model

swapping = script("swap_vocabulary")
placing, translating, narrow, match, texts = map(
    script,
    ("piece_vectors", "word_translations", "factorised_embeddings", "vocabulary_match",
     "training_texts"),
)  # fmt: skip
SIZE = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_training_files(tmp_path_factory.mktemp("data"))
    (folder / "lexicon.es-en.tsv").write_text("agua\tWater\nfaro\tlighthouse\n", encoding="utf-8")
    (folder / "lexicon.sw-en.tsv").write_text("Maji\twater\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_old(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, data: Path, old: Path) -> Path:
    out = tmp_path_factory.mktemp("new") / "tokenizer"
    return train(data, out, "--old", old, "--old-words", 600)


@pytest.fixture(scope="module")
def swapped(
    tmp_path_factory: pytest.TempPathFactory, data: Path, old: Path, tokenizer: Path
) -> Path:
    out = tmp_path_factory.mktemp("swapped") / "electra"
    english = data / "text.en.jsonl.gz"
    options = ("--texts", english, "--lexicons", data, "--steps", 60)
    arguments = (old, tokenizer, "--out", out, "--embedding-size", SIZE, *options)
    report = out.parent / "report.json"
    swapping.main([str(each) for each in (*arguments, "--report", report)])
    return out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(swapping, capsys)


def old_words(old: Path) -> Any:
    return swapping.load_old(old).words


def test_pieces_of_the_same_text() -> None:
    old = {"[CLS]": 0, "water": 1, "##water": 2, "中": 3, "##文": 4, ",": 5, "##[CLS]": 6}
    new = ["[CLS]", "▁water", "water", "中", "文", "▁,", ",", "▁", "<0x41>", "▁中"]
    assert match.equal_pieces(new, old, ("[CLS]",)) == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 9: 3}


def test_equal_pieces_keep_their_vectors(old: Path, tokenizer: Path) -> None:
    words, new = old_words(old), load_tokenizer(tokenizer)
    pieces = new.convert_ids_to_tokens(list(range(len(new))))
    translations = {number: {5: 1.0} for number in range(len(pieces))}
    placed = placing.place_pieces(pieces, words, translations, seed=1)
    ids = words.tokenizer.get_vocab()
    for piece in ("▁water", "▁the", "▁,", "[MASK]"):
        number = new.get_vocab()[piece]
        assert placed.sources[number] == "equal"
        expected = words.vectors[ids[piece.removeprefix("▁")]]
        np.testing.assert_array_equal(placed.vectors[number], expected)
    assert placed.counts()["equal"] > 600


def test_the_other_pieces(old: Path) -> None:
    words = old_words(old)
    ids = words.tokenizer.get_vocab()
    pieces = ["▁agua", "▁waterlight", "▁water", "<0x41>", "▁中文"]
    translations = {0: {ids["water"]: 3.0, ids["light"]: 1.0}}
    placed = placing.place_pieces(pieces, words, translations, seed=1)
    assert placed.sources == ["translation", "parts", "equal", "none", "none"]
    vectors = words.vectors
    lengths = np.linalg.norm(vectors, axis=1)
    mean = 0.75 * vectors[ids["water"]] + 0.25 * vectors[ids["light"]]
    mean *= (0.75 * lengths[ids["water"]] + 0.25 * lengths[ids["light"]]) / np.linalg.norm(mean)
    np.testing.assert_allclose(placed.vectors[0], mean, rtol=1e-5)
    parts = words.tokenizer("waterlight", add_special_tokens=False)["input_ids"]
    direction = placed.vectors[1] / np.linalg.norm(placed.vectors[1])
    expected = vectors[parts].mean(axis=0)
    np.testing.assert_allclose(direction, expected / np.linalg.norm(expected), atol=1e-5)
    for unknown in placed.vectors[3:]:
        noise = (unknown - vectors.mean(axis=0)) / vectors.std(axis=0)
        assert 0 < np.abs(noise).max() < 6 * placing.NOISE
    again = placing.place_pieces(pieces, words, translations, seed=1)
    np.testing.assert_array_equal(again.vectors, placed.vectors)


def test_the_parts_of_a_piece_inside_words_are_those_inside_words(old: Path) -> None:
    words = old_words(old)
    ids = words.tokenizer.get_vocab()
    letters = [
        piece for piece in ids if len(piece) == 1 and f"##{piece}" in ids and piece.isalpha()
    ]
    first, second = next(
        (a, b) for a in letters for b in letters if a + b not in ids and f"##{a}{b}" not in ids
    )
    placed = placing.place_pieces([first + second, f"▁{first}{second}"], words, {}, seed=1)
    assert placed.sources == ["parts", "parts"]
    for vector, names in zip(
        placed.vectors, ((f"##{first}", f"##{second}"), (first, f"##{second}")), strict=True
    ):
        expected = words.vectors[[ids[name] for name in names]].mean(axis=0)
        np.testing.assert_allclose(
            vector / np.linalg.norm(vector), expected / np.linalg.norm(expected), atol=1e-5
        )


def test_translations_by_word_lists(tmp_path: Path, old: Path) -> None:
    words = old_words(old)
    ids = words.tokenizer.get_vocab()
    (tmp_path / "lexicon.es-en.tsv").write_text("Agua\tWater\nagua\tthe light\nel faro\tlight\n")
    (tmp_path / "lexicon.it-en.tsv").write_text("faro\tlight\nxyz\tq\n")
    chances = np.zeros(len(words.vectors))
    chances[ids["the"]] = 1e-3
    files = translating.lexicon_files(tmp_path)
    english = translating.English(words, chances)
    found = translating.from_lexicons(files, {"▁agua": 7, "▁faro": 8, "▁el": 9}, english)
    assert set(found) == {7, 8} and found[8] == {ids["light"]: 1.0}
    assert found[7] == pytest.approx(  # a phrase of two words counts half, its rare one double
        {ids["water"]: 1.0, ids["light"]: 1 / 3, ids["the"]: 1 / 6}
    )


def test_translations_by_parallel_texts() -> None:
    random = np.random.default_rng(3)
    foreign, english = [], []
    for _ in range(400):
        said = random.choice(20, size=5, replace=False)
        foreign.append(np.append(100 + random.permutation(said), 99))  # 99 is in every text
        english.append(np.append(random.permutation(said), 50))
    sides = {"xx": translating.Sides(foreign, english)}
    found = translating.from_parallel(sides)
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


def test_parallel_files_translate_new_pieces_into_old_ones(
    tmp_path: Path, old: Path, tokenizer: Path
) -> None:
    words, new = swapping.load_old(old), load_tokenizer(tokenizer)
    ids = words.words.tokenizer.get_vocab()
    foreign = sorted(p[1:] for p in new.get_vocab() if p[0] == "▁" and p[1:].isalpha() and p[4:])
    foreign = [word for word in foreign if word not in ids][:9]
    english = sorted(piece for piece in ids if piece.isalpha() and piece.isascii() and piece[4:])[
        :9
    ]
    random = np.random.default_rng(2)
    said = [random.choice(9, size=3, replace=False) for _ in range(60)]
    lines: list[Record] = [
        {
            "query": " ".join(foreign[n] for n in numbers),
            "pos": [" ".join(english[n] for n in back)],
        }
        for numbers, back in ((each, each[::-1]) for each in said)
    ]
    path = write(tmp_path / "a.xx-en.jsonl", lines)
    asked = types.SimpleNamespace(lexicons=None, parallel=[path])
    found = swapping.find_translations(asked, words, new, [])
    assert set(found) == {"parallel"}
    best = {piece: max(of, key=lambda word: of[word]) for piece, of in found["parallel"].items()}
    pairs = zip(foreign, english, strict=True)
    assert best == {new.get_vocab()[f"▁{piece}"]: ids[word] for piece, word in pairs}


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


def test_each_kind_of_translation_weighs_as_much() -> None:
    lists, parallel = {1: {5: 6.0, 6: 2.0}, 2: {7: 3.0}}, {1: {5: 0.5}, 3: {8: 0.1, 9: 0.1}}
    assert swapping.merge([lists, parallel]) == {
        1: {5: 1.75, 6: 0.25},
        2: {7: 1.0},
        3: {8: 0.5, 9: 0.5},
    }


def test_cells_are_all_pairs_of_tokens() -> None:
    sides = translating.Sides(
        [np.array([5, 6]), np.array([5])], [np.array([1, 2, 1]), np.array([2, 3])]
    )
    cells = translating.make_cells(sides)
    met = Counter(zip(cells.foreign[cells.kinds], cells.english[cells.kinds], strict=True))
    assert met == {(5, 1): 2, (6, 1): 2, (5, 2): 2, (6, 2): 1, (5, 3): 1}
    places = list(zip(cells.rows.tolist(), cells.columns.tolist(), strict=True))
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 2), (4, 2)]


def make_wide(rank: int, pieces: int = 300, hidden: int = 24) -> Any:
    torch.manual_seed(4)
    basis = torch.randn(rank, hidden)
    norm = nn.LayerNorm(hidden, eps=1e-12).requires_grad_(False)
    norm.weight.uniform_(0.5, 1.5)
    norm.bias.normal_()
    parts = (torch.randn(n, rank) @ basis for n in (pieces, 16, 2))
    return narrow.Wide(*parts, norm)


def occurrences(wide: Any, tokens: int = 5000) -> Any:
    words = torch.multinomial(1 / torch.arange(1.0, len(wide.words) + 1), tokens, replacement=True)
    positions = torch.randint(len(wide.positions), (tokens,))
    return narrow.Occurrences(words, positions, wide, seed=5)


def test_nothing_is_lost_where_the_vectors_need_no_more_dimensions() -> None:
    wide = make_wide(rank=9)
    seen = occurrences(wide)
    made = narrow.factorise(wide, 12, seen)
    assert narrow.relative_error(made, wide, seen.words, seen.positions) < 1e-3
    assert made.word_embeddings.weight.shape == (300, 12)


def test_frequent_words_lose_least() -> None:
    """Ten words that fill all texts, and 290 others that need other dimensions."""
    torch.manual_seed(4)
    often, seldom = torch.randn(10, 10) @ torch.randn(10, 24), torch.randn(290, 8)
    words = torch.cat([often, 0.5 * seldom @ torch.randn(8, 24)])
    norm = nn.LayerNorm(24, eps=1e-12).requires_grad_(False)
    wide = narrow.Wide(words, torch.zeros(16, 24), torch.zeros(2, 24), norm)
    places = torch.arange(5000)
    made = narrow.factorise(wide, 12, narrow.Occurrences(places % 10, places % 16, wide, seed=5))
    everywhere = torch.arange(16)
    errors = [
        narrow.relative_error(made, wide, some.repeat_interleave(16), everywhere.repeat(len(some)))
        for some in (torch.arange(10), torch.arange(10, 300))
    ]
    assert errors[0] < 0.8 * errors[1]


def test_refining_makes_the_error_smaller() -> None:
    wide = make_wide(rank=24)
    seen = occurrences(wide)
    made = narrow.factorise(wide, 12, seen)
    before = narrow.relative_error(made, wide, seen.words, seen.positions)
    narrow.refine(made, wide, seen, steps=100, rate=1e-2)
    after = narrow.relative_error(made, wide, seen.words, seen.positions)
    assert 0 < after < 0.97 * before


def test_the_swapped_encoder(swapped: Path, old: Path, tokenizer: Path) -> None:
    report = json.loads((swapped.parent / "report.json").read_text())
    before, after = report["relative_error"]["factorised"], report["relative_error"]["refined"]
    assert after["english"] < before["english"] and after["all_pieces"] < before["all_pieces"]
    assert sum(report["pieces"].values()) == len(load_tokenizer(tokenizer))
    assert report["pieces"]["translation"] == report["translated"]["lexicons"] >= 1
    model = AutoModel.from_pretrained(swapped)
    assert isinstance(model, ElectraModel) and model.config.embedding_size == SIZE
    total = sum(tensor.numel() for tensor in model.parameters())
    assert report["parameters"]["total"] == total
    longer = total + (8192 - 128) * SIZE + 129 * (HIDDEN + 1)
    assert report["parameters"]["megabytes_fp16"] == round(2 * longer / 1e6, 2)
    layers = load_backbone(old).encoder.state_dict()
    for name, tensor in model.encoder.state_dict().items():
        torch.testing.assert_close(tensor, layers[name], rtol=0, atol=0)
    text = "Water in the lighthouse"
    ids = load_tokenizer(swapped)(text)["input_ids"]
    assert ids == load_tokenizer(tokenizer)(text)["input_ids"]


def test_what_loads_the_swapped_encoder(swapped: Path) -> None:
    started = start_model(Start(str(swapped), multi_dim=16, pooling="mean", max_length=300))
    assert started.max_length == 300 and started.heads == ()
    ids = torch.tensor([started.tokenizer("water " * 280)["input_ids"]])
    with torch.autocast("cpu", torch.bfloat16):
        outputs = started.model(ids, torch.ones_like(ids))
    assert outputs.dense.shape == (1, HIDDEN) and outputs.dense.isfinite().all()
    backbone = load_backbone(swapped)
    extend_positions(backbone, 256)
    states = backbone.to(torch.bfloat16)(ids[:, :200])[0]
    assert states.dtype == torch.bfloat16 and states.isfinite().all()


def test_errors(
    tmp_path: Path, run: Runner, data: Path, old: Path, tokenizer: Path, tiny_checkpoint: Path
) -> None:
    english = ("--texts", data / "text.en.jsonl.gz")
    out = ("--out", tmp_path / "o", "--embedding-size", 8, *english)
    assert "expected a BERT encoder" in run.fail(tiny_checkpoint, tokenizer, *out)
    said = run.fail(old, tokenizer, *out, "--embedding-size", HIDDEN)
    assert f"--embedding-size: expected 2 to {HIDDEN - 1}" in said
    assert "expected word lists" in run.fail(old, tokenizer, *out, "--lexicons", tmp_path)
    one = write(tmp_path / "one.jsonl", [{"text": "t"}])
    assert "two English texts" in run.fail(old, tokenizer, *out, "--texts", one)
    assert "expected a new folder" in run.fail(old, tokenizer, *out, "--out", old)
    assert "usage" in run.fail(old, tokenizer, "--out", tmp_path / "o", *english)
    for line in ("agua", "agua\twater\tmore", "agua\t "):
        (tmp_path / "lexicon.es-en.tsv").write_text(f"faro\tlight\n{line}\n")
        with pytest.raises(DataError, match="line 2: expected a word, a tab and its English"):
            list(translating.read_lexicon(tmp_path / "lexicon.es-en.tsv"))


def test_parallel_pairs(tmp_path: Path) -> None:
    lines: list[Record] = [
        {"query": "faro", "pos": ["lighthouse"], "lang": "es-en"},
        {"query": "faro", "pos": ["one", "two"], "lang": "es-en"},
        {"query": "faro", "pos": ["phare"], "lang": "es-fr"},
        {"query": "light", "pos": ["light"], "lang": "en"},
    ]
    found = list(texts.read_parallel([write(tmp_path / "a.multi.jsonl", lines)]))
    assert found == [("es", "faro", "lighthouse")]
