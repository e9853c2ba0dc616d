"""Whole-word masks: word boundaries of every kind of vocabulary, and exact shares."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import sentencepiece_tokenizer, write_bert
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from m3search.errors import ArtifactError
from m3search.model.checkpoint import load_tokenizer
from m3search.model.tokenization import Ids
from m3search.training.masking import (
    WORD_PIECES,
    Vocabulary,
    corrupt,
    mask_words,
    word_numbers,
    word_starts,
)

ENGLISH = "Harbourmasters photographed the unforgettable lighthouse at Whitby, twice."


def byte_level_tokenizer(texts: list[str], prefix_space: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer as RoBERTa's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token"), special, strict=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="<mask>", **names)


@pytest.fixture(scope="module")
def wordpiece(
    tmp_path_factory: pytest.TempPathFactory, sample_texts: list[str]
) -> PreTrainedTokenizerFast:
    return load_tokenizer(write_bert(tmp_path_factory.mktemp("masking"), sample_texts[::8]))


@pytest.fixture(scope="module")
def metaspace(sample_texts: list[str]) -> PreTrainedTokenizerFast:
    return sentencepiece_tokenizer(sample_texts)


@pytest.fixture(scope="module")
def byte_level(sample_texts: list[str]) -> PreTrainedTokenizerFast:
    return byte_level_tokenizer(sample_texts[::8])


def words_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[list[str]]:
    """The pieces of each maskable word of a text."""
    vocabulary = Vocabulary.of(tokenizer, len(tokenizer))
    ids = np.array(tokenizer(text)["input_ids"])
    numbers = word_numbers(ids, vocabulary.starts, vocabulary.special)
    assert numbers[0] == numbers[-1] == -1
    pieces = np.array(tokenizer.convert_ids_to_tokens(ids))
    assert sorted(set(numbers[numbers >= 0])) == list(range(numbers.max() + 1))
    assert (np.diff(numbers[numbers >= 0]) >= 0).all()
    return [list(pieces[numbers == number]) for number in range(numbers.max() + 1)]


def test_a_word_of_wordpieces_is_what_the_tokenizer_was_given(
    wordpiece: PreTrainedTokenizerFast,
) -> None:
    words = words_of(wordpiece, ENGLISH)
    joined = ["".join(piece.removeprefix("##") for piece in word) for word in words]
    expected = ENGLISH.lower().replace(",", " ,").replace(".", " .").split()
    assert joined == expected
    assert max(map(len, words)) > 1


def test_a_word_of_sentencepieces_is_what_stands_between_spaces(
    metaspace: PreTrainedTokenizerFast,
) -> None:
    words = words_of(metaspace, ENGLISH)
    cut = [word for word in words if not word[0].startswith("▁")]
    assert all(len(words[words.index(word) - 1]) == WORD_PIECES for word in cut)
    assert "".join(piece for word in words for piece in word) == "▁" + ENGLISH.replace(" ", "▁")
    assert ["▁the"] in words
    assert max(map(len, words)) > 1


def test_a_word_of_bytes_is_what_stands_between_spaces(byte_level: PreTrainedTokenizerFast) -> None:
    words = words_of(byte_level, "the lighthouse\nat Whitby")
    assert ["".join(word) for word in words] == ["Ġthe", "Ġlighthouse", "Ċat", "ĠWhitby"]
    assert max(map(len, words)) > 1


def test_the_first_word_needs_no_space_before_it(sample_texts: list[str]) -> None:
    tokenizer = byte_level_tokenizer(sample_texts[::8], prefix_space=False)
    words = words_of(tokenizer, "lighthouse keepers")
    assert ["".join(word) for word in words] == ["lighthouse", "Ġkeepers"]


def test_pieces_of_scripts_without_spaces_are_words_to_sentencepiece(
    metaspace: PreTrainedTokenizerFast, sample_texts: list[str]
) -> None:
    text = next(text for text in sample_texts if "灯塔" in text).split("，")[0]
    words = words_of(metaspace, text)
    assert "".join(piece for word in words for piece in word).removeprefix("▁") == text
    assert len(words) > 5
    assert all(len(word) == 1 for word in words)


def test_a_vocabulary_that_marks_nothing_has_words_of_one_piece() -> None:
    pieces = ["[UNK]", *"abcdefghijklmnop▁Ġ"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    assert word_starts(fast, len(pieces) + 3).tolist() == [True] * (len(pieces) + 3)


def test_special_tokens_and_ids_without_a_piece_are_special(
    wordpiece: PreTrainedTokenizerFast,
) -> None:
    size = len(wordpiece)
    vocabulary = Vocabulary.of(wordpiece, size + 2)
    assert np.flatnonzero(vocabulary.special).tolist() == [0, 1, 2, 3, 4, size, size + 1]
    assert (vocabulary.pad_id, vocabulary.mask_id) == (0, 4)
    assert len(vocabulary.starts) == size + 2


def test_special_tokens_that_were_added_are_special_too(sample_texts: list[str]) -> None:
    tokenizer = byte_level_tokenizer(sample_texts[::8])
    tokenizer.add_tokens([AddedToken("<table>", special=True), AddedToken("<plain>")])
    vocabulary = Vocabulary.of(tokenizer, len(tokenizer))
    ids = tokenizer.convert_tokens_to_ids(["<table>", "<plain>", "<mask>"])
    assert vocabulary.special[ids].tolist() == [True, False, True]


def test_a_tokenizer_without_a_mask_token_cannot_pre_train() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ArtifactError, match="expected a mask token"):
        Vocabulary.of(PreTrainedTokenizerFast(tokenizer_object=tokenizer), 1)


STARTS = np.array([True, True, False, True])  # ids: special, begins, continues, begins
SPECIAL = np.array([True, False, False, False])


def slow_word_numbers(ids: Ids) -> list[int]:
    numbers, number, pieces = [], -1, 0
    for place, token in enumerate(ids):
        if SPECIAL[token]:
            numbers.append(-1)
            continue
        begins = STARTS[token] or place == 0 or SPECIAL[ids[place - 1]] or pieces == WORD_PIECES
        number, pieces = (number + 1, 1) if begins else (number, pieces + 1)
        numbers.append(number)
    return numbers


def test_a_special_token_ends_a_word_and_long_words_are_cut() -> None:
    ids = np.array([0, 2, 2, 1, 0, 2, 1, *[2] * 16, 3, 0])
    expected = [-1, 0, 0, 1, -1, 2, *[3] * 8, *[4] * 8, 5, 6, -1]
    assert word_numbers(ids, STARTS, SPECIAL).tolist() == expected == slow_word_numbers(ids)


@pytest.mark.parametrize("seed", range(20))
def test_word_numbers_equal_those_of_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.choice(4, size=rng.integers(1, 80), p=[0.05, 0.1, 0.8, 0.05])
    assert word_numbers(ids, STARTS, SPECIAL).tolist() == slow_word_numbers(ids)


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5])
def test_masks_hold_their_share_of_the_tokens_exactly_on_average(share: float) -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 9, 40)
    words = np.concatenate([[-1], np.repeat(np.arange(40), lengths), [-1]])
    masks = mask_words(words, share, rng, 4000)
    counts = masks.sum(axis=1)
    target = share * lengths.sum()
    assert counts.min() > target - 8
    assert counts.max() < target + 8
    error = counts.std() / np.sqrt(len(counts))
    assert abs(counts.mean() - target) < 4 * error < 0.2


def test_masks_take_whole_words_uniformly_and_never_a_special_token() -> None:
    rng = np.random.default_rng(2)
    lengths = np.full(30, 3)
    words = np.concatenate([[-1], np.repeat(np.arange(30), lengths), [-1]])
    masks = mask_words(words, 0.5, rng, 3000)
    assert not masks[:, words < 0].any()
    tokens = masks[:, 1:-1].reshape(3000, 30, 3)
    assert (tokens.all(axis=2) == tokens.any(axis=2)).all()
    frequency = tokens[:, :, 0].mean(axis=0)
    np.testing.assert_allclose(frequency, 0.5, atol=4.5 * 0.5 / np.sqrt(3000))
    together = np.corrcoef(tokens[:, :, 0].T)[np.triu_indices(30, 1)]
    assert np.abs(together).max() < 0.15  # words are not taken in each other's company
    assert len(np.unique(masks, axis=0)) > 2990  # nor one mask twice


def test_every_text_with_a_word_loses_one() -> None:
    rng = np.random.default_rng(3)
    assert mask_words(np.array([-1, 0, 0, 0, -1]), 0.01, rng, 50).sum(axis=1).tolist() == [3] * 50
    assert mask_words(np.array([-1, 0, 1, 2, -1]), 0.01, rng, 50).sum(axis=1).tolist() == [1] * 50
    assert not mask_words(np.array([-1, -1]), 0.5, rng, 2).any()
    assert mask_words(np.array([-1, -1]), 0.5, rng, 2).shape == (2, 2)


def test_a_long_text_is_masked_as_a_short_one() -> None:
    words = np.concatenate([[-1], np.repeat(np.arange(4095), 2), [-1]])
    hidden = mask_words(words, 0.3, np.random.default_rng(4))
    assert hidden.shape == (1, 8192)
    assert abs(int(hidden.sum()) - 0.3 * 8190) <= 2


def test_corruption_is_that_of_bert() -> None:
    rng = np.random.default_rng(5)
    special = np.arange(50) < 5
    vocabulary = Vocabulary(np.ones(50, dtype=bool), special, mask_id=4, pad_id=0)
    ids = rng.integers(5, 50, (4, 50_000))
    hidden = rng.random(ids.shape) < 0.3
    corrupted = corrupt(ids, hidden, vocabulary, rng)
    np.testing.assert_array_equal(corrupted[~hidden], ids[~hidden])
    before, after = ids[hidden], corrupted[hidden]
    masked, same = after == 4, after == before
    assert masked.mean() == pytest.approx(0.8, abs=0.01)
    assert same.mean() == pytest.approx(0.1 + 0.1 / 45, abs=0.01)
    counts = np.bincount(after[~masked & ~same], minlength=50)
    assert not counts[:5].any()
    np.testing.assert_allclose(counts[5:], counts[5:].mean(), rtol=0.4)
    assert ids.min() == 5  # the ids given are not written to
