"""The model that a training starts from, and its part in the finished one."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from m3search.errors import ArtifactError, ConfigError
from m3search.model.checkpoint import (
    HEAD_FILES,
    load_backbone,
    load_checkpoint,
    load_tokenizer,
    read_info,
    stated_heads,
    with_heads,
)
from m3search.model.fingerprints import remembered_fingerprint
from m3search.model.layout import count_positions
from m3search.model.modeling import M3Model
from m3search.model.resolve import resolve
from m3search.records import WordTerms
from m3search.training.positions import extend_positions
from m3search.training.recipe import Lora, Recipe, Start


class Started(NamedTuple):
    """A model to train, and what belongs to it."""

    model: M3Model
    tokenizer: PreTrainedTokenizerFast
    max_length: int
    """tokens, the limit of the finished encoder"""
    heads: tuple[str, ...]
    """modes whose heads the checkpoint had; others are new"""
    fingerprint: str
    """SHA-256 of the files it was read from"""
    fusion_weights: tuple[float, float, float] | None
    """that a search with it has by default, where its checkpoint says any"""
    word_terms: WordTerms
    """what are terms beside the pieces"""
    idf: bool
    """whether searches with it weigh terms by their rarity"""


def start_model(start: Start) -> Started:
    """An M3 checkpoint as it is, or an encoder with new heads.

    A folder with only a part of an M3 checkpoint is an ArtifactError, never given new heads.
    """
    _, folder = resolve(start.checkpoint, "start.checkpoint")
    info, heads = read_info(folder), stated_heads(folder)
    if len(heads) == len(HEAD_FILES):
        model, tokenizer, _ = load_checkpoint(folder)
        model.pooling = start.pooling or info.pooling
    else:
        tokenizer = load_tokenizer(folder)
        if tokenizer.eos_token is None:  # others drop the lexical weight of eos, not that of sep
            tokenizer.eos_token, tokenizer.bos_token = tokenizer.sep_token, tokenizer.cls_token
        pooling = start.pooling or info.pooling
        model = with_heads(folder, load_backbone(folder), pooling, heads, start.multi_dim)
    if "multi" in heads and start.multi_dim not in (None, model.multi_dim):
        raise ArtifactError(
            str(folder),
            expected=f"token vectors of {start.multi_dim} dimensions (start.multi_dim)",
            found=str(model.multi_dim),
            remedy="Set start.multi_dim to what the checkpoint has, or leave it out.",
        )
    if start.max_length and start.max_length > positions_of(model):
        extend_positions(model.backbone, start.max_length)
    length = start.max_length or min(info.max_length, positions_of(model))
    known = remembered_fingerprint(folder)
    words = info.word_terms if start.word_terms is None else start.word_terms
    return Started(model, tokenizer, length, heads, known, info.fusion_weights, words, info.idf)


def positions_of(model: M3Model) -> int:
    """The longest text in tokens, special ones included, that the backbone has positions for."""
    return count_positions(model.backbone.config.to_dict())


def check_lengths(recipe: Recipe, model: M3Model) -> None:
    """ConfigError where the recipe has texts longer than the encoder has positions."""
    positions = positions_of(model)
    for name, length in (
        ("data.query_max_length", recipe.data.query_max_length),
        ("data.passage_max_length", recipe.data.passage_max_length),
    ):
        if length is not None and length > positions:
            raise ConfigError(
                name,
                expected=f"at most {positions}, the positions of {recipe.start.checkpoint}",
                found=str(length),
                remedy=f"Set {name} to {positions} or less, or start.max_length to {length}.",
            )


def prepare(model: M3Model, recipe: Recipe) -> None:
    """Sets what is trained and how: adapters, frozen parts, dropout, activation checkpointing."""
    start = recipe.start
    model.train()
    if start.lora is not None:
        model.backbone = _with_adapters(model.backbone, start.lora)
    set_dropout(model, start.dropout)
    if recipe.batches.activation_checkpointing:
        new, old = "activation_checkpointing_enable", "gradient_checkpointing_enable"
        enable = getattr(model.backbone, new if hasattr(model.backbone, new) else old)
        enable({"use_reentrant": False})  # transformers 5 has another name for it
        model.backbone.config.use_cache = False  # an encoder has none, but its default asks for one
    if start.fix_encoder:
        model.backbone.requires_grad_(False).train(False)
    model.sparse_linear.requires_grad_("sparse" in recipe.heads)
    model.colbert_linear.requires_grad_("multi" in recipe.heads)


def set_dropout(module: nn.Module, probability: float) -> None:
    """Gives all dropout inside the module but that of adapters this probability.

    Some attention layers, by encoder and version of transformers, keep theirs as a number.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Dropout) and "lora_" not in name:
            part.p = probability
        for number in ("dropout_prob", "attention_dropout"):
            if isinstance(getattr(part, number, None), float):
                setattr(part, number, probability)


def _with_adapters(backbone: PreTrainedModel, lora: Lora) -> PreTrainedModel:
    try:
        from peft import LoraConfig, LoraModel
    except ImportError as error:
        raise ConfigError(
            "start.lora",
            expected="the package peft",
            found="none",
            remedy="Install the extra: pip install 'm3search[train]'.",
        ) from error
    linear = [name for name, m in backbone.named_modules() if isinstance(m, nn.Linear)]
    unknown = [t for t in lora.targets if not any(f".{name}".endswith(f".{t}") for name in linear)]
    if unknown:
        names = sorted({name.split(".")[-1] for name in linear})
        raise ConfigError(
            "start.lora.targets",
            expected=f"names of linear layers: {', '.join(names)}",
            found=", ".join(unknown),
            remedy="Name layers that this encoder has.",
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
    )
    # the layers alone: what peft wraps around them asks transformers for a name it is to lose
    return cast(PreTrainedModel, LoraModel(backbone, config, "default"))


def average_backbone(model: M3Model, start: Start, start_weight: float) -> M3Model:
    """`model` with the backbone (1 - start_weight) * trained + start_weight * start.

    Linear averaging of the weights before and after training (WiSE-FT, Wortsman et al. 2022,
    arXiv 2109.01903). Adapters are merged into the trained backbone first. The heads stay as
    trained, and `model` itself is not changed.
    """
    if start_weight == 0 and start.lora is None:
        return model
    trained = model.backbone
    if start.lora is not None:
        trained = cast(Any, deepcopy(trained)).merge_and_unload()
    if start_weight > 0:
        backbone = load_backbone(resolve(start.checkpoint, "start.checkpoint")[1])
        positions = count_positions(trained.config.to_dict())
        if positions > count_positions(backbone.config.to_dict()):
            extend_positions(backbone, positions)
        _mix(backbone, trained.state_dict(), start_weight)
    else:
        backbone = trained
    averaged = M3Model(backbone, multi_dim=model.multi_dim, pooling=model.pooling)
    averaged.sparse_linear.load_state_dict(model.sparse_linear.state_dict())
    averaged.colbert_linear.load_state_dict(model.colbert_linear.state_dict())
    return averaged


@torch.no_grad()
def _mix(backbone: PreTrainedModel, trained: Mapping[str, Tensor], share: float) -> None:
    """Moves the weights of the backbone to share * its own + (1 - share) * trained."""
    for name, tensor in backbone.state_dict().items():
        other = trained[name].to(tensor.device)
        tensor.copy_(torch.lerp(other, tensor, share) if tensor.is_floating_point() else other)
