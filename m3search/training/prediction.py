"""The head that predicts hidden tokens: a new one, or what a masked language model has learned.

Encoders of the BERT family come out of masked language modelling, and many checkpoints still hold
the head of it, which their encoder's last layer fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from m3search.model.tensors import read_tensors

_ACTIVATION = "gelu"


class PredictionHead(nn.Module):
    """BERT's head of masked language modelling; its last matrix is that of the word embeddings."""

    def __init__(self, hidden: int, words: nn.Embedding, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, words.embedding_dim)
        self.norm = nn.LayerNorm(words.embedding_dim, eps=eps)
        self.bias = nn.Parameter(torch.zeros(words.num_embeddings))

    def forward(self, states: Tensor) -> Tensor:
        """(T, embedding) of states (T, hidden): the logits are its products with the word
        embeddings (V, embedding), plus `bias`."""
        return cast(Tensor, self.norm(functional.gelu(self.dense(states))))


class _Place(NamedTuple):
    """Where a family's models keep their head."""

    name: str
    parts: Mapping[str, tuple[str, ...]]
    """name in `PredictionHead` -> what a checkpoint may call it"""
    output: str
    """the last matrix, which many files leave out: it is that of the word embeddings"""
    configured: bool = False
    """whether the activation is config.hidden_act; else it is GELU"""


def _parts(dense: str, norm: str, *biases: str) -> dict[str, tuple[str, ...]]:
    return {
        "dense.weight": (f"{dense}.weight",),
        "dense.bias": (f"{dense}.bias",),
        "norm.weight": (f"{norm}.weight", f"{norm}.gamma"),  # as the first checkpoints had it
        "norm.bias": (f"{norm}.bias", f"{norm}.beta"),
        "bias": biases,
    }


_PLACES = (
    _Place(
        "cls.predictions",  # BERT
        _parts(
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.bias",
            "cls.predictions.decoder.bias",
        ),
        "cls.predictions.decoder.weight",
        configured=True,
    ),
    _Place(
        "lm_head",  # RoBERTa, XLM-R
        _parts("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder.bias"),
        "lm_head.decoder.weight",
    ),
    _Place(
        "generator_predictions",  # ELECTRA's generator; a discriminator predicts no tokens
        _parts(
            "generator_predictions.dense",
            "generator_predictions.LayerNorm",
            "generator_lm_head.bias",
        ),
        "generator_lm_head.weight",
    ),
)


def take_pretrained(head: PredictionHead, folder: Path, backbone: PreTrainedModel) -> str:
    """Gives the head the weights that the folder's own has, and says in a line what came of it.

    They are taken only where the folder's head is the same function: every part in the same shape,
    the last matrix that of the word embeddings, the activation GELU. Else the head stays as it is.
    """
    names = {name for place in _PLACES for each in place.parts.values() for name in each}
    tensors = read_tensors(folder, names | {place.output for place in _PLACES})
    for place in _PLACES:
        state = {
            part: tensors[name].float()
            for part, names_of_part in place.parts.items()
            for name in names_of_part
            if name in tensors
        }
        if not state.keys() - {"bias"}:
            continue
        difference = _difference(place, state, tensors, head, backbone)
        if not difference:
            head.load_state_dict(state)
            return f"the prediction head starts as the checkpoint's own ({place.name})"
        return f"the prediction head is new: that of the checkpoint ({place.name}) {difference}"
    return "the prediction head is new: the checkpoint has none"


def _difference(
    place: _Place,
    state: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    head: PredictionHead,
    backbone: PreTrainedModel,
) -> str:
    """Why a checkpoint's head cannot be taken; empty where it can."""
    for part, tensor in head.state_dict().items():
        if part not in state:
            return f"has no {place.parts[part][0]}"
        if state[part].shape != tensor.shape:
            shapes = [tuple(each.shape) for each in (state[part], tensor)]
            return f"has {part} of shape {shapes[0]}, not {shapes[1]}"
    words = cast(nn.Embedding, backbone.get_input_embeddings()).weight.detach()
    output = tensors.get(place.output)
    if output is not None and not torch.equal(output.to(words), words):
        return "predicts by another matrix than that of the word embeddings"
    activation = str(backbone.config.hidden_act) if place.configured else _ACTIVATION
    return f"has the activation {activation}" if activation != _ACTIVATION else ""
