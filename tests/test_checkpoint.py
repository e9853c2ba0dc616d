"""Checkpoints: what is written is read back, and what is wrong is named."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import HIDDEN, write_bert, write_heads
from tokenizers.processors import TemplateProcessing

from m3search.errors import ArtifactError
from m3search.model.checkpoint import (
    CheckpointInfo,
    fingerprint,
    load_checkpoint,
    read_info,
    save_checkpoint,
)
from m3search.model.tokenization import Tokenization


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def test_a_round_trip_keeps_every_weight(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer, info = load_checkpoint(tiny_checkpoint)
    assert info == CheckpointInfo("cls", 8192)
    written = CheckpointInfo(
        "cls", 4096, 17, {"recipe": {"stage": "finetune"}}, (0.5, 0, 1.25), "words", True
    )
    save_checkpoint(tmp_path, model, tokenizer, written)
    again, same_tokenizer, read = load_checkpoint(tmp_path)
    assert read == written
    assert same_tokenizer.get_vocab() == tokenizer.get_vocab()
    for (name, tensor), (_, other) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert torch.equal(tensor, other), name


@pytest.mark.parametrize(
    "found",
    [[1, 0.3], [1, -0.1, 1], [0, 0, 0], [1, None, 1], [True, 1, 1], "1,0.3,1", [1, 1e999, 1]],
)
def test_fusion_weights_that_weigh_nothing_are_named(folder: Path, found: Any) -> None:
    save_checkpoint(folder, *load_checkpoint(folder))
    record = json.loads((folder / "m3.json").read_text())
    (folder / "m3.json").write_text(json.dumps(record | {"fusion_weights": found}))
    with pytest.raises(ArtifactError, match=r"m3\.json: expected fusion_weights of three numbers"):
        load_checkpoint(folder)


def test_half_precision_weights_are_read_as_float32(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer, info = load_checkpoint(tiny_checkpoint)
    save_checkpoint(tmp_path / "full", model, tokenizer, info)
    save_checkpoint(tmp_path / "half", model, tokenizer, info, dtype=torch.float16)
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    again, _, _ = load_checkpoint(tmp_path / "half")
    for tensor, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert other.dtype == torch.float32
        assert torch.equal(tensor.half().float(), other)
    assert next(model.parameters()).dtype == torch.float32


def test_a_narrower_multi_head_needs_no_repeating(folder: Path) -> None:
    write_heads(folder, multi_dim=12)
    model, _, _ = load_checkpoint(folder)
    assert model.multi_dim == 12


def test_no_random_head_replaces_a_missing_one(folder: Path) -> None:
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        moved = folder / name
        content = moved.read_bytes()
        moved.unlink()
        with pytest.raises(ArtifactError, match=f"with {name}"):
            load_checkpoint(folder)
        moved.write_bytes(content)
    load_checkpoint(folder)


def test_a_plain_encoder_is_refused(tmp_path: Path, sample_texts: list[str]) -> None:
    with pytest.raises(ArtifactError, match="by training its heads"):
        load_checkpoint(write_bert(tmp_path, sample_texts[:20]))


def damage_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def damage_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def drop_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state.pop("encoder.layer.1.output.dense.weight")
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def damage_head(folder: Path) -> None:
    (folder / "colbert_linear.pt").write_bytes(b"not a state dict")


def head_of_another_width(folder: Path) -> None:
    write_heads(folder, hidden=HIDDEN * 2)


def wide_sparse_head(folder: Path) -> None:
    shutil.copy(folder / "colbert_linear.pt", folder / "sparse_linear.pt")


def pickled_head(folder: Path) -> None:
    (folder / "sparse_linear.pt").write_bytes(pickle.dumps(Path("executed")))


def remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def damage_info(folder: Path) -> None:
    (folder / "m3.json").write_text("[]")


def newer_info(folder: Path) -> None:
    (folder / "m3.json").write_text('{"format": "m3search checkpoint", "format_version": 99}')


def odd_pooling(folder: Path) -> None:
    record = {"format": "m3search checkpoint", "format_version": 1, "max_length": 8}
    (folder / "m3.json").write_text(json.dumps(record | {"pooling": "max"}))


def too_long(folder: Path) -> None:
    record = {"format": "m3search checkpoint", "format_version": 1, "pooling": "cls"}
    (folder / "m3.json").write_text(json.dumps(record | {"max_length": 8193}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (damage_config, "copy"),
        (damage_weights, "copy"),
        (remove_weights, "copy"),
        (drop_a_weight, "encoder.layer.1.output.dense.weight"),
        (damage_head, "colbert_linear.pt"),
        (head_of_another_width, "linear.pt"),
        (wide_sparse_head, "sparse_linear.pt"),
        (pickled_head, "sparse_linear.pt"),
        (remove_tokenizer, "tokenizer"),
        (damage_info, "m3.json"),
        (newer_info, "version 99"),
        (odd_pooling, "pooling 'max'"),
        (too_long, "max_length of at most 8192, the positions of config.json, found 8193"),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], Any], named: str) -> None:
    damage(folder)
    with pytest.raises(ArtifactError, match=named):
        load_checkpoint(folder)


def test_foreign_folders_say_their_pooling_and_length(folder: Path) -> None:
    assert read_info(folder) == CheckpointInfo("cls", 8192)  # 8194 positions, two before the text
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    assert read_info(folder) == CheckpointInfo("mean", 256)


def test_the_fingerprint_follows_every_file_that_decides_vectors(folder: Path) -> None:
    first = fingerprint(folder)
    (folder / "README.md").write_text("says nothing of vectors")
    assert fingerprint(folder) == first
    seen = {first}
    names = ["model.safetensors", "sparse_linear.pt", "colbert_linear.pt", "tokenizer.json",
             "config.json", "tokenizer_config.json", "m3.json", "added_tokens.json"]  # fmt: skip
    for name in names:
        path = folder / name
        path.write_bytes((path.read_bytes() if path.exists() else b"{}") + b" ")
        seen.add(fingerprint(folder))
    assert len(seen) == 1 + len(names)
    (folder / "model.safetensors").unlink()
    for name in ("model-00002-of-00002.safetensors", "pytorch_model-00001-of-00002.bin"):
        (folder / "model-00002-of-00002.safetensors").unlink(missing_ok=True)
        (folder / name).write_bytes(b"weights")
        seen.add(fingerprint(folder))
    assert len(seen) == 3 + len(names)


@pytest.mark.parametrize(
    ("heads", "lost", "found", "modes"),
    [
        (
            ("sparse",),
            "colbert_linear.pt",
            "dense and sparse, and none of multi",
            '["multi"]',
        ),
        (("multi",), "sparse_linear.pt", "dense and multi, and none of sparse", '["sparse"]'),
        (
            (),
            "sparse_linear.pt and colbert_linear.pt",
            "dense, and none of sparse and multi",
            '["sparse", "multi"]',
        ),
    ],
)
def test_a_checkpoint_of_some_modes_says_which(
    tiny_checkpoint: Path, tmp_path: Path, heads: tuple[str, ...], lost: str, found: str, modes: str
) -> None:
    model, tokenizer, info = load_checkpoint(tiny_checkpoint)
    save_checkpoint(tmp_path, model, tokenizer, info, heads=heads)
    with pytest.raises(ArtifactError) as caught:
        load_checkpoint(tmp_path)
    assert caught.value.found == found
    assert caught.value.expected == f"an M3 checkpoint with {lost}"
    assert f"objective.modes = {modes}" in caught.value.remedy
    assert f"--rows {','.join(('dense', *heads))}." in caught.value.remedy


def test_a_tokenizer_that_frames_texts_otherwise_is_refused(
    tiny_checkpoint: Path,
) -> None:
    _, tokenizer, _ = load_checkpoint(tiny_checkpoint)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    with pytest.raises(ArtifactError, match="one special token before a text"):
        Tokenization(tokenizer)
