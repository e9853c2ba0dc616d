"""Near-duplicate pairs and pairs of low relevance go; the rest stays as it is."""

from __future__ import annotations

import functools
import itertools
import random
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from searching import LoadedEncoder, WordEncoder
from trainer_scripts import Record, Runner, read, script, write

from m3search.scoring import maxsim

filter_pairs, near, relevance = map(script, ("filter_pairs", "near_duplicates", "relevance"))
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Runner:
    stand_in = types.ModuleType("m3search.encoder")
    stand_in.Encoder = LoadedEncoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "m3search.encoder", stand_in)
    return Runner(filter_pairs, capsys)


@functools.cache
def parts(text: str) -> frozenset[str]:
    return frozenset(text[i : i + 5] for i in range(max(len(text) - 4, 1)))


def slow_jaccard(a: str, b: str) -> float:
    return len(parts(a) & parts(b)) / len(parts(a) | parts(b))


def make_text(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(LETTERS, k=length))


def change(rng: random.Random, text: str, times: int) -> str:
    letters = list(text)
    for _ in range(times):
        letters[rng.randrange(len(letters))] = rng.choice(LETTERS)
    return "".join(letters)


@pytest.mark.parametrize("threshold", [0.4, 0.8, 1.0])
def test_near_duplicates_are_those_of_the_slow_way(threshold: float) -> None:
    rng = random.Random(3)
    queries = [make_text(rng, 60) for _ in range(12)]
    passages = [make_text(rng, 300) for _ in range(8)]
    rows = [
        (change(rng, rng.choice(queries), rng.choice([0, 0, 1, 3])),
         change(rng, rng.choice(passages), rng.choice([0, 0, 4, 30])))
        for _ in range(240)
    ]  # fmt: skip
    pairs = near.Pairs(threshold)
    for start in range(0, 240, 90):
        block = rows[start : start + 90]
        pairs.add([query for query, _ in block], [text for _, text in block])
    found = pairs.repeated().tolist()

    def alike(a: int, b: int) -> bool:
        return all(slow_jaccard(*side) >= threshold for side in zip(rows[a], rows[b], strict=True))

    kept: list[int] = []
    for row in range(240):
        if found[row] >= 0:
            assert found[row] in kept and alike(found[row], row)
        else:
            assert not any(alike(other, row) for other in kept), "one was missed"
            kept.append(row)
    assert 20 < len(kept) < 230


def test_hashes_of_a_band_keep_the_recall() -> None:
    for threshold in np.linspace(0.5, 1.0, 11):
        rows = near.rows_for(threshold)
        recall = [1 - (1 - threshold ** (2 * r)) ** near.BANDS for r in (rows, rows + 1)]
        assert recall[0] >= near.RECALL and (recall[1] < near.RECALL or rows == 16)


def test_a_long_text_is_compared_on_a_sketch() -> None:
    rng = random.Random(1)
    text = make_text(rng, 9000)
    pairs = near.Pairs(0.5)
    others = [change(rng, text, times) for times in (0, 50, 200, 600)]
    pairs.add(["q"] * 5, [text, *others])
    sketches = pairs._sketches[1]
    assert {len(each) for each in sketches} == {near.SKETCH}
    for other, sketch in zip(others, sketches[1:], strict=True):
        assert near.jaccard(sketches[0], sketch) == pytest.approx(
            slow_jaccard(text, other), abs=0.05
        )
    assert near.jaccard(sketches[0], sketches[1]) == 1
    pairs.add(["q"], [text[:3000]])
    third = near.jaccard(sketches[0], sketches[5])
    assert third == pytest.approx(1 / 3, abs=0.05) == near.jaccard(sketches[5], sketches[0])


def test_form_is_no_difference_and_questions_of_a_passage_are_no_duplicates() -> None:
    queries = ["Who?", "who", "When?", "?!", "!!", "who"]
    texts = ["A passage.", "A  PASSAGE", "A passage.", "x", "x", "Another."]
    pairs = near.Pairs(0.8)
    pairs.add(queries, texts)
    assert pairs.repeated().tolist() == [-1, 0, -1, -1, -1, -1]
    assert near.Pairs(0.8).repeated().tolist() == []


def test_the_first_of_all_files_stays(tmp_path: Path, run: Runner) -> None:
    first: list[Record] = [{"query": "a question", "pos": ["an answer to it"], "x": 1}]
    write(tmp_path / "in" / "a.jsonl", first)
    write(tmp_path / "in" / "b.docs.jsonl", [{"_id": "d", "title": "an", "text": "answer, to it"}])
    write(tmp_path / "in" / "b.jsonl.gz", [
        {"query": "A question?", "pos_id": "d"},
        {"query": "another one", "pos_id": ["d"]},
        {"query": "A Question", "title": "An", "pos": ["answer to it"]},
    ])  # fmt: skip
    files = sorted((tmp_path / "in").iterdir())
    report = run(*files, "--out", tmp_path / "out", "--near-duplicates", 0.9)
    assert (report["lines"], report["dropped"]) == (4, {"near duplicate": 2})
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["a.jsonl", "b.docs.jsonl", "b.jsonl.gz"]
    assert (out / "a.jsonl").read_bytes() == (tmp_path / "in" / "a.jsonl").read_bytes()
    assert [each["query"] for each in read(out / "b.jsonl.gz")] == ["another one"]
    assert len(read(out / "b.docs.jsonl")) == 1


def slow_score(encoder: WordEncoder, mode: str, query: str, text: str) -> float:
    q, t = encoder.encode([query], "query"), encoder.encode([text])
    scores = {
        "dense": sum(float(a) * float(b) for a, b in zip(q.dense[0], t.dense[0], strict=True)),
        "sparse": float((q.sparse.toarray() * t.sparse.toarray()).sum()),
        "multi": maxsim(q.multi[0], t.multi[0]),
    }
    of_all = {"dense": 1.0, "sparse": 0.3, "multi": 1.0}
    weights = {"dense": 1.0} if mode == "dense" else of_all
    return sum(weight * scores[name] for name, weight in weights.items())


@pytest.mark.parametrize("mode", ["dense", "all"])
def test_relevance_against_the_slow_way(mode: str) -> None:
    rng = random.Random(4)
    texts = [
        " ".join(rng.choices(["red", "green", "blue", "cat", "dog", "sun"], k=3)) for _ in range(30)
    ]
    queries = texts[:9]
    positives = [texts[10 + row : 11 + row + row % 3] for row in range(9)]
    sample = [*texts[8:24], texts[9]]
    encoder = WordEncoder()
    judged = relevance.Judge(encoder, mode, sample).judge(queries, positives)
    for row, (query, own) in enumerate(zip(queries, positives, strict=True)):
        score = min(slow_score(encoder, mode, query, text) for text in own)
        assert judged.scores[row] == pytest.approx(score, abs=1e-5)
        others = [slow_score(encoder, mode, query, text) for text in set(sample) - set(own)]
        assert sum(other > score + 1e-4 for other in others) <= judged.ranks[row] - 1
        assert judged.ranks[row] - 1 <= sum(other > score - 1e-4 for other in others)
    assert len(set(judged.ranks.tolist())) > 3
    equal = relevance.Judge(encoder, mode, ["red cat!"]).judge(["a red dog"], [["red cat"]])
    assert equal.ranks.tolist() == [1]
    assert relevance.Judge(encoder, mode).judge(queries, positives).ranks.tolist() == [1] * 9


def test_bars() -> None:
    scores = np.array([0.5, 0.1, 0.9, 0.3, 0.3], np.float32)
    found = relevance.Relevance(scores, np.array([1, 2, 3, 3, 1]))

    def rules(*bar: object) -> list[str]:
        return [rule[:1] for rule in filter_pairs.Bar(*bar).rule_of(found)]

    assert rules(None, 0.0, 2) == ["", "", "r", "r", ""]
    assert rules(0.3) == ["", "s", "", "", ""]
    assert rules(0.5) == ["", "s", "", "s", "s"]
    assert rules(None, 40.0) == ["", "l", "", "l", ""]
    assert rules(None, 39.0) == ["", "l", "", "", ""]
    assert rules(0.2, 40.0, 2) == ["", "s", "r", "l", ""]


def test_pairs_that_the_model_finds_irrelevant_go(tmp_path: Path, run: Runner) -> None:
    lines = [
        {"query": "red cat", "pos": ["red cat"]},
        {"query": "green dog", "pos": ["yellow sun over seas"]},
        {"query": "blue sun", "pos": ["blue sun", "nothing at all"]},
        {"query": "old fox", "pos": ["old fox"]},
        {"query": "old fox!", "pos": ["old fox"]},
    ]
    path = write(tmp_path / "a.jsonl", lines)
    queries = {each["query"]: slow_score(WordEncoder(), "dense", each["query"], text)
               for each in lines for text in each["pos"][-1:]}  # fmt: skip
    lowest = min(queries, key=lambda query: queries[query])
    report = run(path, "--out", tmp_path / "o", "--model", "word-hash", "--drop-lowest", 25,
                 "--near-duplicates", 1.0)  # fmt: skip
    assert report["dropped"] == {"near duplicate": 1, "lowest": 1}
    kept = [each["query"] for each in read(tmp_path / "o" / "a.jsonl")]
    assert kept == [q for q in queries if q not in (lowest, "old fox!")]
    scores = report["files"][str(tmp_path / "o" / "a.jsonl")]["scores"]
    assert list(scores) == ["p0", "p5", "p25", "p50", "p75", "p95", "p100"]
    assert scores["p0"] == pytest.approx(queries[lowest], abs=1e-4)
    drop = run(path, "--out", tmp_path / "o", "--model", "word-hash", "--top", 1, "--mode", "all")
    assert set(drop["dropped"]) == {"rank"} and 1 <= drop["dropped"]["rank"] <= 3


def test_the_sample_is_fair_and_fixed(tmp_path: Path) -> None:
    files = [
        write(tmp_path / f"{name}.jsonl", [{"query": "q", "pos": [f"{name}{i}"]} for i in range(5)])
        for name in "ab"
    ]
    draw = filter_pairs.draw_sample
    assert draw(files, 0, 1) == [] and len(draw(files, 50, 1)) == 10
    drawn = [draw(files, 4, seed) for seed in range(300)]
    assert draw(files, 4, 7) == drawn[7]
    assert all(len(set(each)) == 4 for each in drawn)
    counts = [sum(name in each for each in drawn) for name in draw(files, 50, 1)]
    assert min(counts) > 85 and max(counts) < 155


def test_a_file_of_which_no_line_stays_is_not_written_nor_its_documents(
    tmp_path: Path, run: Runner
) -> None:
    first = write(tmp_path / "a.jsonl", [{"query": "a question?", "pos": ["The same answer."]}])
    same = write(tmp_path / "b.jsonl", [{"query": "A question?", "pos_id": "d"}])
    write(tmp_path / "b.docs.jsonl", [{"_id": "d", "title": "", "text": "The same answer."}])
    out = tmp_path / "o"
    report = run(first, same, "--out", out, "--near-duplicates", 0.8)
    assert report["without_lines"] == [str(out / "b.jsonl")]
    assert [path.name for path in out.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "nothing to do"),
        (("--model", "word-hash"), "--model goes with"),
        (("--min-score", "1"), "--model goes with"),
        (("--near-duplicates", "1.5"), "not above 0 and up to 1"),
        (("--model", "x", "--drop-lowest", "100"), "not from 0 to below 100"),
        (("--near-duplicates", "1", "none.jsonl"), "unrecognized"),
    ],
)
def test_usage(tmp_path: Path, run: Runner, options: tuple[str, ...], said: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"query": "q", "pos": ["p"]}])
    assert said in run.fail(path, "--out", tmp_path / "o", *options)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"pos": ["p"]}, 'expected a text in "query", found none'),
        ({"query": "q"}, 'expected texts in "pos" or ids in "pos_id", found none'),
        ({"query": "q", "pos": ["p"], "pos_id": "d"}, 'or ids in "pos_id", found both'),
        ({"query": "q", "pos_id": "d9"}, "a document in a.docs.jsonl has, found 'd9'"),
        ({"query": "q", "pos_id": 3}, "a document in a.docs.jsonl has, found '3'"),
        ({"query": "q", "pos_id": [{}]}, "an id or a list of ids in pos_id, found an array"),
        ({"query": "q", "pos": ["p"], "title": 3}, 'a text in "title", found a number'),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, run: Runner, record: Record, said: str) -> None:
    path = write(tmp_path / "a.jsonl", itertools.chain([{"query": "q", "pos": ["p"]}], [record]))
    out = tmp_path / "o"
    error = run.fail(path, "--out", out, "--near-duplicates", "0.9")
    assert error.startswith(f"error: {path}, line 2: ") and said in error
    assert not out.exists()
