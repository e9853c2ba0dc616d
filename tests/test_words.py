"""Words of several pieces as terms: which there are, what they weigh, and the same in training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from slow_numbers import GOLDEN, MASK, mix
from test_training_masking import byte_level_tokenizer
from tiny_models import sentencepiece_tokenizer, stating
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from m3search.encoder import Encoder
from m3search.errors import ArtifactError
from m3search.index import Index
from m3search.model.checkpoint import load_checkpoint, save_checkpoint
from m3search.model.terms import lexical_matrix
from m3search.model.tokenization import Tokenization
from m3search.model.word_numbers import WORD_COLUMNS
from m3search.model.words import NO_WORDS, Words, WordTable, word_weights
from m3search.records import Document, word_terms_of
from m3search.stores.manifest import _fingerprint, parse_manifest
from m3search.training.encoding import represent
from m3search.training.representations import Layout, lexical_scores

TEXT = "unforgettable lighthouses, unforgettable harbourmasters"


@pytest.fixture(scope="module")
def tokenization(sample_texts: list[str]) -> Tokenization:
    tokenizer = sentencepiece_tokenizer(sample_texts)
    return Tokenization(tokenizer, WordTable(tokenizer, len(tokenizer)))


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with words as terms."""
    return stating(tiny_checkpoint, tmp_path_factory.mktemp("words"), word_terms="words")


def words_of(tokenization: Tokenization, text: str) -> list[str]:
    terms = tokenization.terms(text, 512)
    pieces = set(tokenization.pieces(tokenization.encode([text], 512).ids[0].tolist()))
    return [name for name in terms.values() if name not in pieces]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TEXT, ["▁unforgettable", "▁lighthouses", "▁harbourmasters"]),
        ("harbourmasters-unforgettable.lighthouses", [
            "▁harbourmasters", "unforgettable", "lighthouses",
        ]),
        ("(unforgettable) ???? !!! ... ;;;", ["unforgettable"]),
        ("東京都庁舎 の 展望台", []),
        ("", []),
    ],
)  # fmt: skip
def test_words_end_at_spaces_and_punctuation(
    tokenization: Tokenization, text: str, expected: list[str]
) -> None:
    assert words_of(tokenization, text) == expected


def test_nothing_has_no_words(tokenization: Tokenization) -> None:
    found = tokenization.words.find(np.zeros(0, np.int64))
    assert [len(part) for part in found] == [0] * 4


def test_pieces_of_bytes_are_no_words(sample_texts: list[str]) -> None:
    tokenizer = byte_level_tokenizer(sample_texts)
    with pytest.raises(ArtifactError, match="expected pieces of letters, to have words as terms"):
        WordTable(tokenizer, len(tokenizer))


def test_words_of_a_wordpiece_vocabulary() -> None:
    """Whose pieces may begin with letters that stand for bytes in others."""
    names = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "če", "##sky", "##ch", "čaj", ",", "a"]
    model = models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", pad_token="[PAD]",
    )  # fmt: skip
    found = WordTable(tokenizer, len(names)).find(np.array([1, 4, 5, 6, 8, 7, 9, 4, 6, 2]))
    assert found.tokens.tolist() == [1, 2, 3, 7, 8] and found.sizes.tolist() == [3, 2]


def test_the_numbers_of_words_never_change(tokenization: Tokenization) -> None:
    """An index holds them: these are written down, and computed here in plain integers."""
    ids = np.array([0, 41, 42, 43, 2], np.int64)
    table = WordTable.__new__(WordTable)
    table.size = 100
    table._starts, table._joins = np.zeros((2, 100), bool)
    table._letters = None
    table._joins[[41, 42, 43]] = True
    (term,) = table.find(ids).terms
    total = sum(mix(mix(piece) + place * GOLDEN) for place, piece in enumerate((41, 42, 43), 1))
    assert term == 100 + (mix(total & MASK) >> 43)
    assert term == 100 + 1_780_868
    (other,) = table.find(ids[[0, 2, 1, 3, 4]]).terms
    assert other != term  # another order of the same pieces is another word


def test_words_spread_over_their_columns() -> None:
    """As many meet in one column as balls thrown at random meet in a box."""
    pairs = np.random.default_rng(0).integers(0, 90_000, (200_000, 2))
    pairs = np.unique(pairs, axis=0)
    ids = np.concatenate([pairs, np.full((len(pairs), 1), 90_000)], axis=1)
    table = WordTable.__new__(WordTable)
    table.size, table._starts, table._letters = 0, np.zeros(90_001, bool), None
    table._joins = np.arange(90_001) < 90_000
    terms = table.find(ids).terms
    assert len(terms) == len(pairs) and terms.min() >= 0 and terms.max() < WORD_COLUMNS
    filled = WORD_COLUMNS * (1 - np.exp(-len(pairs) / WORD_COLUMNS))
    assert len(np.unique(terms)) == pytest.approx(filled, rel=0.002)


def test_a_word_weighs_the_length_of_its_pieces() -> None:
    weights = np.array([[0.3, 0.4, 9.0, 0.0], [0.0, 1.0, 2.0, 2.0]], np.float32)
    factors = np.array([1, 1, 1, 1, 4, 1, 2], np.float32)
    words = Words(np.array([0, 1, 3, 4, 5, 6, 7]), np.array([2, 2, 3]), np.arange(3), factors)
    np.testing.assert_allclose(word_weights(weights, words), [0.5, 0.0, 4.0])
    assert len(word_weights(weights[:0], NO_WORDS)) == 0


def test_the_matrix_has_pieces_and_words(tokenization: Tokenization) -> None:
    """Beside loops over every text and word."""
    texts = [TEXT, "", "a lighthouse of lighthouses"]
    rows = tokenization.encode(texts, 64).ids
    width, size = max(map(len, rows)), len(tokenization._tokenizer)
    ids = np.full((3, width), tokenization.pad_id)
    for row, own in zip(ids, rows, strict=True):
        row[: len(own)] = own
    weights = np.random.default_rng(1).random(ids.shape).astype(np.float32)
    weights[:, ::5] = 0
    weights[2, 3:] = 0  # words whose pieces all weigh nothing
    kept = ~np.isin(ids, tokenization.special_ids)
    expected: list[dict[int, float]] = []
    for row, own, keep in zip(ids, weights, kept, strict=True):
        terms: dict[int, float] = {}
        for piece, weight in zip(row[keep], own[keep], strict=True):
            terms[piece] = max(terms.get(piece, 0.0), weight)
        found = tokenization.words.find(row)
        stop = 0
        for term, count in zip(found.terms, found.sizes, strict=True):
            places, stop = found.tokens[stop : stop + count], stop + count
            terms[term] = max(terms.get(term, 0.0), float(np.linalg.norm(own[places])))
        expected.append({term: weight for term, weight in terms.items() if weight > 0})
    columns = size + WORD_COLUMNS
    matrix = lexical_matrix(ids, weights, kept, columns, tokenization.words)
    assert matrix.shape == (3, columns) and matrix.has_sorted_indices
    for row, terms in enumerate(expected):
        line = matrix[[row]]
        assert line.indices.tolist() == sorted(terms)
        np.testing.assert_allclose(line.data, [terms[i] for i in line.indices], rtol=1e-6)
    assert max(expected[0]) >= size and not expected[1]
    assert len(tokenization.words.find(ids[2]).terms) and matrix.data.min() > 0


def test_an_encoder_with_words_has_all_that_one_without_has(
    checkpoint: Path, tiny_checkpoint: Path
) -> None:
    plain, encoder = (
        Encoder.load(folder, device="cpu", dtype=torch.float32)
        for folder in (tiny_checkpoint, checkpoint)
    )
    assert (encoder.identity.word_terms, plain.identity.word_terms) == ("words", "none")
    assert encoder.identity.fingerprint != plain.identity.fingerprint
    pieces = plain.identity.vocabulary
    assert encoder.identity.vocabulary == pieces + WORD_COLUMNS
    texts = [TEXT, "unforgettable", "of"]
    found, without = encoder.encode(texts), plain.encode(texts)
    assert (found.sparse[:, :pieces] != without.sparse).nnz == 0
    np.testing.assert_array_equal(found.dense, without.dense)
    scores = (found.sparse @ found.sparse.T).toarray()
    less = (without.sparse @ without.sparse.T).toarray()
    assert scores[0, 1] > less[0, 1] > 0 and scores[0, 2] == less[0, 2]
    names = encoder.terms(TEXT)
    assert set(found.sparse[[0]].indices.tolist()) <= set(names)
    assert "▁unforgettable" in names.values() and "</s>" not in names.values()
    weights = encoder.lexical_weights(found)[0]
    assert len(weights) == found.sparse[[0]].nnz
    assert sum(name.startswith("#") for name in weights) == sum(n >= pieces for n in names)
    named = encoder.lexical_weights(found, texts)[0]
    assert [*named.values()] == [*weights.values()] and set(named) == set(names.values())


def test_training_scores_as_the_encoder_does(checkpoint: Path) -> None:
    model, tokenizer, _ = load_checkpoint(checkpoint)
    words = WordTable(tokenizer, model.vocabulary)
    tokenization = Tokenization(tokenizer, words)
    texts = [[TEXT, "a lighthouse"], ["unforgettable lighthouses of whitby", TEXT, "tea"]]
    encoder = Encoder.load(checkpoint, device="cpu", dtype=torch.float32)
    encoded = [encoder.encode(part).sparse for part in texts]
    ids = [tokenization.encode(part, 64).ids for part in texts]
    parts = [represent(model, tokenization, rows, ["sparse"]) for rows in ids]
    layouts = [
        Layout.of(rows, tokenization.special_ids, torch.device("cpu"), words) for rows in ids
    ]
    scores = lexical_scores(layouts[0], parts[0].weights, layouts[1], parts[1].weights)
    expected = (encoded[0] @ encoded[1].T).toarray()
    torch.testing.assert_close(scores.detach(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)
    scores.sum().backward()
    assert float(model.sparse_linear.weight.grad.abs().max()) > 0


def test_words_without_a_weight_have_a_finite_gradient(tokenization: Tokenization) -> None:
    ids = tokenization.encode([TEXT], 64).ids
    layout = Layout.of(ids, tokenization.special_ids, torch.device("cpu"), tokenization.words)
    weights = torch.zeros(len(layout.terms), requires_grad=True)
    lexical_scores(layout, weights, layout, weights).sum().backward()
    assert torch.isfinite(weights.grad).all()


@pytest.mark.parametrize("found", ["yes", 1, None, ["words"]])
def test_word_terms_is_one_of_three(checkpoint: Path, tmp_path: Path, found: object) -> None:
    save_checkpoint(tmp_path, *load_checkpoint(checkpoint))
    record = json.loads((tmp_path / "m3.json").read_text())
    (tmp_path / "m3.json").write_text(json.dumps(record | {"word_terms": found}))
    with pytest.raises(ArtifactError, match=r"m3\.json: expected word_terms one of none, words"):
        load_checkpoint(tmp_path)


def test_the_layout_of_texts_is_that_of_each_of_them(
    tokenization: Tokenization, sample_texts: list[str]
) -> None:
    """No word goes on in the next text, and an empty text has nothing."""
    texts = [*sample_texts[:6], "", "lighthouse", "keepers", ""]
    ids = [np.asarray(row) for row in tokenization.encode(texts, 32).ids]
    for table in (tokenization.words, None):
        options = (tokenization.special_ids, torch.device("cpu"), table)
        apart = [Layout.of([row], *options) for row in ids]
        whole = Layout.of(ids, *options)
        before = np.cumsum([0, *(len(layout.terms) for layout in apart[:-1])])
        moved = [
            layout._replace(word_tokens=layout.word_tokens + int(start))
            for layout, start in zip(apart, before, strict=True)
        ]
        for joined, *parts in zip(whole, *moved, strict=True):
            assert torch.equal(joined, torch.cat(parts))
        assert len(whole.words) > 0 or table is None
        nothing = Layout.of([], *options)
        assert all(len(column) == 0 for column in nothing)


@pytest.mark.parametrize(
    ("found", "expected"),
    [(False, "none"), (True, "words"), ("none", "none"), ("words", "words"), ("stems", "stems"),
     ("x", None), (1, None), (None, None)],
)  # fmt: skip
def test_older_files_say_whether_words_are_terms(found: object, expected: str | None) -> None:
    assert word_terms_of(found) == expected


def test_an_index_that_says_true_has_words(checkpoint: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(checkpoint, device="cpu", dtype=torch.float32)
    Index.build(tmp_path, [Document("a", "tea")], encoder)
    fields = json.loads((tmp_path / "manifest.json").read_text())
    assert fields["model"]["word_terms"] == "words"

    def read(found: object) -> str:
        changed = {**fields, "model": {**fields["model"], "word_terms": found}}
        changed["sha256"] = _fingerprint({k: v for k, v in changed.items() if k != "sha256"})
        content = json.dumps(changed).encode()
        return parse_manifest(tmp_path / "manifest.json", content).model.word_terms

    assert (read(True), read(False), read("stems")) == ("words", "none", "stems")
    with pytest.raises(ArtifactError, match="word_terms 'other'"):
        read("other")
