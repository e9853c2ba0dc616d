"""The model that a training starts from, and its part in the finished one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerFast

from m3search.errors import ArtifactError, ConfigError
from m3search.model.checkpoint import (
    HEAD_FILES,
    load_backbone,
    load_checkpoint,
    load_tokenizer,
    read_info,
)
from m3search.model.layout import count_positions
from m3search.model.modeling import M3Model
from m3search.model.resolve import resolve
from m3search.training.recipe import Recipe, Start


class Started(NamedTuple):
    """A model to train, and what belongs to it."""

    model: M3Model
    tokenizer: PreTrainedTokenizerFast
    max_length: int
    """tokens, the limit of the finished encoder"""


def start_model(start: Start) -> Started:
    """An M3 checkpoint as it is, or an encoder with new heads.

    A folder with only a part of an M3 checkpoint is an ArtifactError, never given new heads.
    """
    _, folder = resolve(start.checkpoint)
    if any((folder / name).exists() for name in (*HEAD_FILES.values(), "m3.json")):
        model, tokenizer, info = load_checkpoint(folder)
        if start.multi_dim not in (None, model.multi_dim):
            raise ArtifactError(
                str(folder),
                expected=f"token vectors of {start.multi_dim} dimensions (start.multi_dim)",
                found=str(model.multi_dim),
                remedy="Set start.multi_dim to what the checkpoint has, or leave it out.",
            )
        model.pooling = start.pooling or info.pooling
    else:
        tokenizer = load_tokenizer(folder)
        if tokenizer.eos_token is None:  # others drop the lexical weight of eos, not that of sep
            tokenizer.eos_token, tokenizer.bos_token = tokenizer.sep_token, tokenizer.cls_token
        backbone = load_backbone(folder)
        info = read_info(folder)
        model = M3Model(
            backbone,
            multi_dim=start.multi_dim or int(backbone.config.hidden_size),
            pooling=start.pooling or info.pooling,
        )
    return Started(model, tokenizer, start.max_length or min(info.max_length, positions_of(model)))


def positions_of(model: M3Model) -> int:
    """The longest text in tokens, special ones included, that the backbone has positions for."""
    return count_positions(model.backbone.config.to_dict())


def check_lengths(recipe: Recipe, model: M3Model) -> None:
    """ConfigError where the recipe has texts longer than the encoder has positions."""
    positions = positions_of(model)
    for name, length in (
        ("start.max_length", recipe.start.max_length),
        ("data.query_max_length", recipe.data.query_max_length),
        ("data.passage_max_length", recipe.data.passage_max_length),
    ):
        if length is not None and length > positions:
            raise ConfigError(
                name,
                expected=f"at most {positions}, the positions of {recipe.start.checkpoint}",
                found=str(length),
                remedy=f"Set {name} to {positions} or less.",
            )


def average_backbone(model: M3Model, start: Start, start_weight: float) -> M3Model:
    """`model` with the backbone (1 - start_weight) * trained + start_weight * start.

    Linear averaging of the weights before and after training (WiSE-FT, Wortsman et al. 2022,
    arXiv 2109.01903). The heads stay as trained, and `model` itself is not changed.
    """
    if start_weight == 0:
        return model
    _, folder = resolve(start.checkpoint)
    backbone = load_backbone(folder)
    trained = model.backbone.state_dict()
    with torch.no_grad():
        for name, tensor in backbone.state_dict().items():
            other = trained[name].to(tensor.device)
            mixed = torch.lerp(other, tensor, start_weight) if tensor.is_floating_point() else other
            tensor.copy_(mixed)
    averaged = M3Model(backbone, multi_dim=model.multi_dim, pooling=model.pooling)
    averaged.sparse_linear.load_state_dict(model.sparse_linear.state_dict())
    averaged.colbert_linear.load_state_dict(model.colbert_linear.state_dict())
    return averaged
