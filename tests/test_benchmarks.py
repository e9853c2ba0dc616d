"""The benchmarks of training: their arithmetic by hand, and each script's core on a tiny model."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import write_backbone, write_pairs

from m3search.errors import ConfigError
from m3search.model.checkpoint import load_checkpoint
from m3search.model.tokenization import Tokenization
from m3search.training.encoding import Parts

sys.path.insert(0, str(Path(__file__).parent.parent / "eval" / "benchmarks"))
ablation: Any = import_module("ablation")
ablation_report: Any = import_module("ablation_report")
measuring: Any = import_module("measuring")
training_batches: Any = import_module("training_batches")
training_memory: Any = import_module("training_memory")
training_step: Any = import_module("training_step")


def texts_of(*lengths: int) -> list[np.ndarray]:
    return [np.zeros(length, np.int64) for length in lengths]


def test_padding_is_counted_as_by_hand() -> None:
    found = training_batches.Padding.of([texts_of(3, 5), texts_of(2)])
    assert found == (10, 12)
    assert found.to_json() == {"real": 10, "padded": 12, "padding": 0.1667, "wasted": 0.2}


def test_parts_are_cut_from_the_longest_text_on() -> None:
    parts = list(training_batches.parts_of([texts_of(2, 6, 4)], Parts(8, price=3)))
    assert [[len(text) for text in part] for part in parts] == [[6], [4, 2]]
    assert training_batches.Padding.of(parts).padded == 6 + 2 * 4


def test_random_batches_hold_every_text_once_and_no_two_groups() -> None:
    groups = [texts_of(*range(3, 10)), texts_of(*range(20, 24))]
    batches = list(training_batches.random_batches(groups, 3, seed=1))
    assert [len(batch) for batch in batches] == [3, 3, 1, 3, 1]
    assert sorted(len(t) for b in batches[:3] for t in b) == list(range(3, 10))
    assert sorted(len(t) for b in batches[3:] for t in b) == list(range(20, 24))


def test_a_shorter_limit_keeps_the_last_token() -> None:
    ids = {"a": np.array([0, 5, 6, 7, 2]), "b": np.array([0, 5, 2])}
    found = training_batches.cut(ids, 4)
    assert {text: row.tolist() for text, row in found.items()} == {
        "a": [0, 5, 6, 2],
        "b": [0, 5, 2],
    }


def test_every_kind_of_batch_holds_the_same_tokens(tmp_path: Path, tiny_checkpoint: Path) -> None:
    write_pairs(tmp_path / "short.jsonl")
    lines = [
        {"query": f"q{n}", "pos": [f"{n}: " + "a longer passage of words " * (n % 9)]}
        for n in range(1, 60)
    ]
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "text.jsonl").write_text('{"text": "no pair"}\n')
    corpora = training_batches.read_pairs(tmp_path, 50)
    assert [corpus.files for corpus in corpora] == [("mixed.jsonl",), ("short.jsonl",)]
    assert [len(corpus.passages) for corpus in corpora] == [50, 16]
    _, tokenizer, _ = load_checkpoint(tiny_checkpoint)
    ids = training_batches.read_ids(corpora, Tokenization(tokenizer), 40)
    found = training_batches.measure_padding(corpora, ids, 40, size=8, parts=Parts(64))
    assert {row.real for row in found.values()} == {sum(map(len, ids.values()))}
    assert found["buckets and parts"].padded < found["buckets"].padded <= found["random"].padded


def test_speed_is_measured_on_the_same_texts(tmp_path: Path, tiny_checkpoint: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    corpora = training_batches.read_pairs(tmp_path, 100)
    passes = training_batches.Passes(str(tiny_checkpoint), 32, 64, "fp32")
    _, tokenizer, _ = load_checkpoint(tiny_checkpoint)
    ids = training_batches.read_ids(corpora, Tokenization(tokenizer), 32)
    asked = argparse.Namespace(rounds=1, steps_passages=8, batch=4, steps_length=32)
    found = training_batches.measure_speed(passes, corpora, ids, asked)
    assert found["ratios"] == [found["ratio"]]
    assert min(found["tokens_per_second"].values()) > 0


def trial_of(floor: float, base: float, slope: float, square: float = 0.0) -> Any:
    """A machine on which a batch takes max(floor, base + slope * n + square * n^2) GB."""

    def measure(batch: int) -> Any:
        gb = max(floor, base + slope * batch + square * batch**2)
        return training_memory.Measured(batch, gb, 0.5 * batch)

    return measure


def test_the_line_says_the_largest_batch_and_a_trial_confirms_it() -> None:
    found = training_memory.find_largest(trial_of(0, 1.0, 0.25), [2, 4], budget=8.1)
    assert (found.base_gb, found.gb_per_text) == pytest.approx((1.0, 0.25))
    assert (found.predicted, found.batch, found.is_limit) == (28, 28, True)
    assert [trial.batch for trial in found.trials] == [2, 4, 28]


def test_batches_are_doubled_until_the_texts_decide_the_peak() -> None:
    found = training_memory.find_largest(trial_of(2.0, 1.0, 0.1), [2, 4], budget=5.05)
    assert [trial.batch for trial in found.trials] == [2, 4, 8, 16, 48, 40]
    assert (found.batch, found.is_limit) == (40, True)


def test_a_prediction_that_does_not_fit_is_taken_back() -> None:
    measure = trial_of(0, 1.0, 0.1, square=0.01)
    found = training_memory.find_largest(measure, [2, 4], budget=5.0)
    assert found.predicted > found.batch > 10
    assert measure(found.batch).gb <= 5.0


def test_a_trial_that_would_take_too_long_is_a_smaller_one() -> None:
    measure = trial_of(0, 1.0, 0.001)
    slow = {"seconds": 10.0, "otherwise": 60}
    found = training_memory.find_largest(measure, [200, 400], budget=8.0, **slow)
    assert (found.predicted, found.batch, found.is_limit) == (7000, 400, False)
    slow = {"seconds": 10.0, "otherwise": 1200}
    found = training_memory.find_largest(measure, [200, 400], budget=8.0, **slow)
    assert (found.batch, found.is_limit) == (1200, False)


def test_memory_that_does_not_grow_is_no_line() -> None:
    flat = [training_memory.Measured(2, 1.0, 0.1), training_memory.Measured(4, 1.0, 0.1)]
    with pytest.raises(ConfigError, match="grows"):
        training_memory.largest_of(*training_memory.fit_line(flat), 8.0)
    found = training_memory.find_largest(trial_of(1.0, 0, 0), [2, 4], budget=1.5, otherwise=80)
    assert (found.batch, found.is_limit) == (80, False)
    with pytest.raises(ConfigError, match="fewer"):
        training_memory.fit_line(flat[:1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_holds_what_was_freed_within() -> None:
    megabytes = 64

    def work() -> None:
        torch.ones(megabytes << 18)

    assert 0.9 < measuring.peak_bytes(work, torch.device("cpu")) / (megabytes << 20) < 1.5


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_trial_measures_a_step(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_memory, "die_first", lambda: None)
    trial = {"length": 48, "query_length": 8, "batch": 2, "method": "parts", "precision": "fp32"}
    found = training_memory.measure_here(str(tiny_checkpoint), trial)
    weights = load_checkpoint(tiny_checkpoint)[0].parameters()
    assert found["gb"] >= 4 * sum(weight.numel() for weight in weights) / 1e9


def test_random_ids_have_their_lengths_and_no_special_piece_within(tiny_checkpoint: Path) -> None:
    _, tokenizer, _ = load_checkpoint(tiny_checkpoint)
    texts = measuring.random_ids([5, 60], tokenizer, len(tokenizer), seed=1)
    assert [len(text) for text in texts] == [5, 60]
    for text in texts:
        assert (text[0], text[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert not set(text[1:-1].tolist()) & set(tokenizer.all_special_ids)


@pytest.mark.parametrize("vocabulary", [None, 900])
def test_both_sides_of_a_step_have_the_same_loss(
    tiny_checkpoint: Path, vocabulary: int | None
) -> None:
    setting = training_step.Setting(3, 2, 6, 14, 0.4, vocabulary, 1, 64, "fp32", 40)
    found = training_step.compare(str(tiny_checkpoint), setting, 1, memory=False)
    theirs, ours = (found["loss_of_the_first_step"][side] for side in training_step.SIDES)
    assert ours == pytest.approx(theirs, rel=1e-3)
    a, b = (found["seconds"][side] for side in training_step.SIDES)
    assert a > 0 and b > 0 and len(found["time_ratios"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["training_memory.py", "nowhere", "--batches", "2"], 2, "needs two different numbers"),
        (["training_memory.py", "nowhere", "--lengths", "8"], 1, "error: start.checkpoint: expec"),
        (["training_step.py", "nowhere"], 1, "error: start.checkpoint: expected a folder"),
        (["encoding.py", "nowhere.jsonl"], 1, "error: nowhere.jsonl: expected a file"),
    ],
)
def test_what_a_user_can_cause_is_a_line_and_no_traceback(
    arguments: list[str], code: int, said: str
) -> None:
    script = Path(measuring.__file__).parent / arguments[0]
    command = [sys.executable, str(script), *arguments[1:]]
    sources = {"PYTHONPATH": str(script.parents[2])}
    done = subprocess.run(
        command, env=os.environ | sources, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert said in done.stderr


def test_without_flagembedding_there_is_nothing_to_compare_with(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "FlagEmbedding.finetune.embedder.encoder_only.m3", None)
    setting = training_step.Setting(2, 1, 6, 14, 0.4, None, 1, 64, "fp32", 40)
    with pytest.raises(ConfigError, match=r"FlagEmbedding: expected the package.*\[test\]"):
        training_step.build(str(tiny_checkpoint), setting, training_step.SIDES)


def test_signs_are_turned_in_all_ways() -> None:
    assert ablation_report.sign_flip_p([1.0, 2.0, 3.0]) == 2 / 8
    assert ablation_report.sign_flip_p([1.0, -1.0]) == 1.0
    assert ablation_report.sign_flip_p([3.0, 1.0, -1.0]) == 6 / 8  # sums 3, 5, 1, 3 and mirrored
    assert ablation_report.sign_flip_p([1.0] * 20) < 0.001


def test_differences_are_paired_by_seed_and_set() -> None:
    cells = ablation_report.CELLS
    values = dict(zip(cells, (0.1, 0.2, 0.4, 0.8), strict=True))  # neither, RetroMAE, distil, both
    results = {
        cell: {seed: {"a": dict.fromkeys(ablation_report.ROWS, value * seed)} for seed in (1, 2)}
        for cell, value in values.items()
    }
    distilled = ablation_report.differences(results, 0, "dense")
    assert distilled == pytest.approx([(0.3 + 0.6) / 2, (0.3 + 0.6)])
    assert ablation_report.differences(results, 1, "dense") == pytest.approx([0.25, 0.5])
    summary = ablation_report.summarise(results)
    assert summary["cells"]["RetroMAE"]["a"]["multi"] == {
        "mean": pytest.approx(0.3), "sd": pytest.approx(0.2 / 2**0.5)
    }  # fmt: skip
    assert summary["differences"]["self-distillation"]["all"]["better"] == 2


def write_set(folder: Path) -> Path:
    """Two documents and a question on each."""
    (folder / "qrels").mkdir(parents=True)
    for name, lines in {
        "corpus.jsonl": ["volcano history", "the use of bread"],
        "queries.jsonl": ["what volcano", "how bread"],
    }.items():
        records = [json.dumps({"_id": str(n), "text": text}) for n, text in enumerate(lines)]
        (folder / name).write_text("\n".join(records))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n0\t0\t1\n1\t1\t1\n")
    return folder


def test_the_ablation_trains_each_cell_once_and_reports(
    tmp_path: Path, sample_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pairs(tmp_path / "data" / "pairs.jsonl")
    backbone = write_backbone(tmp_path / "start", sample_texts)
    sets = write_set(tmp_path / "set")
    options = ["--steps", "1", "--retromae-steps", "1", "--passages", "4", "--multi-dim", "8"]
    options += ["--passage-length", "32", "--max-length", "64", "--pairs", "*.jsonl", "--texts"]
    options += ["*.jsonl", "--seeds", "5", "--work", str(tmp_path / "work")]
    arguments = [str(backbone), str(tmp_path / "data"), str(sets), *options]
    asked = ablation._parse([*arguments, "--out", str(tmp_path / "report")])
    ablation.write_report(asked)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert set(report["cells"]) == {cell.name for cell in ablation_report.CELLS}
    for cell in report["cells"].values():
        assert 0 <= cell["set"]["all"]["mean"] <= 1
    assert "self-distillation+RetroMAE" in (tmp_path / "report" / "report.md").read_text()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(ablation, "train", refuse)
    again = ablation.Ablation(asked).run()
    assert {cell.name: by_seed[5] for cell, by_seed in again.items()} == {
        name: by_seed["5"] for name, by_seed in report["runs"].items()
    }
    asked.steps = 2
    with pytest.raises(ConfigError, match="same settings"):
        ablation.Ablation(asked).run()


def test_a_result_names_no_place_of_a_machine(tmp_path: Path) -> None:
    asked = argparse.Namespace(
        checkpoint=str(tmp_path), data=tmp_path / "train", sets=[tmp_path / "a", tmp_path / "b"],
        cases=["equal", "mixed"], rounds=3, vocabulary=None, out=tmp_path / "x", trial=None,
    )  # fmt: skip
    assert measuring.settings_of(asked) == {
        "checkpoint": tmp_path.name, "data": "train", "sets": ["a", "b"],
        "cases": ["equal", "mixed"], "rounds": 3, "vocabulary": None,
    }  # fmt: skip
