"""Checkpoints on disk: the layout of BAAI/bge-m3, plus `m3.json`.

    config.json, model.safetensors       the backbone, as transformers writes it
    sparse_linear.pt, colbert_linear.pt  state dicts of the two heads
    tokenizer.json, ...                  the tokenizer
    modules.json, 1_Pooling/, ...        lets sentence-transformers load the dense head
    m3.json                              head shapes, pooling, maximum length, provenance

Reading needs all but the last two; nothing is unpickled beyond plain tensors.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
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
from m3search.model.damage import reading, writing
from m3search.model.layout import (
    FULL_DISK,
    HEAD_FILES,
    TOKENIZER_FILES,
    CheckpointInfo,
    check_folder,
    check_pooling,
    fingerprint,
    read_info,
    stated_heads,
    write_info,
    write_json,
)
from m3search.model.modeling import M3Model, Pooling
from m3search.records import MODES

__all__ = [
    "HEAD_FILES",
    "CheckpointInfo",
    "check_folder",
    "fingerprint",
    "load_backbone",
    "load_checkpoint",
    "load_tokenizer",
    "quiet_transformers",
    "read_info",
    "save_checkpoint",
    "stated_heads",
    "with_heads",
]


def load_checkpoint(
    folder: Path, modes: Collection[str] = MODES, pooling: str | None = None
) -> tuple[M3Model, PreTrainedTokenizerFast, CheckpointInfo]:
    """The model in float32 on the CPU, its tokenizer and what `m3.json` says.

    Raises ArtifactError where a file is missing, damaged or of the wrong shape. A missing head of
    `modes` is never replaced by a random one; of other modes, it is new where `check_folder` does
    not name it. pooling: in place of what the folder says, and needed where it says nothing
    (ConfigError).
    """
    heads = check_folder(folder, modes)
    info = replace(read_info(folder), pooling=check_pooling(folder, pooling))
    model = with_heads(folder, load_backbone(folder), info.pooling, heads)
    tokenizer = load_tokenizer(folder)
    if len(tokenizer) > model.vocabulary:
        raise ArtifactError(
            str(folder),
            expected=f"a tokenizer of at most {model.vocabulary} pieces, as the embeddings have",
            found=str(len(tokenizer)),
            remedy="Copy tokenizer and weights from one checkpoint.",
        )
    return model.eval(), tokenizer, info


def with_heads(
    folder: Path,
    backbone: PreTrainedModel,
    pooling: Pooling,
    heads: Collection[str],
    multi_dim: int | None = None,
) -> M3Model:
    """The backbone with the named heads of a folder; the others are new.

    multi_dim: of a new multi head, by default the hidden size.
    """
    hidden = int(backbone.config.hidden_size)
    states = {mode: _read_head(folder / HEAD_FILES[mode], hidden) for mode in heads}
    size = len(states["multi"]["bias"]) if "multi" in states else multi_dim or hidden
    model = M3Model(backbone, multi_dim=size, pooling=pooling)
    for mode, state in states.items():
        head = model.sparse_linear if mode == "sparse" else model.colbert_linear
        _fill_head(head, state, folder / HEAD_FILES[mode])
    return model


def save_checkpoint(
    folder: Path,
    model: M3Model,
    tokenizer: PreTrainedTokenizerFast,
    info: CheckpointInfo,
    *,
    dtype: torch.dtype = torch.float32,
    heads: Collection[str] = tuple(HEAD_FILES),
) -> None:
    """Write the whole layout into `folder`, weights in `dtype`; the model stays as it is.

    Of the heads only those of the modes in `heads` are written; a folder without both is what a
    training starts from, and no encoder.

    The heads come last: a folder without them does not load, so one whose writing was cut short
    is never taken for a checkpoint. ArtifactError where the disk does not take it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in HEAD_FILES.values():
        (folder / name).unlink(missing_ok=True)
    state = {
        name: tensor.detach().to(dtype) for name, tensor in model.backbone.state_dict().items()
    }
    with quiet_transformers(), writing(folder / "model.safetensors", remedy=FULL_DISK):
        model.backbone.save_pretrained(folder, state_dict=state)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for the owner alone
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")})
    with writing(folder / "tokenizer.json", remedy=FULL_DISK):
        tokenizer.save_pretrained(folder)
    write_info(folder, model, info, heads)
    for head, mode in ((model.sparse_linear, "sparse"), (model.colbert_linear, "multi")):
        if mode not in heads:
            continue
        tensors = {key: value.detach().cpu().to(dtype) for key, value in head.state_dict().items()}
        partial = folder / f"{HEAD_FILES[mode]}.partial"
        with writing(partial, remedy=FULL_DISK):
            torch.save(tensors, partial)
            partial.replace(folder / HEAD_FILES[mode])


def load_backbone(folder: Path) -> PreTrainedModel:
    """The Hugging Face encoder of a folder in float32, every weight of it read from the file."""
    with reading(
        folder,
        expected="a Hugging Face encoder (config.json with its weights)",
        remedy="Copy the checkpoint again; one of its files is damaged or incomplete.",
    ):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        options: dict[str, Any] = {"config": config, "dtype": torch.float32}
        model_class: Any = MODEL_MAPPING[type(config)]
        if "add_pooling_layer" in inspect.signature(model_class).parameters:
            options["add_pooling_layer"] = False
        with quiet_transformers():  # an unused pooler is worth no warning; more is checked below
            backbone, report = AutoModel.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, **options
            )
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
def quiet_transformers() -> Iterator[None]:
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
    with reading(
        folder,
        expected="a tokenizer that transformers reads",
        remedy="Copy the tokenizer files of the checkpoint again.",
    ):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
    if not tokenizer.is_fast:
        raise ArtifactError(
            str(folder),
            expected="a fast tokenizer",
            found=type(tokenizer).__name__,
            remedy="Save the tokenizer with a tokenizer.json (transformers converts it).",
        )
    return cast(PreTrainedTokenizerFast, tokenizer)


def _read_head(path: Path, hidden: int) -> dict[str, torch.Tensor]:
    with reading(
        path,
        expected="the state dict of a linear layer",
        remedy="Copy the file again from the checkpoint it belongs to.",
    ):
        state = torch.load(path, map_location="cpu", weights_only=True)
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
