"""Checkpoints on disk: the layout of BAAI/bge-m3, plus `m3.json`.

    config.json, model.safetensors       the backbone, as transformers writes it
    sparse_linear.pt, colbert_linear.pt  state dicts of the two heads
    tokenizer.json, ...                  the tokenizer
    modules.json, 1_Pooling/, ...        lets sentence-transformers load the dense head
    m3.json                              head shapes, pooling, maximum length, provenance

Reading needs all but the last two; nothing is unpickled beyond plain tensors.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from m3search.errors import ArtifactError
from m3search.model.modeling import POOLINGS, M3Model, Pooling

FORMAT_VERSION = 1
HEAD_FILES = {"sparse": "sparse_linear.pt", "multi": "colbert_linear.pt"}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
TOKENIZER_FILES = ("tokenizer.json", "sentencepiece.bpe.model", "spiece.model", "vocab.txt")


@dataclass(frozen=True)
class CheckpointInfo:
    """What `m3.json` says beside the weights."""

    pooling: Pooling
    max_length: int
    """tokens, special ones included, that the model was trained for"""
    step: int = 0
    """optimiser steps of the last training stage"""
    training: dict[str, Any] = field(default_factory=dict)
    """recipe and data fingerprints, empty where unknown"""


def load_checkpoint(folder: Path) -> tuple[M3Model, PreTrainedTokenizerFast, CheckpointInfo]:
    """The model in float32 on the CPU, its tokenizer and what `m3.json` says.

    Raises ArtifactError where a file is missing, damaged or of the wrong shape; a missing head is
    never replaced by a random one.
    """
    check_folder(folder)
    info = read_info(folder)
    backbone = load_backbone(folder)
    hidden = int(backbone.config.hidden_size)
    heads = {mode: _read_head(folder / name, hidden) for mode, name in HEAD_FILES.items()}
    model = M3Model(backbone, multi_dim=len(heads["multi"]["bias"]), pooling=info.pooling)
    _fill_head(model.sparse_linear, heads["sparse"], folder / HEAD_FILES["sparse"])
    _fill_head(model.colbert_linear, heads["multi"], folder / HEAD_FILES["multi"])
    tokenizer = load_tokenizer(folder)
    if len(tokenizer) > model.vocabulary:
        raise ArtifactError(
            str(folder),
            expected=f"a tokenizer of at most {model.vocabulary} pieces, as the embeddings have",
            found=str(len(tokenizer)),
            remedy="Copy tokenizer and weights from one checkpoint.",
        )
    return model.eval(), tokenizer, info


def save_checkpoint(
    folder: Path,
    model: M3Model,
    tokenizer: PreTrainedTokenizerFast,
    info: CheckpointInfo,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the whole layout into `folder`, weights in `dtype`; the model stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().to(dtype) for name, tensor in model.backbone.state_dict().items()
    }
    with _quiet_transformers():
        model.backbone.save_pretrained(folder, state_dict=state)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for the owner alone
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    _write_json(folder / "config.json", config)
    for head, mode in ((model.sparse_linear, "sparse"), (model.colbert_linear, "multi")):
        tensors = {
            name: tensor.detach().cpu().to(dtype) for name, tensor in head.state_dict().items()
        }
        torch.save(tensors, folder / HEAD_FILES[mode])
    tokenizer.save_pretrained(folder)
    _write_sentence_transformers(folder, model, info)
    heads = {"sparse": [1, model.dim], "multi": [model.multi_dim, model.dim]}
    record = {"format": "m3search checkpoint", "format_version": FORMAT_VERSION, "heads": heads}
    _write_json(folder / "m3.json", record | asdict(info))


def load_backbone(folder: Path) -> PreTrainedModel:
    """The Hugging Face encoder of a folder in float32, every weight of it read from the file."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        options: dict[str, Any] = {"config": config, "dtype": torch.float32}
        model_class: Any = MODEL_MAPPING[type(config)]
        if "add_pooling_layer" in inspect.signature(model_class).parameters:
            options["add_pooling_layer"] = False
        with (
            _quiet_transformers()
        ):  # an unused pooler is worth no warning; the rest is checked below
            backbone, report = AutoModel.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, **options
            )
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        SafetensorError,
        pickle.PickleError,
    ) as error:
        raise ArtifactError(
            str(folder),
            expected="a Hugging Face encoder (config.json with its weights)",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            remedy="Copy the checkpoint again; one of its files is damaged or incomplete.",
        ) from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    wrong = sorted(str(entry[0]) for entry in report.get("mismatched_keys", ()))
    if missing or wrong:
        raise ArtifactError(
            str(folder),
            expected=f"every weight of a {config.model_type} encoder",
            found=f"no or misshapen {', '.join((missing + wrong)[:3])}",
            remedy="Copy the checkpoint again; its weights do not belong to its config.json.",
        )
    return cast(PreTrainedModel, backbone)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar and no warnings from transformers inside the block."""
    verbosity = transformers_logging.get_verbosity()
    had_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bar:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a folder."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ArtifactError(  # transformers would make one with an empty vocabulary
            str(folder),
            expected=f"tokenizer files (one of {', '.join(TOKENIZER_FILES)})",
            found="none",
            remedy="Copy the tokenizer files of the checkpoint into the folder.",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            str(folder),
            expected="a tokenizer that transformers reads",
            found=f"{type(error).__name__}: {error}",
            remedy="Copy the tokenizer files of the checkpoint again.",
        ) from error
    if not tokenizer.is_fast:
        raise ArtifactError(
            str(folder),
            expected="a fast tokenizer",
            found=type(tokenizer).__name__,
            remedy="Save the tokenizer with a tokenizer.json (transformers converts it).",
        )
    return cast(PreTrainedTokenizerFast, tokenizer)


def read_info(folder: Path) -> CheckpointInfo:
    """`m3.json`, or what the other files of a bge-m3 style folder say in its place."""
    path = folder / "m3.json"
    if not path.exists():
        return CheckpointInfo(_foreign_pooling(folder), _foreign_max_length(folder))
    record = _read_json(path)
    version = record.get("format_version")
    if record.get("format") != "m3search checkpoint" or version != FORMAT_VERSION:
        raise ArtifactError(
            str(path),
            expected=f"an m3search checkpoint of format version {FORMAT_VERSION}",
            found=f"format {record.get('format')!r}, version {version!r}",
            remedy="Load it with the m3search release that wrote it, or write it again.",
        )
    pooling, max_length = record.get("pooling"), record.get("max_length")
    if pooling not in POOLINGS or not isinstance(max_length, int) or max_length < 3:
        raise ArtifactError(
            str(path),
            expected=f"pooling one of {', '.join(POOLINGS)} and max_length of at least 3",
            found=f"pooling {pooling!r}, max_length {max_length!r}",
            remedy="Repair the file or copy the checkpoint again.",
        )
    return CheckpointInfo(
        pooling, max_length, int(record.get("step", 0)), dict(record.get("training", {}))
    )


def fingerprint(folder: Path) -> str:
    """SHA-256 of every file that decides the vectors: configuration, tokenizer, weights, heads."""
    names = (
        "config.json",
        "m3.json",
        "tokenizer_config.json",
        *TOKENIZER_FILES,
        *HEAD_FILES.values(),
    )
    weights = next((name for name in WEIGHT_FILES if (folder / name).exists()), None)
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    digest = hashlib.sha256()
    for name in (*names, *([weights] if weights else shards)):
        if (folder / name).exists():
            with (folder / name).open("rb") as file:
                digest.update(
                    f"{name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
                )
    return digest.hexdigest()


def check_folder(folder: Path) -> None:
    """ArtifactError unless the folder holds a configuration and both heads."""
    for name in ("config.json", *HEAD_FILES.values()):
        if not (folder / name).is_file():
            has = sorted(path.name for path in folder.iterdir())[:8] if folder.is_dir() else []
            raise ArtifactError(
                str(folder),
                expected=f"an M3 checkpoint with {name}",
                found=f"a folder with {', '.join(has)}" if has else "no such file",
                remedy="Give a folder in the layout of BAAI/bge-m3; a plain encoder becomes one "
                "by training its heads (m3search train).",
            )


def _read_head(path: Path, hidden: int) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ArtifactError(
            str(path),
            expected="the state dict of a linear layer",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            remedy="Copy the file again from the checkpoint it belongs to.",
        ) from error
    shapes = {k: tuple(v.shape) for k, v in state.items()} if isinstance(state, dict) else {}
    rows = shapes.get("weight", (0, 0))[0]
    if shapes != {"weight": (rows, hidden), "bias": (rows,)} or rows == 0:
        raise ArtifactError(
            str(path),
            expected=f"weight (n, {hidden}) and bias (n,) for a backbone of width {hidden}",
            found=str(shapes) if shapes else type(state).__name__,
            remedy="The head belongs to another backbone; copy both from one checkpoint.",
        )
    return cast(dict[str, torch.Tensor], state)


def _fill_head(head: nn.Linear, state: dict[str, torch.Tensor], path: Path) -> None:
    if state["weight"].shape != head.weight.shape:
        raise ArtifactError(
            str(path),
            expected=f"a weight of shape {tuple(head.weight.shape)}",
            found=str(tuple(state["weight"].shape)),
            remedy="The lexical head gives one number per token; copy the right file.",
        )
    head.load_state_dict({name: tensor.float() for name, tensor in state.items()})


def _foreign_pooling(folder: Path) -> Pooling:
    path = folder / "1_Pooling" / "config.json"
    if path.exists():
        config = _read_json(path)
        if config.get("pooling_mode_mean_tokens") or config.get("pooling_mode") == "mean":
            return "mean"
    return "cls"


def _foreign_max_length(folder: Path) -> int:
    path = folder / "sentence_bert_config.json"
    config = _read_json(folder / "config.json")
    positions = int(config.get("max_position_embeddings", 512))
    if config.get("model_type") in ("xlm-roberta", "roberta", "camembert"):
        positions -= (
            int(config.get("pad_token_id", 1)) + 1
        )  # their position ids start behind padding
    stated = _read_json(path).get("max_seq_length") if path.exists() else None
    return min(positions, int(stated)) if stated else positions


def _write_sentence_transformers(folder: Path, model: M3Model, info: CheckpointInfo) -> None:
    """The files by which sentence-transformers finds pooling and normalisation."""
    module = "sentence_transformers.models"
    parts = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    _write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"{module}.{name}"}
            for i, (path, name) in enumerate(parts)
        ],
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "2_Normalize").mkdir(exist_ok=True)
    pooling = {
        "word_embedding_dimension": model.dim,
        "pooling_mode_cls_token": info.pooling == "cls",
        "pooling_mode_mean_tokens": info.pooling == "mean",
    }
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    _write_json(folder / "2_Normalize" / "config.json", {})
    lengths = {"max_seq_length": info.max_length, "do_lower_case": False}
    _write_json(folder / "sentence_bert_config.json", lengths)
    _write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            str(path),
            expected="a JSON object",
            found=str(error),
            remedy="Copy the file again from the checkpoint it belongs to.",
        ) from error
    if not isinstance(record, dict):
        raise ArtifactError(
            str(path),
            expected="a JSON object",
            found=type(record).__name__,
            remedy="Copy the file again from the checkpoint it belongs to.",
        )
    return record


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
