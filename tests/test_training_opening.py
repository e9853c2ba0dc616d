"""What a run says before its first step, and data that nothing can be learned from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from training_runs import write_lines

from m3search.errors import ConfigError
from m3search.training.loop import train
from m3search.training.recipe import Objective, Recipe, Source
from m3search.training.run import Run


def test_a_run_tells_its_data_its_model_and_its_place(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path)
    weights = sum(each.numel() for each in run.model.parameters()) / 1e6
    assert run.notes == [
        "*.jsonl: 16 passages, 48 queries, 48 with negatives, 0 with a teacher's scores",
        f"finetune: 6 steps, {run.sampler.steps_per_epoch} an epoch; {weights:.1f} of "
        f"{weights:.1f} million weights in fp32 on 1 process (cpu)",
    ]
    said: list[str] = []
    train(replace(recipe, optimiser=replace(recipe.optimiser, steps=1)), tmp_path / "x",
          note=said.append)  # fmt: skip
    assert said[0] == run.notes[0]


def test_settings_without_an_effect_are_told(recipe: Recipe, tmp_path: Path) -> None:
    lines = [{"query": f"q{n}", "pos": [f"passage {n}"], "pos_scores": [1]} for n in range(3)]
    write_lines(tmp_path / "data" / "pairs.jsonl", lines[:2])
    write_lines(tmp_path / "data" / "more.jsonl", lines[2:])
    taught = replace(recipe, objective=Objective(teacher="kl"))
    first, _, *rest = Run(taught, tmp_path).notes
    assert first == (
        "*.jsonl (2 files): 3 passages, 3 queries, 0 with negatives, 3 with a teacher's scores"
    )
    assert rest == ["data.negatives = 1, but no line has any: in-batch ones alone"]
    write_lines(tmp_path / "data" / "pairs.jsonl", [{"query": "q", "pos": ["a"], "neg": ["b"]}])
    (tmp_path / "data" / "more.jsonl").unlink()
    assert Run(taught, tmp_path).notes[2:] == [
        "objective.teacher = 'kl', but no line has a teacher's scores"
    ]


def test_texts_alone_have_no_queries(recipe: Recipe, tmp_path: Path) -> None:
    write_lines(tmp_path / "data" / "pairs.jsonl", [{"text": "one"}, {"text": "two"}])
    alone = replace(recipe, stage="retromae", objective=None)
    assert "*.jsonl: 2 texts" in Run(alone, tmp_path).notes


def test_a_passage_alone_teaches_nothing(recipe: Recipe, tmp_path: Path) -> None:
    lines = [{"query": word, "pos": ["the only passage"]} for word in ("one", "two")]
    write_lines(tmp_path / "data" / "pairs.jsonl", lines)
    with pytest.raises(ConfigError, match=r"two passages .*1 passage in it, one in a step"):
        Run(recipe, tmp_path)
    lines[0]["neg"] = ["another"]
    write_lines(tmp_path / "data" / "pairs.jsonl", lines)
    Run(recipe, tmp_path)
    unused = replace(recipe, data=replace(recipe.data, negatives=0, sources=(Source("*"),)))
    with pytest.raises(ConfigError, match="two passages in a step"):
        Run(unused, tmp_path)


def test_a_source_that_keeps_to_itself_needs_negatives(recipe: Recipe, tmp_path: Path) -> None:
    lines = [{"query": f"q{n}", "pos": [f"passage {n}"]} for n in range(8)]
    write_lines(tmp_path / "data" / "pairs.jsonl", lines)
    own = replace(recipe.data, sources=(Source("*.jsonl", in_batch_negatives=False),))
    with pytest.raises(ConfigError, match=r"lines with negatives .*none of either in \*\.jsonl"):
        Run(replace(recipe, data=own), tmp_path)


def test_steps_of_one_passage_are_told(recipe: Recipe, tmp_path: Path) -> None:
    lines = [{"query": f"q{n}", "pos": [f"passage {n}"]} for n in range(5)]
    write_lines(tmp_path / "data" / "pairs.jsonl", lines)
    fewer = replace(recipe, batches=replace(recipe.batches, passages=2, neighbours=1))
    last = Run(fewer, tmp_path).notes[-1]
    assert last == "1 of 3 steps hold one passage: nothing to learn there"


def test_files_that_several_sources_read_are_told(recipe: Recipe, tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        lines = [{"query": f"q{name}{n}", "pos": [f"{name} {n}"], "neg": ["x"]} for n in range(4)]
        write_lines(tmp_path / "data" / f"{name}.jsonl", lines)
    told = {
        ("pairs.jsonl", "a.jsonl"): None,
        ("[a-d].jsonl", "a.jsonl"): "several read a.jsonl, whose",
        ("*.jsonl", "[a-d].jsonl"): "several read a.jsonl, b.jsonl, c.jsonl and 1 more, whose",
    }
    for files, said in told.items():
        data = replace(recipe.data, sources=tuple(map(Source, files)))
        note = Run(replace(recipe, data=data), tmp_path).notes[2]
        assert note.startswith(f"data.sources: {said}" if said else "finetune: ")
