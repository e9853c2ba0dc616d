"""Negatives mined again while a training runs: which, from when on, and after a stop."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import write_lines

from m3search.errors import ArtifactError, ConfigError
from m3search.model.checkpoint import load_checkpoint
from m3search.training.drawing import Batch
from m3search.training.finetuning import Finetuning, Texts
from m3search.training.loop import train
from m3search.training.mining.rules import MiningSettings
from m3search.training.recipe import Objective, Recipe, Refresh, Start
from m3search.training.refreshing import mine_again, mined_file, with_negatives
from m3search.training.run import Prepared, Run


@pytest.fixture
def recipe(recipe: Recipe) -> Recipe:
    rules = MiningSettings(ranks=(0, 8), negatives=3)
    return replace(recipe, refresh=Refresh(every=2, modes=("dense", "sparse"), rules=rules))


def stop_before(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    step_of = Run.train_step

    def stop(run: Run, prepared: Prepared) -> dict[str, float]:
        if run.step == step:
            raise KeyboardInterrupt
        return step_of(run, prepared)

    monkeypatch.setattr(Run, "train_step", stop)


def test_from_a_refresh_on_mined_negatives_are_drawn(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    read = Finetuning.read

    def note(stage: Finetuning, batch: Batch) -> Texts:
        seen.append([text for i, text in enumerate(batch.passages) if i not in batch.targets])
        return read(stage, batch)

    monkeypatch.setattr(Finetuning, "read", note)
    out = train(recipe, tmp_path / "out")
    assert sorted(path.name for path in (out / "mined").iterdir()) == ["2.jsonl.gz", "4.jsonl.gz"]
    assert all(text.startswith("Nothing about") for texts in seen[:2] for text in texts)
    after = [text for texts in seen[2:] for text in texts]
    assert after and not any(text.startswith("Nothing about") for text in after)
    lines = gzip.decompress(mined_file(out, 2).read_bytes()).decode().splitlines()
    mined = [json.loads(line) for line in lines]
    assert len(mined) == 48
    for line in mined:
        _, subject, kind = line["query"].split()
        assert len(line["neg"]) == 3
        assert not any(f"The {kind} of the {subject}:" in text for text in line["neg"])
    first, second = (mined_file(out, step).read_bytes() for step in (2, 4))
    assert first != second  # another model, other negatives


def test_a_refresh_changes_no_plan_of_which_passages_meet(recipe: Recipe, tmp_path: Path) -> None:
    pairs = tmp_path / "data" / "pairs.jsonl"
    longer = {"query": "what bread", "pos": ["bread use " * 12], "neg": ["Nothing."]}
    pairs.write_text(pairs.read_text() + json.dumps(longer) + "\n")
    rules = MiningSettings(ranks=(0, 17), negatives=16)  # every other passage, the long one, too
    recipe = replace(recipe, refresh=replace(recipe.refresh, rules=rules))
    out = train(recipe, tmp_path / "out")
    run = Run(recipe, out)
    before = [run.sampler.texts(step) for step in range(10)]
    run._take_negatives(4)
    assert [run.sampler.texts(step) for step in range(10)] == before
    assert any(
        text.startswith("bread use") and place not in batch.targets
        for batch in map(run.sampler.batch, range(10))
        for place, text in enumerate(batch.passages)
    )


def test_what_another_line_has_as_positive_is_not_mined(recipe: Recipe, tmp_path: Path) -> None:
    pairs = tmp_path / "data" / "pairs.jsonl"
    lines = [json.loads(line) for line in pairs.read_text().splitlines()]
    same = [line | {"query": "of use"} for line in lines if " use " in line["pos"][0]]
    write_lines(pairs, [*lines, *same])
    rules = MiningSettings(ranks=(0, 16), negatives=16)
    recipe = replace(recipe, refresh=replace(recipe.refresh, rules=rules))
    run = Run(recipe, tmp_path / "none")
    with run.as_encoder(32) as encoder:
        mine_again(run.corpora, encoder, recipe.refresh, tmp_path / "mined.jsonl")
    mined = map(json.loads, (tmp_path / "mined.jsonl").read_text().splitlines())
    found = [text for line in mined if line["query"] == "of use" for text in line["neg"]]
    assert found and not any(text.startswith("The use") for text in found)
    assert not any("\n" in text for text in found)  # a step reads them as it reads all passages


def test_candidates_are_weighed_as_the_recipe_says(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path)
    mined = {}
    with run.as_encoder(32) as encoder:
        for modes, weights in (
            (("sparse",), None),
            (("dense", "sparse"), None),
            (("dense", "sparse"), (0.0, 1.0, 9.0)),
            (("dense", "sparse"), (1.0, 0.3, 9.0)),
        ):
            settings = Refresh(every=2, modes=modes, weights=weights, rules=recipe.refresh.rules)
            mine_again(run.corpora, encoder, settings, tmp_path / "mined.jsonl")
            mined[modes, weights] = (tmp_path / "mined.jsonl").read_bytes()
    sparse, default, only_sparse, as_default = mined.values()
    assert only_sparse == sparse != default == as_default


@pytest.mark.parametrize("stop", [2, 3, 4, 5])
def test_a_run_stopped_around_a_refresh_ends_in_the_same_weights(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    train(recipe, tmp_path / "straight")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before(stop, patch)
        train(recipe, tmp_path / "stopped")
    train(recipe, tmp_path / "stopped", resume=True)
    assert_same_weights(tmp_path / "straight", tmp_path / "stopped")


def test_a_run_stopped_while_it_mines_mines_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state stands at the step of a refresh, whose negatives were never written."""
    train(recipe, tmp_path / "straight")
    out = tmp_path / "stopped"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("m3search.training.run.mine_again", stop)
        train(recipe, out)
    assert torch.load(out / "training_state.pt", weights_only=True)["step"] == 2
    assert not mined_file(out, 2).exists()
    train(recipe, out, resume=True)
    assert_same_weights(tmp_path / "straight", out)


def assert_same_weights(*folders: Path) -> None:
    one, two = (load_checkpoint(folder)[0].state_dict() for folder in folders)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_negatives_of_another_training_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path)
    place = tmp_path / "other.jsonl"
    place.write_text('{"query": "something else", "neg": []}\n')
    with pytest.raises(ArtifactError, match=r"other\.jsonl: expected the negatives of"):
        with_negatives(run.corpora, place)
    place.write_text('{"query": "what lighthouse history", "neg": []}\n')
    with pytest.raises(ArtifactError, match="the end of the file"):
        with_negatives(run.corpora, place)


@pytest.mark.parametrize(
    ("modes", "trained", "found"),
    [
        (("sparse",), ("dense",), "sparse"),
        (("dense", "multi"), ("dense", "sparse"), "multi"),
        (("dense",), ("sparse",), None),
        (("dense", "sparse"), ("sparse",), None),
    ],
)
def test_negatives_are_not_mined_by_a_head_that_is_random(
    recipe: Recipe, tmp_path: Path, modes: Any, trained: Any, found: str | None
) -> None:
    objective = Objective(modes=trained, self_distill=False)
    asked = replace(recipe, objective=objective, refresh=replace(recipe.refresh, modes=modes))
    if found is None:
        Run(asked, tmp_path)
        return
    with pytest.raises(ConfigError, match=rf"^refresh\.modes: .*found {found}, whose head"):
        Run(asked, tmp_path)


def test_negatives_may_be_mined_by_a_head_that_the_start_has(
    recipe: Recipe, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    start = Start(str(tiny_checkpoint))
    refresh = replace(recipe.refresh, modes=("sparse", "multi"))
    alone = Objective(modes=("dense",), self_distill=False)
    Run(replace(recipe, start=start, objective=alone, refresh=refresh), tmp_path)
