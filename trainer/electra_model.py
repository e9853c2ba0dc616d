"""An ELECTRA encoder with the layers of a BERT one and embeddings of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from factorised_embeddings import Narrow, Wide
from transformers import ElectraConfig, ElectraModel, PreTrainedModel

from m3search.errors import ArtifactError
from m3search.model.checkpoint import quiet_transformers

FULL_LENGTH, MULTI_DIM = 8192, 128
"""positions and token vectors of the finished m3-mini, whose size is told"""
_KEPT = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings",
    "type_vocab_size", "initializer_range", "layer_norm_eps",
)  # fmt: skip
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def wide_embeddings(bert: PreTrainedModel, words: torch.Tensor) -> Wide:
    """The embeddings of a BERT encoder with other words."""
    old: Any = bert.embeddings
    positions, types = old.position_embeddings.weight, old.token_type_embeddings.weight
    return Wide(words, positions.detach(), types.detach(), old.LayerNorm.requires_grad_(False))


def check_bert(folder: Path, bert: PreTrainedModel) -> None:
    """ArtifactError unless the encoder is a BERT whose layers ELECTRA has, too."""
    if bert.config.model_type != "bert":
        raise ArtifactError(
            str(folder),
            expected="a BERT encoder (model_type bert)",
            found=f"model_type {bert.config.model_type}",
            remedy="Start from an encoder such as all-MiniLM-L6-v2 (trainer/fetch_minilm.py).",
        )


def make_electra(bert: PreTrainedModel, narrow: Narrow, padding: int) -> ElectraModel:
    """The encoder with the layers of `bert` behind the narrow embeddings."""
    kept = {name: getattr(bert.config, name) for name in _KEPT}
    words = narrow.word_embeddings
    config = ElectraConfig(
        vocab_size=words.num_embeddings,
        embedding_size=words.embedding_dim,
        pad_token_id=padding,
        **kept,
    )
    electra = ElectraModel(config)
    weights = {
        name: tensor for name, tensor in bert.state_dict().items() if name.startswith("encoder.")
    }
    for name, tensor in narrow.state_dict().items():
        module, _, rest = name.partition(".")
        weights[f"embeddings_project.{rest}" if module == "project" else f"embeddings.{name}"] = (
            tensor
        )
    missing, unexpected = electra.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"embeddings.position_ids"}, (missing, unexpected)
    electra.train(mode=False)
    return electra


def check_tokenizer(folder: Path) -> None:
    """ArtifactError unless all files of a tokenizer are there."""
    missing = [name for name in _TOKENIZER if not (folder / name).is_file()]
    if missing:
        raise ArtifactError(
            str(folder),
            expected=f"a tokenizer ({', '.join(_TOKENIZER)})",
            found=f"no {', '.join(missing)}",
            remedy="Give the folder that trainer/train_tokenizer.py wrote, with all its files.",
        )


def write_encoder(folder: Path, electra: ElectraModel, tokenizer: Path) -> None:
    """Copies the tokenizer, if it is whole, and writes the encoder in float32 beside it."""
    check_tokenizer(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _TOKENIZER:
        shutil.copyfile(tokenizer / name, folder / name)
    with quiet_transformers():
        electra.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)


def count_parameters(electra: ElectraModel) -> dict[str, float]:
    """Numbers of parameters, and megabytes of the finished model in half precision."""
    config = electra.config
    total = sum(tensor.numel() for tensor in electra.parameters())
    embeddings = sum(tensor.numel() for tensor in electra.embeddings.parameters())
    longer = (FULL_LENGTH - config.max_position_embeddings) * config.embedding_size
    heads = (config.hidden_size + 1) * (MULTI_DIM + 1)
    return {
        "total": total,
        "embeddings": embeddings,
        "with_heads_and_8192_positions": total + longer + heads,
        "megabytes_fp16": round(2 * (total + longer + heads) / 1e6, 2),
    }
