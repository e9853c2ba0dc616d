"""The prediction head of RetroMAE, as the checkpoint's masked language model has it, or new."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from retromae_reference import SIZES, make_batch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from training_runs import read_log, starting
from transformers import (
    AutoConfig,
    BertConfig,
    BertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from m3search.errors import ArtifactError
from m3search.model.checkpoint import load_backbone
from m3search.training.loop import train
from m3search.training.prediction import take_pretrained
from m3search.training.recipe import Recipe
from m3search.training.retromae import RetroMAE
from m3search.training.run import Run

OWN = "the prediction head starts as the checkpoint's own"
FAMILIES: dict[str, tuple[type, Any, Callable[[Any], Callable[[Tensor], Tensor]]]] = {
    "cls.predictions": (BertForMaskedLM, BertConfig(**SIZES), lambda model: model.cls),
    "lm_head": (XLMRobertaForMaskedLM, XLMRobertaConfig(**SIZES), lambda model: model.lm_head),
    "generator_predictions": (
        ElectraForMaskedLM,
        ElectraConfig(embedding_size=6, **SIZES),
        lambda model: lambda s: model.generator_lm_head(model.generator_predictions(s)),
    ),
}


def write_masked(folder: Path, family: str, **settings: Any) -> PreTrainedModel:
    """A masked language model whose head is unlike any new one."""
    torch.manual_seed(4)
    kind, config, _ = FAMILIES[family]
    model = kind(type(config).from_dict(config.to_dict() | settings)).eval()
    for name, parameter in model.named_parameters():
        if "word_embeddings" not in name:
            torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    return model


def edit(folder: Path, change: Callable[[dict[str, Tensor]], None], pickled: bool = False) -> None:
    """Other weights in the place of those that the folder has."""
    state = load_file(folder / "model.safetensors")
    change(state)
    (folder / "model.safetensors").unlink()
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors", {"format": "pt"})


def load(folder: Path) -> tuple[RetroMAE, str]:
    model = RetroMAE(load_backbone(folder)).eval()
    return model, take_pretrained(model.head, folder, model.backbone)


def logits(model: RetroMAE, states: Tensor) -> Tensor:
    words = model.backbone.get_input_embeddings().weight
    return functional.linear(model.head(states), words, model.head.bias)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pickled", [False, True])
def test_logits_and_loss_are_those_of_the_masked_language_model(
    tmp_path: Path, family: str, pickled: bool
) -> None:
    masked = write_masked(tmp_path, family)
    if pickled:
        edit(tmp_path, lambda state: None, pickled=True)
    model, said = load(tmp_path)
    assert said == f"{OWN} ({family})"
    states, batch = 3 * torch.randn(50, 16), make_batch((20, 13))
    with torch.no_grad():
        expected = FAMILIES[family][2](masked)(states)
        torch.testing.assert_close(logits(model, states), expected, atol=1e-5, rtol=0)
        loss = masked(
            input_ids=batch.encoder_ids, attention_mask=batch.attention_mask, labels=batch.labels
        ).loss
        torch.testing.assert_close(model(batch).encoder, loss, atol=1e-5, rtol=0)


def test_names_of_old_files_and_a_last_matrix_that_is_the_embeddings(tmp_path: Path) -> None:
    masked = write_masked(tmp_path, "cls.predictions")

    def age(state: dict[str, Tensor]) -> None:
        for name in list(state):
            if "LayerNorm" in name:
                old = name.replace("weight", "gamma").replace("bias", "beta")
                state[old] = state.pop(name)
        embeddings = state["bert.embeddings.word_embeddings.weight"]
        state["cls.predictions.decoder.weight"] = embeddings.clone()
        state["cls.predictions.decoder.bias"] = state.pop("cls.predictions.bias")

    edit(tmp_path, age)
    model, said = load(tmp_path)
    assert said.startswith(OWN)
    states = torch.randn(9, 16)
    torch.testing.assert_close(logits(model, states), masked.cls(states), atol=1e-5, rtol=0)


def test_a_head_in_half_precision_and_in_another_file_than_the_encoder(tmp_path: Path) -> None:
    write_masked(tmp_path, "lm_head")
    state = {
        name: tensor.half() for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    (tmp_path / "model.safetensors").unlink()
    parts = [{n: t for n, t in state.items() if n.startswith("lm_head") == last} for last in (0, 1)]
    files = [f"model-{number}-of-00002.safetensors" for number in ("00001", "00002")]
    for file, part in zip(files, parts, strict=True):
        save_file(part, tmp_path / file, {"format": "pt"})
    index = {n: file for file, part in zip(files, parts, strict=True) for n in part}
    text = json.dumps({"metadata": {}, "weight_map": index})
    (tmp_path / "model.safetensors.index.json").write_text(text)
    model, said = load(tmp_path)
    assert said.startswith(OWN)
    assert torch.equal(model.head.dense.weight, state["lm_head.dense.weight"].float())
    assert model.head.dense.weight.dtype == torch.float32


def drop_bias(state: dict[str, Tensor]) -> None:
    state.pop("lm_head.bias")


def shorten_bias(state: dict[str, Tensor]) -> None:
    state["lm_head.bias"] = state["lm_head.bias"][:-1].clone()


def untie(state: dict[str, Tensor]) -> None:
    state["lm_head.decoder.weight"] = state["roberta.embeddings.word_embeddings.weight"] + 1e-3


def drop_all(state: dict[str, Tensor]) -> None:
    for name in [name for name in state if name.startswith("lm_head")]:
        state.pop(name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop_bias, "that of the checkpoint (lm_head) has no lm_head.bias"),
        (shorten_bias, "that of the checkpoint (lm_head) has bias of shape (59,), not (60,)"),
        (untie, "that of the checkpoint (lm_head) predicts by another matrix than that of the"),
        (drop_all, "the checkpoint has none"),
    ],
)
def test_a_part_that_is_missing_or_other_leaves_the_head_new(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], None], reason: str
) -> None:
    write_masked(tmp_path, "lm_head")
    edit(tmp_path, change)
    torch.manual_seed(1)
    new = RetroMAE(load_backbone(tmp_path)).head.state_dict()
    torch.manual_seed(1)
    model, said = load(tmp_path)
    assert said.startswith(f"the prediction head is new: {reason}")
    found = model.head.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in new.items())


def test_another_activation_is_another_function(tmp_path: Path) -> None:
    write_masked(tmp_path / "bert", "cls.predictions", hidden_act="relu")
    assert load(tmp_path / "bert")[1].endswith("(cls.predictions) has the activation relu")
    masked = write_masked(tmp_path / "xlm-r", "lm_head", hidden_act="relu")
    model, said = load(tmp_path / "xlm-r")  # its head has GELU whatever its layers have
    assert said.startswith(OWN)
    states = torch.randn(9, 16)
    torch.testing.assert_close(logits(model, states), masked.lm_head(states), atol=1e-5, rtol=0)


def test_a_discriminator_predicts_no_tokens(tmp_path: Path) -> None:
    ElectraForPreTraining(FAMILIES["generator_predictions"][1]).save_pretrained(tmp_path)
    assert load(tmp_path)[1] == "the prediction head is new: the checkpoint has none"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_masked(tmp_path, "lm_head")
    model, _ = load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(ArtifactError, match=re.escape("model.safetensors: expected weights")):
        take_pretrained(model.head, tmp_path, model.backbone)


@pytest.fixture
def masked_start(backbone: Path, recipe: Recipe, tmp_path: Path) -> Recipe:
    """RetroMAE from a masked language model with the tokenizer of the shared encoder."""
    folder = tmp_path / "masked"
    torch.manual_seed(5)
    BertForMaskedLM(AutoConfig.from_pretrained(backbone)).save_pretrained(folder)
    for file in backbone.glob("token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    first = replace(recipe, stage="retromae", objective=None)
    return starting(first, checkpoint=str(folder))


def test_a_training_starts_from_it_and_says_so(
    masked_start: Recipe, backbone: Path, tmp_path: Path
) -> None:
    run = Run(masked_start, tmp_path)
    assert run.notes[0] == f"{OWN} (cls.predictions)"
    state = load_file(tmp_path / "masked" / "model.safetensors")
    assert torch.equal(
        run.trained.head.dense.weight, state["cls.predictions.transform.dense.weight"]
    )
    notes: list[str] = []
    short = replace(masked_start, optimiser=replace(masked_start.optimiser, steps=2))
    train(short, tmp_path / "out", note=notes.append)
    train(short, tmp_path / "out", resume=True, note=notes.append)  # its head is that of the state
    train(starting(short, checkpoint=str(backbone)), tmp_path / "plain", note=notes.append)
    said = [line for line in notes if "prediction head" in line]
    assert said == [run.notes[0], "the prediction head is new: the checkpoint has none"]
    assert len(read_log(tmp_path / "out")) == 2
