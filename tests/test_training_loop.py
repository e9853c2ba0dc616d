"""A whole training: what it writes and says, what it does not write over, and start weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import read_log

from m3search.encoder import Encoder
from m3search.errors import ArtifactError, ConfigError
from m3search.model.checkpoint import load_checkpoint, read_info
from m3search.training.finetuning import Metrics
from m3search.training.loop import train
from m3search.training.recipe import Recipe, Start
from m3search.training.run import Run
from m3search.training.start import start_model


@pytest.fixture
def recipe(recipe: Recipe) -> Recipe:
    """Two steps."""
    return replace(recipe, optimiser=replace(recipe.optimiser, steps=2))


def test_training_learns_and_its_checkpoint_says_from_what(recipe: Recipe, tmp_path: Path) -> None:
    longer = replace(recipe, optimiser=replace(recipe.optimiser, steps=25, learning_rate=3e-3))
    seen: list[Metrics] = []
    out = train(longer, tmp_path / "out", report=seen.append)
    assert [m["step"] for m in seen] == list(range(1, 26))
    assert [line["step"] for line in read_log(out)] == list(range(1, 26))
    first, last = seen[:5], seen[-5:]
    for name in ("loss_dense", "loss_sparse", "loss_multi", "loss_ensemble"):
        before, after = (sum(m[name] for m in part) for part in (first, last))
        assert after < 0.8 * before, name
    for name in ("dense", "sparse", "multi", "ensemble"):
        assert min(m[f"accuracy_{name}"] for m in seen) >= 0
        assert sum(m[f"accuracy_{name}"] for m in last) > 2.5
    assert [("loss_distillation" in m) for m in seen[:4]] == [False, False, True, True]
    assert all(m["active_terms_query"] > 0 for m in seen)
    info = read_info(out)
    assert (info.step, info.pooling, info.max_length) == (25, "mean", 128)
    (source,) = info.training["data"]
    assert (source["passages"], source["queries"]) == (16, 48)
    assert (source["files"], len(source["sha256"])) == (["pairs.jsonl"], 64)
    assert "folder" not in info.training["recipe"]["data"]
    assert Encoder.load(out).tokens("x")[-1].text == "[SEP]"


@pytest.mark.parametrize(
    ("log_every", "save_every", "logged", "saved"),
    [(1, 9, [1, 2, 3, 4, 5], [5]), (2, 2, [2, 4, 5], [2, 4, 5]), (9, 1, [5], [1, 2, 3, 4, 5])],
)
def test_steps_are_logged_and_saved_as_asked(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log_every: int,
    save_every: int,
    logged: list[int],
    saved: list[int],
) -> None:
    states: list[int] = []
    monkeypatch.setattr(Run, "save_state", lambda run: states.append(run.step))
    monkeypatch.setattr(Run, "save", lambda run: None)
    output = replace(recipe.output, log_every=log_every, save_every=save_every)
    five = replace(recipe, output=output, optimiser=replace(recipe.optimiser, steps=5))
    out = train(five, tmp_path / "out")
    assert [line["step"] for line in read_log(out)] == logged
    assert states == saved


def test_an_earlier_training_is_not_overwritten(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path / "out")
    with pytest.raises(ArtifactError, match="--resume"):
        train(recipe, tmp_path / "out")


def test_no_other_folder_is_overwritten(recipe: Recipe, backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"start\.checkpoint"):
        train(recipe, backbone)
    with pytest.raises(ConfigError, match=r"start\.checkpoint"):
        train(recipe, backbone / ".." / backbone.name, resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ArtifactError, match=r"an empty one, found thesis\.txt"):
        train(recipe, tmp_path / "mine")
    with pytest.raises(ArtifactError, match="found a file"):
        train(recipe, tmp_path / "mine" / "thesis.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_run_that_saved_no_state_can_start_again(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "lengths").mkdir(parents=True)
    (out / "tensorboard").mkdir()
    (out / "metrics.jsonl").write_text('{"step": 1}\n')
    (out / "training_state.pt.partial").write_bytes(b"half")
    train(recipe, out)
    assert [line["step"] for line in read_log(out)] == [1, 2]


@pytest.mark.parametrize("weights", ["fp32", "fp16"])
def test_the_precision_of_the_finished_weights(
    recipe: Recipe, tmp_path: Path, weights: str
) -> None:
    half = replace(recipe, output=replace(recipe.output, weights=weights))  # type: ignore[arg-type]
    out = train(half, tmp_path / "out")
    trained = torch.load(out / "training_state.pt", weights_only=True)["model"]
    head = torch.load(out / "sparse_linear.pt", weights_only=True)["weight"]
    dtype = torch.float16 if weights == "fp16" else torch.float32
    assert torch.equal(head, trained["sparse_linear.weight"].to(dtype))
    finished, _, _ = load_checkpoint(out)
    for name, tensor in finished.state_dict().items():
        assert torch.equal(tensor, trained[name].to(dtype).float()), name


def test_a_checkpoint_says_how_its_modes_are_weighed(recipe: Recipe, tmp_path: Path) -> None:
    assert load_checkpoint(train(recipe, tmp_path / "none"))[2].fusion_weights is None
    own = replace(recipe, output=replace(recipe.output, fusion_weights=(0.5, 0.2, 1.0)))
    first = train(own, tmp_path / "first")
    assert load_checkpoint(first)[2].fusion_weights == (0.5, 0.2, 1.0)
    then = replace(recipe, start=Start(str(first), dropout=0.0))
    second = train(then, tmp_path / "second")
    assert load_checkpoint(second)[2].fusion_weights == (0.5, 0.2, 1.0)
    again = replace(then, output=replace(then.output, fusion_weights=(1.0, 1.0, 0.5)))
    third = train(again, tmp_path / "third")
    assert load_checkpoint(third)[2].fusion_weights == (1.0, 1.0, 0.5)
    assert Encoder.load(second).identity.fusion_weights == (0.5, 0.2, 1.0)
    rare = replace(recipe, output=replace(recipe.output, idf=True))
    fourth = train(rare, tmp_path / "fourth")
    assert load_checkpoint(fourth)[2].idf and not load_checkpoint(second)[2].idf
    fifth = replace(then, start=replace(then.start, checkpoint=str(fourth)))
    assert load_checkpoint(train(fifth, tmp_path / "fifth"))[2].idf
    assert Encoder.load(tmp_path / "none").identity.fusion_weights == (1, 0.3, 1)


@pytest.mark.parametrize("start_weight", [0.0, 0.25])
def test_the_finished_backbone_lies_between_start_and_end_of_training(
    recipe: Recipe, tmp_path: Path, start_weight: float
) -> None:
    recipe = replace(recipe, output=replace(recipe.output, start_weight=start_weight))
    out = train(recipe, tmp_path / "out")
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


def test_a_finished_run_can_be_written_with_another_start_weight(
    recipe: Recipe, tmp_path: Path
) -> None:
    out = train(recipe, tmp_path / "out")
    trained, _, _ = load_checkpoint(out)
    half = replace(recipe, output=replace(recipe.output, start_weight=0.5))
    train(half, out, resume=True)
    mixed, _, info = load_checkpoint(out)
    assert info.training["recipe"]["output"]["start_weight"] == 0.5
    name = "backbone.embeddings.word_embeddings.weight"
    assert not torch.equal(mixed.state_dict()[name], trained.state_dict()[name])
    assert torch.equal(mixed.sparse_linear.weight, trained.sparse_linear.weight)
