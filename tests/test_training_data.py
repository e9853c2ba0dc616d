"""Training pairs and batches: what is read, drawn, masked and refused."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard
from training_runs import write_pairs

from m3search.errors import ConfigError, DataError
from m3search.training.batching import Batch, Sampler
from m3search.training.data import group_by_passage, read_pairs, read_source
from m3search.training.recipe import (
    Batches,
    Data,
    Source,
)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"{", "what JSON does not allow"),
        (b"[]", "an array"),
        (b'{"pos": ["a"]}', "no query text"),
        (b'{"query": "q", "pos": []}', "an empty pos"),
        (b'{"query": "q", "pos": "a"}', "pos that is not a list"),
        (b'{"query": "q", "pos": ["a"], "neg": [1]}', "neg that is not a list"),
        (b'{"query": "q", "pos": ["a"], "title": 3}', "a title that is a number"),
        (b'{"query": "\xff", "pos": ["a"]}', "byte 0xff"),
        (b'{"query": "\\ud800", "pos": ["a"]}', "half of a surrogate pair"),
        (b'{"query": "q", "pos": ["a", ""]}', "an empty text in pos"),
        (b'{"query": "q", "pos": ["a"], "neg": [" "]}', "an empty text in neg"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, found: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"query": "q", "pos": ["a"]}\n' + line + b"\n")
    with pytest.raises(DataError, match=f"line 2.*found {found}"):
        list(read_pairs(path))


def test_pairs_are_read_from_gzip_and_grouped(tmp_path: Path) -> None:
    lines = [
        {"query": "q1", "pos": ["a", "b"], "neg": ["x"]},
        {"query": "q2", "pos": ["a"], "neg": ["b", "a"]},
    ]
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    assert [pair.query for pair in read_pairs(path)] == ["q1", "q2"]
    a, b = group_by_passage(read_pairs(path))
    assert (a.text, a.queries, a.negatives) == ("a", ("q1", "q2"), ("x", "b"))
    assert (b.text, b.queries, b.negatives) == ("b", ("q1",), ("x",))


def test_pairs_are_read_from_zstd_and_behind_a_byte_order_mark(tmp_path: Path) -> None:
    line = b'{"query": "q", "pos": ["a"]}'
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(line))
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + line)
    for name in ("a.jsonl.zst", "b.jsonl"):
        assert [pair.query for pair in read_pairs(tmp_path / name)] == ["q"]


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    whole = gzip.compress((tmp_path / "pairs.jsonl").read_bytes())
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz.*damage or an early end"):
        list(read_pairs(path))


def test_passages_are_grouped_over_all_files_of_a_source(tmp_path: Path) -> None:
    for name, query in (("a", "q1"), ("b", "q2")):
        line = {"query": query, "pos": ["same"]}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line), encoding="utf-8")
    corpus = read_source(tmp_path, Source("*.jsonl"))
    assert [(p.text, p.queries) for p in corpus.passages] == [("same", ("q1", "q2"))]
    assert corpus.files == ("a.jsonl", "b.jsonl")


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.folder"):
        read_source(tmp_path, Source("*.jsonl"))


def make_sampler(path: Path, seed: int = 1, **settings: Any) -> Sampler:
    data = Data((Source("*.jsonl"),), queries_per_passage=2, negatives=1, title_probability=0.5)
    batches = Batches(**{"passages": 4, "neighbours": 1} | settings)
    return Sampler([read_source(path, Source("*.jsonl"))], data, batches, seed)


def test_an_epoch_holds_every_passage_once(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", negatives=True)
    sampler = make_sampler(tmp_path, passages=5)
    assert sampler.steps_per_epoch == 3
    for epoch in range(2):
        batches = [sampler.batch(epoch * 3 + step) for step in range(3)]
        positives = [b.passages[t].split("\n")[-1] for b in batches for t in sorted(set(b.targets))]
        assert len(positives) == len(set(positives)) == 16
        for batch in batches:
            check_batch(batch)


def check_batch(batch: Batch) -> None:
    assert len(batch.queries) == len(batch.targets) == len(set(batch.queries))
    for query, target in zip(batch.queries, batch.targets, strict=True):
        _, subject, kind = query.split()
        assert f"The {kind} of the {subject}:" in batch.passages[target]
    assert any(text.startswith("Nothing") for text in batch.passages)
    assert not any(t >= len(batch.passages) for t in batch.targets)


def test_batches_follow_from_seed_and_step_alone(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    one, two, other = make_sampler(tmp_path), make_sampler(tmp_path), make_sampler(tmp_path, 2)
    straight = [one.batch(step) for step in range(12)]
    assert [two.batch(step) for step in reversed(range(12))][::-1] == straight
    assert straight[:4] != straight[4:8]
    assert other.batch(0) != straight[0]


def test_neighbours_stay_together(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    sampler = make_sampler(tmp_path, neighbours=4, passages=8)
    subjects = [
        passage.split("of the ")[1].split(":")[0]
        for step in range(2)
        for passage in sampler.batch(step).passages
    ]
    adjacent = sum(a == b for a, b in pairwise(subjects))
    assert adjacent >= 4  # runs of four hold one or two whole pairs; alone, one in 15 would meet


def test_other_positives_of_a_query_are_masked(tmp_path: Path) -> None:
    lines = [
        {"query": "shared", "pos": ["first"]},
        {"query": "shared", "pos": ["second"]},
        {"query": "own", "pos": ["third"], "neg": ["second"]},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    batch = make_sampler(tmp_path).batch(0)
    place = batch.passages.index
    for query, target in zip(batch.queries, batch.targets, strict=True):
        if query == "shared":
            other = "second" if batch.passages[target] == "first" else "first"
            line = next(i for i, t in enumerate(batch.targets) if t == target)
            assert (line, place(other)) in batch.masked
    assert len(batch.masked) == 2


@pytest.mark.parametrize(("probability", "low", "high"), [(0, 0, 0), (0.5, 60, 100), (1, 160, 160)])
def test_titles_stand_before_their_share_of_passages(
    tmp_path: Path, probability: float, low: int, high: int
) -> None:
    write_pairs(tmp_path / "pairs.jsonl", negatives=True)
    corpus = read_source(tmp_path, Source("*.jsonl"))
    data = Data((corpus.source,), title_probability=probability, negatives=1)
    sampler = Sampler([corpus], data, Batches(passages=4), 1)
    batches = [sampler.batch(step) for step in range(40)]
    positives = [b.passages[target] for b in batches for target in b.targets]
    titled = [text for text in positives if "\n" in text]
    assert len(positives) == 160
    assert low <= len(titled) <= high
    for text in titled:
        title, _, passage = text.partition("\n")
        assert f"of the {title}:" in passage


def test_repeated_and_partial_sources(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    for weight, steps in ((2.5, 10), (0.5, 2)):
        corpus = read_source(tmp_path, Source("*.jsonl", weight))
        sampler = Sampler([corpus], Data((corpus.source,)), Batches(passages=4), 1)
        assert sampler.steps_per_epoch == steps
