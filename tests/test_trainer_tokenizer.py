"""m3-mini's tokenizer: how it cuts texts, what it learns from, and that nothing is unknown."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from new_vocabularies import PIECES, train, write_old, write_training_files
from tokenizers import Tokenizer
from trainer_scripts import Record, Runner, script, write
from transformers import PreTrainedTokenizerFast

from m3search.model.checkpoint import load_tokenizer
from m3search.model.tokenization import Tokenization
from m3search.model.words import word_starts

trainer = script("train_tokenizer")
shares, weights, texts = map(script, ("language_shares", "word_weights", "training_texts"))
splitting = script("text_splitting").Splitting()
ANY_TEXT = st.text(max_size=60)  # of every code point but surrogates


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_old(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: Path, old: Path) -> Path:
    out = tmp_path_factory.mktemp("new") / "tokenizer"
    report = out.parent / "report.json"
    return train(data, out, "--old", old, "--old-words", 600, "--report", report)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(folder)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(trainer, capsys)


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


@given(ANY_TEXT)
@settings(deadline=None)
def test_no_text_is_unknown(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert set(ids[1:-1]).isdisjoint(tokenizer.all_special_ids)
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id


@given(ANY_TEXT)
@settings(deadline=None)
def test_only_the_normal_form_counts(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    normal = unicodedata.normalize("NFKC", text)
    hidden = ("Cc", "Cf")
    visible = "".join(c for c in normal if c.isspace() or unicodedata.category(c) not in hidden)
    assert pieces(tokenizer, normal) == pieces(tokenizer, unicodedata.normalize("NFC", normal))
    if visible == normal:
        assert pieces(tokenizer, text) == pieces(tokenizer, normal)
    assert pieces(tokenizer, f"  {text}\n") == pieces(tokenizer, text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ＬＩＧＨＴhouse ﬁre", "lighthouse fire"),
        ("İstanbul", "istanbul"),
        ("ΟΔΟΣ", "οδος"),
        ("Απάντησή σου, μαΐου", "απαντηση σου, μαιου"),
        ("άέήίϊΐόύϋΰώ", "αεηιιιουυυω"),
        ("Ёлка", "елка"),
        ("١٩٩٠ ۱۹۹۰ १९९०", "1990 1990 1990"),
        ("كتابي", "کتابی"),
        ("أَحْمَد", "احمد"),
        ("می‌خواهم", "می خواهم"),
        ("שָׁלוֹם", "שלום"),
        ("l’eau", "l'eau"),
        ("so\u00adft zero\ufeffwidth\x00", "soft zerowidth"),
        ("a\u200bb", "a b"),
        ("[SEP]", "[sep]"),
    ],
)
def test_one_word_in_two_spellings(
    tokenizer: PreTrainedTokenizerFast, one: str, other: str
) -> None:
    assert pieces(tokenizer, one) == pieces(tokenizer, other)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't (stop)!", "▁don ▁' ▁t ▁( ▁stop ▁) ▁!"),
        ("covid19 3.14 20231104", "▁covid ▁19 ▁3 ▁. ▁14 ▁2023 ▁1104"),
        ("iPhone用のケース。私は二〇二三年", "▁iphone 用のケース 。 私は二〇二三年"),
        ("นี่คือ ๑๒", "นี่คือ ▁12"),
        ("བོད་ཡིག", "བོད་ཡིག"),
        ("한국어 텍스트", "▁한국어 ▁텍스트"),
        ("😀👍🏽 ▁x", "▁😀 ▁👍 ▁🏽 ▁ ▁x"),
        ("  ", ""),
    ],
)
def test_the_words_of_a_text(text: str, words: str) -> None:
    assert splitting.words(text) == words.split()


@given(ANY_TEXT)
@settings(deadline=None)
def test_punctuation_stands_apart(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    for piece in pieces(tokenizer, f"{text}lighthouse!1234567{text}"):
        kinds = {unicodedata.category(c)[0] for c in piece.removeprefix("▁")} - {"M"}
        assert piece.startswith("<0x") or len(kinds) <= 1 or piece[0] in "་༌〇" or "〇" in piece
        assert sum(c.isdigit() for c in piece) <= 4 or piece.startswith("<0x")


def test_a_word_is_the_same_term_wherever_it_stands(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pieces(tokenizer, "water") == ["▁water"]
    for text in ("(water)", "x-water", "3water", "灯台water", "“Water”", "water水"):
        assert "▁water" in pieces(tokenizer, text)


def test_what_is_no_piece_is_spelled_in_bytes(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pieces(tokenizer, "𐍈") == ["▁", "<0xF0>", "<0x90>", "<0x8D>", "<0x88>"]
    assert tokenizer.decode(tokenizer("𐍈 lighthouse")["input_ids"], True) == "𐍈 lighthouse"


def test_masking_finds_the_words(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("Zqxlighthouse, 灯台！", add_special_tokens=False)["input_ids"]
    starts = word_starts(tokenizer, len(tokenizer))[ids]
    found = list(zip(tokenizer.convert_ids_to_tokens(ids), starts.tolist(), strict=True))
    assert found[0][1] and not found[1][1]
    assert all(start for piece, start in found if piece[0] in "▁灯台")


def test_offsets_and_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "No ﬁre， Water (1990)"
    tokens = Tokenization(tokenizer).tokens(text, 64)
    found = {token.text: text[token.start : token.end] for token in tokens}
    assert found["▁water"] == "Water" and found["▁,"] == "，" and found["▁("] == "("
    names = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
    assert [getattr(tokenizer, f"{name}_token_id") for name in names] == [0, 1, 2, 3, 4, 2, 3]
    pair = tokenizer("the", "water", return_token_type_ids=True)
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1]


def test_the_report(folder: Path, data: Path) -> None:
    report = json.loads((folder.parent / "report.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert report["pieces"] == PIECES == tokenizer.get_vocab_size()
    assert report["unknown"] == {"training_texts": 0, "random_texts": 0}
    found = texts.read_texts(data)
    lengths: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for language, text in found:
        lengths[language] += len(text)
        tokens[language] += len(tokenizer.encode(text, add_special_tokens=False).ids)
    assert set(report["tokens_per_character"]) == set(lengths)
    for language, ratio in report["tokens_per_character"].items():
        assert ratio == pytest.approx(tokens[language] / lengths[language], abs=1e-5)
    english = report["english"]
    assert 600 <= english["overlap_pieces"] < PIECES
    assert 0.5 < english["overlap_of_running_tokens"] < 1
    assert 1 < english["tokens_per_word_old"] < english["tokens_per_word"] < 3


def test_the_old_words_are_pieces(folder: Path, old: Path, data: Path) -> None:
    vocabulary = load_tokenizer(old).get_vocab()
    english: Counter[str] = Counter()
    for language, text in texts.read_texts(data):
        if language == "en":
            english.update(splitting.words(text))
    known = weights.old_words(sorted(vocabulary, key=lambda piece: vocabulary[piece]), english)
    assert len(known) > 1000 and all(word[1:] in vocabulary for word in known)
    assert all(weight > english[word] for word, weight in known.items())
    tokenizer = load_tokenizer(folder)
    for word in sorted(known, key=lambda word: -known[word])[:590]:
        assert pieces(tokenizer, word[1:]) == [word]


def test_old_words_weigh_more_than_the_texts_say(
    data: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Zipf's law: a word that no English text has is not taken for a part of others."""
    asked: list[dict[str, float]] = []
    monkeypatch.setattr(trainer, "learn", lambda words, *_: asked.append(dict(words)) or [])
    of_language = trainer.by_language(data)
    options = trainer.read_options([str(data), "--out", "x", "--pieces", "3000"])
    vocabulary = load_tokenizer(old).get_vocab()
    for known in ({}, vocabulary):
        trainer.train(options, of_language, known)
    plain, raised = asked
    more = {word: raised[word] - plain.get(word, 0.0) for word in raised}
    old_words = {word for word, weight in more.items() if weight > 1e-9}
    assert len(old_words) > 1000 and all(word[1:] in vocabulary for word in old_words)
    assert min(more.values()) > -1e-6
    chosen = weights.choose(of_language, shares.SHARES, options.characters, options.seed)
    english = chosen["en"].weight * sum(weights.count_words(chosen)["en"].values())
    assert sum(more.values()) == pytest.approx(weights.PRIOR * english)


def test_the_same_seed_gives_the_same_tokenizer(tmp_path: Path, data: Path) -> None:
    size = ("--characters", 60_000)
    made = [train(data, tmp_path / str(n), *size, "--seed", n // 2, pieces=2500) for n in range(3)]
    first, same, other = [(path / "tokenizer.json").read_bytes() for path in made]
    assert first == same != other


def test_shares() -> None:
    amounts = {"en": 10**6, "da": 10**5, "xx": 10**4, "yy": 10**2}
    found = shares.fair_shares(amounts, {"en": 0.5, "da": 0.1, "zz": 0.2})
    assert sum(found.values()) == pytest.approx(1)
    assert found["en"] / found["da"] == pytest.approx(5)
    assert found["xx"] / found["yy"] == pytest.approx(100**shares.TEMPER)
    assert (found["xx"] + found["yy"]) / found["da"] == pytest.approx(2)
    assert 0.25 <= shares.SHARES["en"] <= 0.3 and sum(shares.SHARES.values()) < 1
    assert max(v for k, v in shares.SHARES.items() if k != "en") < shares.SHARES["en"] / 5


def test_the_sample_has_the_shares(data: Path) -> None:
    of_language: dict[str, list[str]] = {}
    for language, text in texts.read_texts(data):
        of_language.setdefault(language, []).append(text)
    wanted = {"en": 0.4, "es": 0.2, "sw": 0.4, "ru": 0.0}
    sample = weights.choose(of_language, wanted, 60_000, seed=1)
    for language, part in shares.fair_shares(
        {language: sum(map(len, found)) for language, found in of_language.items()}, wanted
    ).items():
        chosen, weight = sample[language]
        amount = sum(map(len, chosen))
        if weight < shares.REPEATS and part:
            assert weight * amount == pytest.approx(part * 60_000)
        assert set(chosen) <= set(of_language[language]) and len(set(chosen)) == len(chosen)
    few = weights.choose({"en": ["ten chars."]}, {"en": 1.0}, 1000, seed=1)
    assert few == {"en": (["ten chars."], shares.REPEATS)}


@pytest.mark.parametrize(
    ("tag", "expected"),
    [("de", ("de", "de")), ("zh-Hant", ("zh-Hant", "zh-Hant")), ("fon-fr", ("fon", "fr")),
     ("zh-Hant-en", ("zh-Hant", "en")), ("en-zh-Hant", ("en", "zh-Hant")),
     ("pt-BR", ("pt-BR", "pt-BR"))],
)  # fmt: skip
def test_language_tags(tag: str, expected: tuple[str, str]) -> None:
    assert texts.languages_of(tag) == expected


def test_texts_by_language(tmp_path: Path) -> None:
    pairs: list[Record] = [
        {"query": "q", "pos": ["p", "r"], "neg": ["n"], "title": "t", "lang": "sw-en"},
        {"query": "q", "pos_id": "d", "lang": "sw"},
    ]
    write(tmp_path / "a.multi.jsonl", pairs)
    write(tmp_path / "b-long.de.docs.jsonl.gz", [{"_id": "d", "text": "x", "title": "p"}])
    found = sorted(texts.read_texts(tmp_path))
    assert found == [("de", "p"), ("de", "x"), ("en", "n"), ("en", "p"), ("en", "r"), ("en", "t"),
                     ("sw", "q")]  # fmt: skip


def test_errors(tmp_path: Path, run: Runner, data: Path) -> None:
    out = ("--out", tmp_path / "o", "--pieces", 2000)
    assert "expected a folder, found nothing" in run.fail(tmp_path / "none", *out)
    (tmp_path / "empty").mkdir()
    assert "expected training files" in run.fail(tmp_path / "empty", *out)
    few = run.fail(data, "--out", tmp_path / "o", "--pieces", 400)
    assert "--pieces: expected room for" in few and "Give more --pieces" in few
    write(tmp_path / "bad" / "a.en.jsonl", [{"text": "t"}, {"text": "t", "lang": "a-b-c"}])
    assert "a.en.jsonl, line 2: expected a language" in run.fail(tmp_path / "bad", *out)
    write(tmp_path / "worse" / "a.jsonl", [{"text": "t"}])
    assert 'a language in "lang"' in run.fail(tmp_path / "worse", *out)
    assert "not a language and its share" in run.fail(data, *out, "--share", "en")
    assert "2 is not above 0 and up to 1" in run.fail(data, *out, "--share", "en=2")
    assert run.fail(data, *out, "--old", tmp_path / "none").startswith("error: ")
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "tokenizer.json").touch()
    assert "expected a new folder" in run.fail(data, *out)
