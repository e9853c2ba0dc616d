"""Stems of words as terms: which there are, what they weigh, and the same in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from slow_numbers import GOLDEN, MASK, mix
from tiny_models import sentencepiece_tokenizer, stating
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from m3search.encoder import Encoder
from m3search.index import Index
from m3search.model.checkpoint import load_checkpoint
from m3search.model.terms import lexical_matrix
from m3search.model.tokenization import Tokenization
from m3search.model.word_numbers import WORD_COLUMNS, first_letters, numbers_of, stem_hashes
from m3search.model.words import WordTable
from m3search.records import Document
from m3search.search import Searcher
from m3search.training.encoding import represent
from m3search.training.representations import Layout, lexical_scores

TEXT = "Computers compute; the computation of tea"


@pytest.fixture(scope="module")
def tokenization(sample_texts: list[str]) -> Tokenization:
    tokenizer = sentencepiece_tokenizer(sample_texts)
    return Tokenization(tokenizer, WordTable(tokenizer, len(tokenizer), stems=True))


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with stems as terms."""
    return stating(tiny_checkpoint, tmp_path_factory.mktemp("stems"), word_terms="stems")


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> Encoder:
    return Encoder.load(checkpoint, device="cpu", dtype=torch.float32)


def stems_of(tokenization: Tokenization, text: str) -> list[str]:
    return [name for name in tokenization.terms(text, 512).values() if name.endswith("*")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TEXT, ["compu*", "tea*"]),
        ("unforgettable-lighthouses", ["unfor*", "light*"]),
        ("Lighthouse lights the sea", ["light*", "sea*"]),
        ("1984 ... ???", ["1984*"]),
        ("東京都庁舎", []),
        ("", []),
    ],
)
def test_long_words_and_words_of_several_pieces_have_a_stem(
    tokenization: Tokenization, text: str, expected: list[str]
) -> None:
    assert stems_of(tokenization, text) == expected


def wordpiece_table(*pieces: str) -> tuple[WordTable, list[str]]:
    """Of a vocabulary of these pieces behind four special ones, and all their names."""
    names = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", *pieces]
    model = models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", pad_token="[PAD]",
    )  # fmt: skip
    return WordTable(tokenizer, len(names), stems=True), names


def test_forms_of_a_word_have_one_stem_wherever_they_are_cut() -> None:
    table, names = wordpiece_table(
        "com", "##put", "##er", "comp", "##uter", "##s", "computer", "c", "##ompute", "Com", "p",
        "abcde", "abc", "##de", "##om",
    )  # fmt: skip

    def stems(*pieces: str) -> list[int]:
        found = table.find(np.array([1, *(names.index(piece) for piece in pieces), 2]))
        return found.terms.tolist()

    (wanted,) = stems("computer")
    for cut in (("com", "##put", "##er"), ("comp", "##uter", "##s"), ("c", "##ompute"),
                ("Com", "##put")):  # fmt: skip
        assert stems(*cut) == [wanted]
    (other,) = stems("c", "##put")
    assert len(names) <= other != wanted >= len(names)
    for word in (("com",), ("Com",), ("c", "##om")):  # a piece has these letters
        assert stems(*word) == [names.index("com")]
    for word in (("abcde",), ("abcde", "##s"), ("abc", "##de", "##put")):
        assert stems(*word) == [names.index("abcde")]
    assert stems("comp", "com", "##put") == [names.index("comp"), wanted]  # each has its own


def test_the_numbers_of_stems_never_change() -> None:
    """An index holds them: these are written down, and computed here in plain integers."""

    def expected(letters: list[int]) -> int:
        parts = (mix(c + (1 << 32)) + n * GOLDEN for n, c in enumerate(letters, 1))
        return mix(sum(mix(part & MASK) for part in parts) & MASK) >> 43

    pieces = first_letters(["lig", "htho", "uses", "Σ", "Ä", "abcdefg"])
    found = numbers_of(stem_hashes(pieces, np.array([3, 2, 1]))).tolist()
    assert found == [
        expected([ord(c) for c in "light"]), expected([ord("σ"), ord("ä")]),
        expected([ord(c) for c in "abcde"]),
    ]  # fmt: skip
    assert found[0] == 129_732
    assert len(stem_hashes(pieces[:0], np.zeros(0, np.int64))) == 0


def test_letters_are_lowered_one_by_one() -> None:
    assert first_letters(["ΟΔΟΣ"]).tolist() == first_letters(["οδος"]).tolist()
    whole, cut = first_letters(["ΟΔΟΣ"]), first_letters(["ΟΔΟ", "Σ"])
    assert stem_hashes(whole, np.array([1])) == stem_hashes(cut, np.array([2]))
    assert first_letters(["İx", ""])[:, :3].tolist() == [[ord("i"), ord("x"), 0], [0, 0, 0]]


def test_letters_that_bytes_spell_are_letters() -> None:
    """Whatever the script: five letters of it make a stem, not five bytes."""
    words = ["ᱥᱟᱱᱛᱟᱲᱤ", "ᱥᱤᱧᱚᱛ", "ᱥᱟᱱᱛᱟᱣ", "aᱥᱟ"]
    names = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "▁b", "<0xyz>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)})),
        cls_token="<s>", sep_token="</s>",
    )  # fmt: skip
    table = WordTable(tokenizer, len(names), stems=True)

    def spell(word: str) -> list[int]:
        letters = word.removeprefix("a")
        first = [names.index("▁a" if word.startswith("a") else "▁")]
        return [*first, *(2 + byte for byte in letters.encode())]

    def stems(*words: str) -> list[int]:
        ids = np.array([0, *(number for word in words for number in spell(word)), 1])
        found = table.find(ids)
        return found.terms.tolist()

    one, two, three, four = stems(*words)
    assert one == three and len({one, two, four}) == 3
    assert [stems(word)[0] for word in words] == [one, two, three, four]
    expected = numbers_of(stem_hashes(first_letters([words[1]]), np.array([1])))[0]
    assert two == len(names) + expected
    assert table.name(one, np.array(spell(words[0])[1:])) == "ᱥᱟᱱᱛᱟ*"


def test_stems_spread_over_their_columns() -> None:
    """As many meet in one column as balls thrown at random meet in a box."""
    letters = np.random.default_rng(0).integers(97, 123, (200_000, 5))
    letters = np.unique(letters, axis=0)
    found = numbers_of(stem_hashes(letters, np.ones(len(letters), np.int64)))
    filled = WORD_COLUMNS * (1 - np.exp(-len(letters) / WORD_COLUMNS))
    assert len(np.unique(found)) == pytest.approx(filled, rel=0.002)


@pytest.mark.parametrize(
    "word",
    [("stone",), ("stone", "##ware"), ("ston", "##es"), ("Stone",), ("stone", "##s"), ("ston",),
     ("stoneware",)],
    ids="".join,
)  # fmt: skip
def test_every_word_counts_three_times_its_pieces(word: tuple[str, ...]) -> None:
    """Whether it is its stem, one of its pieces is, or another word's piece is, or none."""
    table, names = wordpiece_table("Stone", "stone", "##ware", "##s", "ston", "##es", "stoneware")
    ids = np.array([[1, *(names.index(piece) for piece in word), 2]])
    weights = np.random.default_rng(2).random(ids.shape).astype(np.float32)
    kept = np.array([[False, *[True] * len(word), False]])
    found = lexical_matrix(ids, weights, kept, len(names) + WORD_COLUMNS, table)
    assert found.nnz == len(word) + (names[table.find(ids[0]).terms[0]] not in word)
    expected = 3 * float((weights[kept] ** 2).sum())
    assert (found @ found.T).sum() == pytest.approx(expected, rel=1e-6)


def test_two_stems_whose_numbers_are_one_do_not_share_a_piece() -> None:
    """By letters drawn until two numbers are one, as of 26,000 pieces and a million stems many."""
    letters = np.unique(np.random.default_rng(0).integers(97, 123, (20_000, 5)), axis=0)
    numbers = numbers_of(stem_hashes(letters, np.ones(len(letters), np.int64)))
    _, first, counts = np.unique(numbers, return_index=True, return_counts=True)
    number = numbers[first[counts > 1][0]]
    one, other = ("".join(map(chr, letters[row])) for row in np.flatnonzero(numbers == number)[:2])
    table, names = wordpiece_table(one, other[:2], f"##{other[2:]}")
    ids = np.array([names.index(piece) for piece in (one, other[:2], f"##{other[2:]}")])
    assert table.find(ids).terms.tolist() == [names.index(one), len(names) + number]


def test_stems_weigh_what_loops_say(tokenization: Tokenization) -> None:
    """Beside a loop over every text and word."""
    texts = [TEXT, "", "a lighthouse of lighthouses and light", "tea"]
    rows = tokenization.encode(texts, 64).ids
    size, table = len(tokenization._tokenizer), tokenization.words
    ids = np.full((len(rows), max(map(len, rows))), tokenization.pad_id)
    for row, own in zip(ids, rows, strict=True):
        row[: len(own)] = own
    weights = np.random.default_rng(1).random(ids.shape).astype(np.float32)
    kept = ~np.isin(ids, tokenization.special_ids)
    matrix = lexical_matrix(ids, weights, kept, size + WORD_COLUMNS, table)
    vocabulary = tokenization._tokenizer.get_vocab()
    for number, (text, row) in enumerate(zip(texts, rows, strict=True)):
        names = tokenization.pieces(row.tolist())
        words: list[list[tuple[str, float]]] = []
        for name, weight in list(zip(names, weights[number].tolist(), strict=False))[1:-1]:
            letters = name.strip("▁")
            if not letters.isalnum():
                words.append([])
            elif name.startswith("▁"):
                words.append([(name, weight)])
            else:
                words[-1].append((name, weight))
        wanted: dict[str, float] = {}
        for word in words:
            stem = "".join(name for name, _ in word).strip("▁").lower()[:5]
            piece = f"▁{stem}"
            square = sum(2 * weight**2 + (name == piece) * weight**2 for name, weight in word)
            stem_entry = (piece if piece in vocabulary else f"{stem}*", square**0.5)
            for name, weight in [*word, stem_entry] if word else ():
                wanted[name] = max(wanted.get(name, 0.0), weight)
        line = matrix[[number]]
        found = dict(zip(line.indices.tolist(), line.data.tolist(), strict=True))
        named = {name: found[term] for term, name in tokenization.terms(text, 64).items()}
        lettered = {name: w for name, w in named.items() if name.strip("▁*").isalnum()}
        assert lettered == pytest.approx(wanted)


def test_only_forms_of_words_are_found_beside_what_was(
    encoder: Encoder, tiny_checkpoint: Path
) -> None:
    plain = Encoder.load(tiny_checkpoint, device="cpu", dtype=torch.float32)
    pieces = plain.identity.vocabulary
    assert encoder.identity.word_terms == "stems"
    assert encoder.identity.vocabulary == pieces + WORD_COLUMNS
    texts = ["harbourmasters", "harbours", "of"]
    found, without = encoder.encode(texts), plain.encode(texts)
    unlike = (found.sparse[:, :pieces] != without.sparse).tocoo()
    assert unlike.coords[0].tolist() == [2]  # a short word has no stem and weighs more in its place
    np.testing.assert_allclose(found.sparse[[2]].max(), 3**0.5 * without.sparse[[2]].max(), 1e-6)
    own = found.sparse[:, pieces:]
    scores = (own @ own.T).toarray()
    assert scores[0, 1] > 0 and scores[0, 2] == scores[1, 2] == 0
    named = encoder.lexical_weights(found, texts)
    assert "harbo*" in named[0] and "harbo*" in named[1]


def test_training_scores_stems_as_the_encoder_does(checkpoint: Path, encoder: Encoder) -> None:
    model, tokenizer, _ = load_checkpoint(checkpoint)
    table = WordTable(tokenizer, model.vocabulary, stems=True)
    tokenization = Tokenization(tokenizer, table)
    texts = [[TEXT, "a lighthouse"], ["lights, computing and lighthouses", TEXT, "tea"]]
    encoded = [encoder.encode(part).sparse for part in texts]
    ids = [tokenization.encode(part, 64).ids for part in texts]
    parts = [represent(model, tokenization, rows, ["sparse"]) for rows in ids]
    special = tokenization.special_ids
    layouts = [Layout.of(rows, special, torch.device("cpu"), table) for rows in ids]
    scores = lexical_scores(layouts[0], parts[0].weights, layouts[1], parts[1].weights)
    expected = (encoded[0] @ encoded[1].T).toarray()
    torch.testing.assert_close(scores.detach(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)
    scores.sum().backward()
    assert float(model.sparse_linear.weight.grad.abs().max()) > 0


def test_an_index_finds_another_form_and_says_why(encoder: Encoder, tmp_path: Path) -> None:
    documents = [
        Document("form", "the harbours of whitby"), Document("none", "tea and bread"),
    ]  # fmt: skip
    index = Index.build(tmp_path / "index", documents, encoder)
    assert Index.open(tmp_path / "index").manifest.model == encoder.identity
    (hit,) = Searcher(index, encoder).search("harbourmasters", modes=("sparse",))
    assert hit.document.id == "form"
    assert "**harbours**" in Searcher(index, encoder).snippet("harbourmasters", hit).mark()
    matches = Searcher(index, encoder).explain("harbourmasters", hit).terms
    assert "harbo*" in {match.term for match in matches}
    assert sum(match.product for match in matches) == pytest.approx(hit.score, rel=1e-5)


def test_a_token_weighs_its_piece_and_its_share_in_a_word(tokenization: Tokenization) -> None:
    text = "harbours the"
    (ids,) = tokenization.encode([text], 64).ids
    by_name = {name: column for column, name in tokenization.terms(text, 64).items()}
    pieces = tokenization.pieces(ids.tolist())
    inside = next(n for n, piece in enumerate(pieces[2:], 2) if piece.startswith("▁")) - 1
    share = 1.2 / np.sqrt(inside)
    asked = {by_name["harbo*"]: 1.2, by_name[pieces[1]]: 0.9, by_name["▁the"]: 0.7,
             int(ids[-1]): 0.3}  # fmt: skip
    found = tokenization.token_weights(ids.tolist(), asked)
    assert found[1] == pytest.approx(np.hypot(0.9, share))
    assert found[2 : 1 + inside] == pytest.approx([share] * (inside - 1))
    assert found[1 + inside :] == pytest.approx([0.7, 0.3])  # the piece of a short word counts once
    assert tokenization.token_weights([], asked) == []
