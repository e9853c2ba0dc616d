"""What evaluation sets hold goes out of training files, and nothing else does."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
import zstandard
from trainer_scripts import TRAINER, Record, Runner, read, script, write

from m3search.corpus.scripts import is_spaceless

ngrams, decontaminate = script("ngrams"), script("decontaminate")


@pytest.fixture
def clean(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(decontaminate, capsys)


def words(first: int, last: int) -> str:
    return " ".join(f"w{number}" for number in range(first, last + 1))


def slow_words(text: str) -> list[str]:
    plain, found = unicodedata.normalize("NFKC", text).lower(), [""]
    for character in plain:
        if unicodedata.category(character)[0] in "LMN":
            found[-1] += character
        elif unicodedata.category(character) != "Cf" and found[-1]:
            found.append("")
    return [word for word in found if word]


def slow_ngrams(text: str, n: int, m: int) -> set[tuple[str, ...] | str]:
    """All n words in a row, and all m letters mostly of scripts without spaces."""
    split = slow_words(text)
    found: set[tuple[str, ...] | str] = {tuple(split[i : i + n]) for i in range(len(split) - n + 1)}
    letters = "".join(split)
    for i in range(len(letters) - m + 1):
        part = letters[i : i + m]
        if sum(is_spaceless(ord(each)) for each in part) * 2 > m:
            found.add(part)
    return found


def slow_hits(text: str, known: Sequence[str], n: int, m: int) -> bool:
    squeezed = "".join(slow_words(text))
    mine = slow_ngrams(text, n, m)
    return any(
        (squeezed and squeezed == "".join(slow_words(other))) or mine & slow_ngrams(other, n, m)
        for other in known
    )


def test_normal_form() -> None:
    assert ngrams.normalise("Ｄon’t  STOP: １½\u200b x—ﬁ") == "don t stop 11 2 x fi"
    assert ngrams.normalise("हिन्दी का\u00adम") == "हिन्दी काम"
    assert ngrams.normalise(" ?! ") == ""
    for text in ("Ça va, l’été\u00ad?", "漢字、カナ。", "a_b 3.14"):
        assert ngrams.normalise(text).split() == slow_words(text)


def test_scripts_without_spaces_are_those_of_the_corpus() -> None:
    import numpy as np

    codes = np.arange(0x30000, dtype=np.uint32)
    assert ngrams._are_spaceless(codes).tolist() == [is_spaceless(code) for code in range(0x30000)]


def test_random_texts_against_the_slow_way() -> None:
    rng = random.Random(5)
    alphabet = ["a", "bc", "漢", "字字", "ka na", "é", "ไทย", "-", "", " 2 "]

    def text() -> str:
        return "".join(
            rng.choice(alphabet) + rng.choice(["", " "]) for _ in range(rng.randrange(14))
        )

    seen = set()
    for _ in range(150):
        known, asked = [text() for _ in range(4)], [text() for _ in range(6)]
        evaluation = decontaminate.Evaluation(3, 4)
        evaluation.add("one", known[:2])
        evaluation.add("two", known[2:])
        hits = evaluation.find([ngrams.normalise(each) for each in asked])
        slow = [row for row, each in enumerate(asked) if slow_hits(each, known, 3, 4)]
        assert sorted(hits) == slow
        for row, hit in hits.items():
            seen.add((hit.rule, hit.found_in))
            first = slow_hits(asked[row], known[:2], 3, 4)
            assert first or hit.found_in == "two"
    assert len(seen) == 6


def test_an_ngram_does_not_reach_into_the_next_text() -> None:
    evaluation = decontaminate.Evaluation()
    evaluation.add("set", [words(1, 13), "漢" * 32])
    find = lambda *texts: evaluation.find(list(texts))  # noqa: E731
    assert find(words(1, 12), "w13", words(2, 13), "", "漢" * 31, "漢") == {}
    hits = find(f"x {words(1, 13)} y", "漢" * 33)
    assert [hits[row].rule for row in (0, 1)] == ["words", "letters"]
    assert find("w1" + words(2, 13).replace(" ", ""), "漢" * 32)[1].rule == "equal"


def make_sets(folder: Path) -> Path:
    write(folder / "a" / "corpus.jsonl.gz", [
        {"_id": "1", "title": "Tea", "text": words(1, 40)},
        {"_id": "2", "title": "", "text": "A short text."},
    ])  # fmt: skip
    write(folder / "b" / "queries.jsonl", [{"_id": "q", "text": "What is it?"}])
    (folder / "notes").mkdir()
    return folder


def test_lines_go_and_others_stay_as_they_are(tmp_path: Path, clean: Runner) -> None:
    lines = [
        b'{"query": "fine",  "pos": ["' + words(1, 12).encode() + b'"], "x": 1.50}',
        b'{"query": "WHAT is it", "pos": ["fine"]}',
        b'{"query": "q", "pos": ["fine"], "neg": ["n", "and ' + words(20, 33).encode() + b'"]}',
        b'{"text": "tea: ' + words(1, 40).encode() + b'"}',
        b'{"query": "\\u00e9", "title": "a short text", "pos": ["fine"]}',
        b'{"query": "q", "pos": ["fine"], "neg": ["n"], "neg_titles": ["a short text"]}',
        b'{"query": "q", "pos": ["p"], "neg": ["n"], "neg_titles": ["'
        + words(1, 13).encode()
        + b'"]}',
    ]
    path = tmp_path / "train" / "x.en.jsonl.zst"
    path.parent.mkdir()
    path.write_bytes(zstandard.compress(b"\n".join(lines)))
    report = clean(path, "--evaluation", make_sets(tmp_path / "sets"), "--out", tmp_path / "out")
    target = tmp_path / "out" / "x.en.jsonl.gz"
    assert gzip.decompress(target.read_bytes()) == b"\n".join([lines[0], *lines[4:6], b""])
    assert report["sets"] == ["a", "b"] and (report["lines"], report["removed"]) == (7, 4)
    found = report["files"][str(target)]
    assert found["by"] == {"equal": {"a": 1, "b": 1}, "words": {"a": 2}}
    assert [(each["line"], each["field"]) for each in found["examples"]] == [
        (2, "query"), (3, "neg 2"), (4, "text"), (7, "neg_titles 1"),
    ]  # fmt: skip
    assert "what is it" not in json.dumps(report).lower()
    assert len(found["examples"][0]["sha256"]) == 16
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_pairs_go_with_the_document_that_they_name(tmp_path: Path, clean: Runner) -> None:
    write(tmp_path / "t" / "long.de.docs.jsonl", [
        {"_id": "d0", "title": "", "text": "good"},
        {"_id": "d1", "title": "", "text": f"so {words(3, 30)}"},
    ])  # fmt: skip
    pairs: list[Record] = [
        {"query": "one", "pos_id": "d0"},
        {"query": "two", "pos_id": "d1"},
        {"query": "three", "pos_id": ["d0", "d1"]},
        {"query": "four", "pos_id": ["d0"], "neg_id": ["d1"]},
    ]
    path = write(tmp_path / "t" / "long.de.jsonl", pairs)
    other = write(tmp_path / "t" / "other.jsonl", [{"query": "q", "pos": ["p"], "pos_id": "d1"}])
    sets = make_sets(tmp_path / "sets") / "a"
    report = clean(other, path, "--evaluation", sets, "--out", tmp_path / "out", "--examples", 1)
    assert read(tmp_path / "out" / "long.de.jsonl") == pairs[:1]
    assert [each["_id"] for each in read(tmp_path / "out" / "long.de.docs.jsonl")] == ["d0"]
    assert len(read(tmp_path / "out" / "other.jsonl")) == 1
    found = report["files"][str(tmp_path / "out" / "long.de.jsonl")]
    assert found["by"] == {"document": {"a": 3}} and len(found["examples"]) == 1


def test_a_file_of_which_no_line_stays_is_not_written(tmp_path: Path, clean: Runner) -> None:
    """So that the next tool, and a training, which refuse an empty file, can go on."""
    sets, out = make_sets(tmp_path / "sets"), tmp_path / "out"
    held = {"query": "What is it?", "pos": ["p"]}
    paths = [
        write(tmp_path / "t" / "a.jsonl", [held]),
        write(tmp_path / "t" / "b.jsonl.gz", [held, held]),
        write(tmp_path / "t" / "c.jsonl", [held, {"query": "q", "pos": ["p"]}]),
    ]
    write(out / "a.jsonl", [{"of": "an earlier run"}])
    report = clean(*paths, "--evaluation", sets, "--out", out)
    lost = [str(out / name) for name in ("a.jsonl", "b.jsonl.gz")]
    assert report["without_lines"] == lost and report["removed"] == 4
    assert [path.name for path in out.iterdir()] == ["c.jsonl"]
    filtered = Runner(script("filter_pairs"), clean._capsys)
    filtered(*out.iterdir(), "--out", tmp_path / "next", "--near-duplicates", 0.9)


def test_what_is_not_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.jsonl", [{"query": "What is it?", "pos": ["p"]}])
    sets, out = make_sets(tmp_path / "sets"), tmp_path / "out"
    decontaminate.main([str(path), "--evaluation", str(sets), "--out", str(out)])
    said = capsys.readouterr().err
    assert f"{out / 'a.jsonl'}: no line is left for it, so no file is written\n" in said


def test_errors_leave_no_file(tmp_path: Path, clean: Runner) -> None:
    sets = make_sets(tmp_path / "sets")
    path = write(
        tmp_path / "t" / "x.jsonl", [{"query": "q", "pos": ["p"]}, {"query": "q", "pos": "p"}]
    )
    out = tmp_path / "out"
    said = clean.fail(path, "--evaluation", sets, "--out", out)
    assert said.startswith(f"error: {path}, line 2: expected texts in pos, found a string.")
    assert list(out.iterdir()) == []
    assert "which has none" in clean.fail(path, "--evaluation", sets / "notes", "--out", out)
    assert "which is read from" in clean.fail(path, "--evaluation", sets, "--out", path.parent)
    twice = write(tmp_path / "u" / "x.jsonl", [{"text": "t"}])
    assert "both become" in clean.fail(path, twice, "--evaluation", sets, "--out", out)
    assert "nothing at this path" in clean.fail("no.jsonl", "--evaluation", sets, "--out", out)
    assert "required: --evaluation" in clean.fail(path, "--out", out)


def test_documents_bring_their_pairs_along(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "a.docs.jsonl", "b.jsonl", "b.docs.jsonl.zst", "c.docs.jsonl"):
        (tmp_path / name).touch()
    given = [tmp_path / name for name in ("b.jsonl", "a.docs.jsonl", "c.docs.jsonl")]
    found = [path.name for path in decontaminate.with_documents(given)]
    documents = ["b.docs.jsonl.zst", "a.docs.jsonl", "c.docs.jsonl"]
    assert found == [*documents, "b.jsonl", "a.jsonl.gz"]


def test_as_a_process(tmp_path: Path) -> None:
    command = [sys.executable, TRAINER / "decontaminate.py", "none.jsonl", "--evaluation", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(TRAINER.parent)}
    done = subprocess.run(
        [*command, "--out", tmp_path / "o"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --evaluation: expected a folder with corpus.jsonl or")
    assert done.stderr.endswith(f", found {tmp_path}, which has none. Check the path.\n")


@pytest.mark.parametrize(
    "name",
    [
        "decontaminate",
        "filter_pairs",
        "split_by_length",
        "synthesise_questions",
        "title_body_pairs",
    ],
)
def test_help_explains(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        script(name).main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"python trainer/{name}.py" in said and "--report FILE" in said
