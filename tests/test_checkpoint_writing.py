"""Checkpoints that are not written to their end: what is left, and what is said."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from killing import largest_file

from m3search.errors import ArtifactError
from m3search.model.checkpoint import load_checkpoint, save_checkpoint
from m3search.model.damage import writing


def test_a_checkpoint_cut_short_while_written_does_not_load(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, info = load_checkpoint(tiny_checkpoint)
    save_checkpoint(tmp_path, model, tokenizer, info)

    def cut_short(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place in ("save_pretrained", "torch.save"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            if place == "torch.save":
                patch.setattr(torch, "save", cut_short)
            else:
                patch.setattr(type(tokenizer), place, cut_short)
            save_checkpoint(tmp_path, model, tokenizer, info)
        with pytest.raises(ArtifactError, match=r"with sparse_linear\.pt"):
            load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, model, tokenizer, info)
    load_checkpoint(tmp_path)


@pytest.mark.parametrize("size", [10, 100_000])  # of config.json already, and of the weights
def test_a_disk_that_takes_no_more_is_named_with_the_file(
    tiny_checkpoint: Path, tmp_path: Path, size: int
) -> None:
    model, tokenizer, info = load_checkpoint(tiny_checkpoint)
    with largest_file(size), pytest.raises(ArtifactError) as caught:
        save_checkpoint(tmp_path, model, tokenizer, info)
    assert caught.value.where == str(tmp_path / "model.safetensors")
    assert "File too large (" in caught.value.found and "--resume" in caught.value.remedy
    assert not list(tmp_path.glob("*.safetensors*"))


def test_what_a_library_in_rust_says_of_a_disk_is_understood(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    with (
        pytest.raises(ArtifactError, match="found No space left on device"),
        writing(file, remedy="Free space."),
    ):
        file.write_text("{")
        raise Exception("I/O error: No space left on device (os error 28)")
    assert not file.exists()


def test_a_head_that_the_disk_does_not_take_leaves_no_part_of_it(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, info = load_checkpoint(tiny_checkpoint)

    def fill_the_disk(_: object, file: Path) -> None:
        file.write_bytes(b"half")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(ArtifactError, match=r"sparse_linear\.pt\.partial: .*No space left"):
        save_checkpoint(tmp_path, model, tokenizer, info)
    assert not list(tmp_path.glob("*.pt*"))
