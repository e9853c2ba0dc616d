"""Rough sentences: English ones word by word in the words of a list."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from trainer_scripts import Record, Runner, read, script, write

rough = script("word_by_word")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(rough, capsys)


class First(random.Random):
    """Takes the first word of every phrase."""

    def random(self) -> float:
        return 0.0


class Others(First):
    """Takes the last word that it may."""

    def random(self) -> float:
        return 0.99

    def choice(self, seq):  # type: ignore[no-untyped-def]  # as random.Random's
        return seq[-1]


WORDS = {
    "dog": ["Hund", "Köter", "Wauwau", "Töle"],
    "eat": ["essen"],
    "city": ["Stadt"],
    "hot dog": ["Würstchen"],
    "a": ["ein"],
    "may": ["dürfen"],
    "i": ["ich"],
    "read": ["lesen"],
}


@pytest.mark.parametrize(
    ("sentence", "text", "known"),
    [
        ("The dog eats a cake.", "Hund essen cake.", 2 / 3),  # no article, a bent word, one unknown
        ("Dogs ate in two cities!", "Hund ate in two Stadt!", 2 / 5),
        ("I read 3.5 hot dog, Ann", "ich lesen 3.5 Würstchen, Ann", 1.0),  # a phrase, no name
        ("In May dogs eat", "In May Hund essen", 2 / 3),  # a name is none of its words
        ("3 , 4", "3, 4", 0.0),
        ("Yes. Dogs (dogs), I'm Ann's dog.", "Yes. Hund (Hund), I'm Ann's Hund.", 3 / 5),
        ("“Dogs eat café in São Paulo”", "“Hund essen café in São Paulo”", 2 / 4),
    ],
)
def test_a_sentence_word_by_word(sentence: str, text: str, known: float) -> None:
    found = rough.translate(sentence, WORDS, First())
    assert (found.text, found.known) == (text, pytest.approx(known))


def test_a_phrase_sometimes_becomes_one_of_its_next_words() -> None:
    assert rough.translate("dog", WORDS, Others()).text == "Wauwau"


def test_scripts_without_spaces_have_none() -> None:
    words = {"dog": ["犬"], "eats": ["食べる"]}
    assert rough.translate("The dog eats 3 cakes.", words, First()).text == "犬食べる 3 cakes."


def parallel(path: Path, *english: str) -> Path:
    records: list[Record] = [{"query": f"q {text}", "pos": [text]} for text in english]
    return write(path, records)


def test_a_file_for_every_list(tmp_path: Path, run: Runner) -> None:
    (tmp_path / "words.de-en.tsv").write_text(
        "Hund\tDog\nKöter\tdog\nessen\teat\nsehen\tsee\nKatze\tcat\n"
    )
    (tmp_path / "words.zh-Hant-en.tsv").write_text("狗\tdog\n")
    english = ["dogs eat cats", "dogs eat mice", "dogs", "who are you there", "dogs see cats " * 9]
    parallel(tmp_path / "x.de-en.jsonl.gz", *english)
    parallel(tmp_path / "y.el-en.jsonl", *english[:2])  # a second time
    lists = sorted(tmp_path.glob("*.tsv"))
    texts = [tmp_path / "x.de-en.jsonl.gz", tmp_path / "y.el-en.jsonl"]
    report = run(*lists, "--english", *texts, "--out", tmp_path / "out", "--known", 0.6)
    assert report["sentences"] == 3
    assert report["written"] == {"words.de-en.tsv": 2, "words.zh-Hant-en.tsv": 0}
    records = read(tmp_path / "out" / "rough-words.de-en.jsonl.gz")
    assert {record["pos"][0] for record in records} == {"dogs eat cats", "dogs eat mice"}
    assert {record["lang"] for record in records} == {"de-en"}
    assert {record["query"].split()[1] for record in records} == {"essen"}
    assert not (tmp_path / "out" / "rough-words.zh-Hant-en.jsonl.gz").exists()

    again = tmp_path / "again"
    run(*lists, "--english", *texts, "--out", again, "--known", 0.6)
    assert read(again / "rough-words.de-en.jsonl.gz") == records
    run(*lists, "--english", *texts, "--out", tmp_path / "one", "--known", 0.6, "--most", 1)
    assert len(read(tmp_path / "one" / "rough-words.de-en.jsonl.gz")) == 1


def test_what_cannot_be_read_is_said(tmp_path: Path, run: Runner) -> None:
    english = parallel(tmp_path / "x.de-en.jsonl", "dogs eat cats")
    (tmp_path / "words.tsv").write_text("Hund\tdog\n")
    said = run.fail(tmp_path / "words.tsv", "--english", english, "--out", tmp_path / "out")
    assert "NAME.de-en.tsv" in said and not (tmp_path / "out").exists()
    twins = [tmp_path / folder / "words.de-en.tsv" for folder in ("a", "b")]
    for twin in twins:
        twin.parent.mkdir()
        twin.write_text("Hund\tdog\n")
    said = run.fail(*twins, "--english", english, "--out", tmp_path / "out")
    assert "a file of its own" in said and not (tmp_path / "out").exists()
    (tmp_path / "words.de-en.tsv").write_text("Hund dog\n")
    said = run.fail(tmp_path / "words.de-en.tsv", "--english", english, "--out", tmp_path / "out")
    assert "words.de-en.tsv" in said and "1" in said
