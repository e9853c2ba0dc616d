"""Files are split by the tokens of their longest texts."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
from trainer_scripts import Record, Runner, read, script, write

from m3search.model.checkpoint import load_tokenizer

split_by_length = script("split_by_length")


@pytest.fixture
def split(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(split_by_length, capsys)


def test_every_line_lies_in_its_range(
    tmp_path: Path, split: Runner, tiny_checkpoint: Path, sample_texts: list[str]
) -> None:
    tokenizer = load_tokenizer(tiny_checkpoint)
    texts = sample_texts[:60]
    lines: list[Record] = [
        {"query": texts[i][:40], "pos": [texts[i + 1][: 5 * i]], "neg": [texts[i][: 300 - 6 * i]],
         "lang": "x"}
        for i in range(1, 50)
    ]  # fmt: skip
    lines += [
        {"text": texts[3], "title": texts[4]},
        {"query": "q", "title": texts[5], "pos": ["p"]},
        {"query": "q", "pos": ["p"], "neg": ["n", "o"], "neg_titles": ["", texts[6]]},
    ]

    def length(line: Record) -> int:
        titled = line.get("pos", []) + ([line["text"]] if "text" in line else [])
        if line.get("title"):
            titled = [f"{line['title']}\n{text}" for text in titled]
        titles = line.get("neg_titles") or [""] * len(line.get("neg", []))
        titled += [
            f"{t}\n{n}" if t else n for t, n in zip(titles, line.get("neg", []), strict=True)
        ]
        all_texts = [*titled, *([line["query"]] if "query" in line else [])]
        return max(len(tokenizer(text)["input_ids"]) for text in all_texts)

    lengths = sorted(map(length, lines))
    bounds = (0, lengths[10], lengths[25], lengths[40])
    path = write(tmp_path / "in" / "a.en.jsonl.gz", lines)
    out = tmp_path / "out"
    report = split(path, "--out", out, "--model", tiny_checkpoint, "--lengths", *bounds)

    expected = {
        f"{left}-{right}": [line for line in lines if left <= length(line) < right]
        for left, right in pairwise((*bounds, math.inf))
    }
    assert min(map(len, expected.values())) > 2
    for name, found in expected.items():
        file = out / f"a.en_len-{name}.jsonl.gz"
        assert (read(file) if file.exists() else []) == found
    assert report["by_length"] == {name: len(found) for name, found in expected.items()}
    assert report["lines"] == 52 and report["model"] == str(tiny_checkpoint)
    of_file = report["files"][str(path)]
    assert of_file["longest"] == max(map(length, lines))
    assert of_file["mean"] == pytest.approx(sum(map(length, lines)) / 52, abs=0.06)
    assert of_file["by_length"] == {n: len(found) for n, found in expected.items() if found}


def test_documents_go_with_the_pairs_that_name_them(
    tmp_path: Path, split: Runner, tiny_checkpoint: Path, sample_texts: list[str]
) -> None:
    documents = [
        {"_id": "short", "title": "", "text": "Tea."},
        {"_id": "long", "title": "", "text": sample_texts[0] * 2},
        {"_id": "unused", "title": "", "text": "x"},
    ]
    write(tmp_path / "in" / "l.docs.jsonl", documents)
    pairs: list[Record] = [
        {"query": "a", "pos_id": "short"},
        {"query": "b", "pos_id": ["short", "long"]},
        {"query": "c", "pos_id": "long"},
    ]
    path = write(tmp_path / "in" / "l.jsonl", pairs)
    files = (path, tmp_path / "in" / "l.docs.jsonl")
    split(*files, "--out", tmp_path / "out", "--model", tiny_checkpoint, "--lengths", 0, 30)
    out = tmp_path / "out"
    assert read(out / "l_len-0-30.jsonl") == pairs[:1]
    assert read(out / "l_len-30-inf.jsonl") == pairs[1:]
    assert read(out / "l_len-0-30.docs.jsonl") == documents[:1]
    assert read(out / "l_len-30-inf.docs.jsonl") == documents[:2]
    assert len(list(out.iterdir())) == 4


def test_errors(tmp_path: Path, split: Runner, tiny_checkpoint: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"query": "q", "pos": ["p"]}])
    model = ("--model", tiny_checkpoint, "--out", tmp_path / "o")
    for bounds in ((5, 10), (0, 10, 10), (0, 9, 8)):
        said = split.fail(path, *model, "--lengths", *bounds)
        assert said.startswith("usage:")  # and status 2
        assert "--lengths: expected 0, then ever larger numbers" in said
    split(path, *model)
    assert [each.name for each in (tmp_path / "o").iterdir()] == ["a_len-0-500.jsonl"]
    assert "which an earlier run made" in split.fail(path, *model)
    bad = write(tmp_path / "b.jsonl", [{"query": "q", "pos": ["p"]}, {"title": "t"}])
    assert f"{bad}, line 2: expected a text in" in split.fail(bad, *model)  # whole or not at all
    short = write(tmp_path / "d.jsonl", [{"query": "q", "pos": ["p"], "neg": ["n", "m"],
                                          "neg_titles": ["t"]}])  # fmt: skip
    assert "line 1: expected 2 texts in neg_titles, found 1" in split.fail(short, *model)
    bare = write(
        tmp_path / "e.jsonl", [{"query": "q", "pos": ["p"], "neg": ["n"], "neg_titles": "t"}]
    )
    assert "line 1: expected texts in neg_titles, found a string" in split.fail(bare, *model)
    assert len(list((tmp_path / "o").iterdir())) == 1
    twice = write(tmp_path / "c" / "b.jsonl.gz", [{"text": "t"}])
    assert "two files of the name b" in split.fail(bad, twice, *model)
