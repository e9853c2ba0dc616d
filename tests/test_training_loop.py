"""The training loop: what a run writes, how it stops, and resume against no stop."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import write_bert
from training_runs import make_recipe, write_backbone

import m3search.training.loop as loop
from m3search.encoder import Encoder
from m3search.errors import ArtifactError, ConfigError
from m3search.model.checkpoint import load_checkpoint, read_info
from m3search.training.recipe import (
    Recipe,
)
from m3search.training.start import start_model


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, sample_texts: list[str]) -> Path:
    return write_backbone(tmp_path_factory.mktemp("bert"), sample_texts)


@pytest.fixture
def recipe(backbone: Path, tmp_path: Path) -> Recipe:
    return make_recipe(backbone, tmp_path / "data")


def test_a_stopped_and_resumed_run_ends_in_the_same_weights(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.train(recipe, tmp_path / "straight")
    step_of = loop.Run.train_step

    def stop_at_five(run: loop.Run) -> loop.Metrics:
        if run.step == 5:
            raise KeyboardInterrupt
        return step_of(run)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Run, "train_step", stop_at_five)
        loop.train(recipe, tmp_path / "stopped")
    loop.train(recipe, tmp_path / "stopped", resume=True)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("straight", "stopped")]
    steps = [[json.loads(line)["step"] for line in log.splitlines()] for log in logs]
    assert steps == [[1, 2, 3, 4, 5, 6]] * 2
    one, _, _ = load_checkpoint(tmp_path / "straight")
    two, _, _ = load_checkpoint(tmp_path / "stopped")
    for (name, tensor), other in zip(
        one.state_dict().items(), two.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), name


def test_training_learns_and_its_checkpoint_says_from_what(recipe: Recipe, tmp_path: Path) -> None:
    longer = replace(recipe, optimiser=replace(recipe.optimiser, steps=40, learning_rate=3e-3))
    seen: list[loop.Metrics] = []
    out = loop.train(longer, tmp_path / "out", report=seen.append)
    assert [m["step"] for m in seen] == list(range(1, 41))
    logged = (out / "metrics.jsonl").read_text().splitlines()
    assert json.loads(logged[-1])["step"] == 40
    first, last = seen[:5], seen[-5:]
    for name in ("loss_dense", "loss_sparse", "loss_multi", "loss_ensemble"):
        before, after = (sum(m[name] for m in part) for part in (first, last))
        assert after < 0.8 * before, name
    assert seen[1]["loss_distillation"] == 0 < seen[2]["loss_distillation"]
    assert all(m["active_terms_query"] > 0 for m in seen)
    info = read_info(out)
    assert (info.step, info.pooling, info.max_length) == (40, "mean", 128)
    assert info.training["data"][0]["passages"] == 16
    assert info.training["data"][0]["queries"] == 48
    assert "folder" not in info.training["recipe"]["data"]
    assert Encoder.load(out).tokens("x")[-1].text == "[SEP]"


def test_an_earlier_training_is_not_overwritten(recipe: Recipe, tmp_path: Path) -> None:
    loop.train(recipe, tmp_path / "out")
    with pytest.raises(ArtifactError, match="--resume"):
        loop.train(recipe, tmp_path / "out")


def test_no_other_folder_is_overwritten(recipe: Recipe, backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"start\.checkpoint"):
        loop.train(recipe, backbone)
    with pytest.raises(ConfigError, match=r"start\.checkpoint"):
        loop.train(recipe, backbone / ".." / backbone.name, resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ArtifactError, match=r"an empty one, found thesis\.txt"):
        loop.train(recipe, tmp_path / "mine")
    with pytest.raises(ArtifactError, match="found a file"):
        loop.train(recipe, tmp_path / "mine" / "thesis.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_run_that_saved_no_state_can_start_again(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics.jsonl").write_text('{"step": 1}\n')
    (out / "training_state.pt.partial").write_bytes(b"half")
    loop.train(recipe, out)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_resume_notices_other_data_and_not_another_folder(recipe: Recipe, tmp_path: Path) -> None:
    loop.train(recipe, tmp_path / "out")
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    elsewhere = replace(recipe, data=replace(recipe.data, folder=str(moved)))
    loop.train(elsewhere, tmp_path / "out", resume=True)
    with (moved / "pairs.jsonl").open("a") as file:
        file.write('{"query": "one more", "pos": ["passage"]}\n')
    with pytest.raises(ConfigError, match=r"the data that this.*in pairs\.jsonl"):
        loop.train(elsewhere, tmp_path / "out", resume=True)


def test_a_finished_run_can_be_written_with_another_start_weight(
    recipe: Recipe, tmp_path: Path
) -> None:
    out = loop.train(recipe, tmp_path / "out")
    trained, _, _ = load_checkpoint(out)
    half = replace(recipe, output=replace(recipe.output, start_weight=0.5))
    loop.train(half, out, resume=True)
    mixed, _, info = load_checkpoint(out)
    assert info.training["recipe"]["output"]["start_weight"] == 0.5
    name = "backbone.embeddings.word_embeddings.weight"
    assert not torch.equal(mixed.state_dict()[name], trained.state_dict()[name])
    assert torch.equal(mixed.sparse_linear.weight, trained.sparse_linear.weight)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut", b"\x80\x02}q\x00."])
def test_a_damaged_state_is_named(recipe: Recipe, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "training_state.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"training_state\.pt: expected the state"):
        loop.train(recipe, tmp_path / "out", resume=True)


def test_another_start_checkpoint_of_the_same_name_is_named(
    recipe: Recipe, backbone: Path, tmp_path: Path
) -> None:
    place = shutil.copytree(backbone, tmp_path / "start")
    recipe = replace(recipe, start=replace(recipe.start, checkpoint=str(place), multi_dim=None))
    loop.train(recipe, tmp_path / "out")
    shutil.rmtree(place)
    write_bert(place, ["a smaller vocabulary"])
    with pytest.raises(ArtifactError, match=r"start\.checkpoint"):
        loop.train(recipe, tmp_path / "out", resume=True)


def test_the_random_states_of_gpus_are_kept(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = loop.Run(recipe, tmp_path)
    states = [torch.arange(16, dtype=torch.uint8), torch.arange(3, dtype=torch.uint8)]
    given: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", given.extend)
    run.save_state()
    run.resume()
    assert [state.tolist() for state in given] == [state.tolist() for state in states]


def test_resume_with_another_recipe_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    loop.train(recipe, tmp_path / "out")
    other = replace(recipe, optimiser=replace(recipe.optimiser, learning_rate=1.0))
    with pytest.raises(ConfigError, match=r"optimiser\.learning_rate = 0\.001"):
        loop.train(other, tmp_path / "out", resume=True)
    with pytest.raises(ArtifactError, match="without --resume"):
        loop.train(recipe, tmp_path / "empty", resume=True)


def test_a_gradient_that_is_no_number_changes_no_weight(recipe: Recipe, tmp_path: Path) -> None:
    run = loop.Run(recipe, tmp_path)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.model.sparse_linear.bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(loop.DivergenceError, match="step 0: expected a finite gradient norm"):
        run.train_step()
    assert run.step == 0
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_loss_that_is_no_number_stops_the_run(recipe: Recipe, tmp_path: Path) -> None:
    wild = replace(recipe, objective=replace(recipe.objective, temperature=1e-45))
    with pytest.raises(loop.DivergenceError, match="a finite loss"):
        loop.train(wild, tmp_path / "out")


@pytest.mark.parametrize("start_weight", [0.0, 0.25])
def test_the_finished_backbone_lies_between_start_and_end_of_training(
    recipe: Recipe, tmp_path: Path, start_weight: float
) -> None:
    recipe = replace(recipe, output=replace(recipe.output, start_weight=start_weight))
    out = loop.train(recipe, tmp_path / "out")
    finished, _, info = load_checkpoint(out)
    assert info.training["recipe"]["output"]["start_weight"] == start_weight
    start = start_model(recipe.start).model
    trained = torch.load(out / "training_state.pt", weights_only=True)["model"]
    for name, tensor in finished.state_dict().items():
        expected = trained[name]
        if name.startswith("backbone."):
            expected = (1 - start_weight) * expected + start_weight * start.state_dict()[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-7, msg=name)
    moved = [n for n, t in start.state_dict().items() if not torch.equal(t, trained[n])]
    assert any(name.startswith("backbone.") for name in moved)
