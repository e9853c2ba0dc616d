"""The mean of checkpoints: of their weights, with multi heads turned to each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from trainer_scripts import script

from m3search.encoder import Encoder
from m3search.errors import ConfigError
from m3search.model.checkpoint import load_checkpoint

averaging = script("average_checkpoints")
TEXTS = ["a lighthouse in the fog", "Ein Leuchtturm im Nebel", "bread, and cheese"]


def changed(folder: Path, out: Path, name: str, change: float | torch.Tensor) -> Path:
    """A copy whose head of this file is multiplied, by a matrix from the left."""
    shutil.copytree(folder, out)
    head = {key: value.double() for key, value in torch.load(out / name).items()}
    for key, value in head.items():
        head[key] = (change @ value if isinstance(change, torch.Tensor) else change * value).float()
    torch.save(head, out / name)
    return out


def rotation(size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def heads(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    model = load_checkpoint(folder)[0]
    return model.sparse_linear.weight.detach(), model.colbert_linear.weight.detach()


def test_turned_token_vectors_are_turned_back(tiny_checkpoint: Path, tmp_path: Path) -> None:
    size = len(heads(tiny_checkpoint)[1])
    turned = changed(tiny_checkpoint, tmp_path / "b", "colbert_linear.pt", rotation(size))
    assert not torch.allclose(heads(turned)[1], heads(tiny_checkpoint)[1], atol=1e-2)
    averaging.main([str(tiny_checkpoint), str(turned), "--out", str(tmp_path / "mean")])
    folders = (tiny_checkpoint, tmp_path / "mean")
    first, mean = (Encoder.load(folder).encode(TEXTS) for folder in folders)
    for one, other in zip(first.multi, mean.multi, strict=True):
        assert np.allclose(one, other, atol=2e-3)  # half precision


def test_the_mean_is_of_all_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = changed(tiny_checkpoint, tmp_path / "b", "sparse_linear.pt", 4.0)
    third = changed(tiny_checkpoint, tmp_path / "c", "sparse_linear.pt", -2.0)
    out = tmp_path / "mean"
    averaging.main([*map(str, (tiny_checkpoint, other, third)), "--out", str(out)])
    first = heads(tiny_checkpoint)[0]
    assert torch.allclose(heads(out)[0], first, atol=1e-3)  # (1 + 4 - 2) / 3
    averaging.main([*map(str, (tiny_checkpoint, other)), "--out", str(tmp_path / "two")])
    averaging.main([*map(str, (tiny_checkpoint, other)), "--shares", "0.25", "0.75",
                    "--out", str(tmp_path / "more")])  # fmt: skip
    assert torch.allclose(heads(tmp_path / "more")[0], 3.25 * first, atol=5e-3)
    assert torch.allclose(heads(tmp_path / "two")[0], 2.5 * first, atol=5e-3)


def test_the_encoder_is_averaged_too(tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_checkpoint, tmp_path / "b")
    states = load_file(other / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    was = states[name].clone()
    save_file({**states, name: 3 * was}, other / "model.safetensors", {"format": "pt"})
    averaging.main([str(tiny_checkpoint), str(other), "--out", str(tmp_path / "mean")])
    mean = load_file(tmp_path / "mean" / "model.safetensors")
    assert torch.allclose(mean[name].float(), 2 * was, atol=2e-3)


@pytest.mark.parametrize("weights", [["-1", "0", "1"], ["nan", "1", "1"], ["0", "0", "0"]])
def test_weights_that_no_checkpoint_has_are_refused(
    tiny_checkpoint: Path, tmp_path: Path, weights: list[str]
) -> None:
    both = [str(tiny_checkpoint)] * 2
    with pytest.raises(ConfigError, match="not all 0"):
        averaging.main([*both, "--fusion-weights", *weights, "--out", str(tmp_path / "mean")])


def test_it_says_where_it_comes_from(tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = changed(tiny_checkpoint, tmp_path / "b", "sparse_linear.pt", 2.0)
    out = tmp_path / "mean"
    averaging.main([str(tiny_checkpoint), str(other), "--fusion-weights", "0.5", "2", "1",
                    "--word-terms", "stems", "--idf", "--out", str(out)])  # fmt: skip
    info = json.loads((out / "m3.json").read_text(encoding="utf-8"))
    assert info["fusion_weights"] == [0.5, 2.0, 1.0]
    assert (info["word_terms"], info["idf"]) == ("stems", True)
    again = averaging.average([out, other], [1, 1]).info
    assert (again.word_terms, again.idf, again.fusion_weights) == ("stems", True, (0.5, 2.0, 1.0))
    assert not averaging.average([out, other], [1, 1], idf=False).info.idf
    one, two = info["training"]["mean_of"]
    assert one["share"] == two["share"] == 0.5
    assert one["fingerprint"] != two["fingerprint"]


def test_checkpoints_of_another_start_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_checkpoint, tmp_path / "b")
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    tokenizer = json.loads(text)
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[-2], vocabulary[-3] = vocabulary[-3], vocabulary[-2]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(ConfigError, match="vocabulary"):
        averaging.average([tiny_checkpoint, other], [1, 1])


def test_tokenizers_that_normalise_otherwise_are_refused(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_checkpoint, tmp_path / "b")
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "e"}, "content": "a"}
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(ConfigError, match="tokens of a sample"):
        averaging.average([tiny_checkpoint, other], [1, 1])


def test_other_configurations_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_checkpoint, tmp_path / "b")
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    free = {"hidden_dropout_prob": 0.3, "transformers_version": "5.0.0"}
    (other / "config.json").write_text(json.dumps(config | free), encoding="utf-8")
    averaging.average([tiny_checkpoint, other], [1, 1])
    heads = {"num_attention_heads": config["num_attention_heads"] * 2}
    (other / "config.json").write_text(json.dumps(config | heads), encoding="utf-8")
    with pytest.raises(ConfigError, match="found 'num_attention_heads' as"):
        averaging.average([tiny_checkpoint, other], [1, 1])


def test_other_shapes_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = changed(tiny_checkpoint, tmp_path / "b", "sparse_linear.pt", 1.0)
    head = torch.load(other / "colbert_linear.pt")
    torch.save({key: value[:-1] for key, value in head.items()}, other / "colbert_linear.pt")
    with pytest.raises(ConfigError, match="shapes"):
        averaging.average([tiny_checkpoint, other], [1, 1])


def test_one_checkpoint_is_its_own_mean(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Searched in another way, if that is said."""
    averaging.main([str(tiny_checkpoint), "--word-terms", "stems", "--out", str(tmp_path / "mean")])
    before, after = (load_checkpoint(folder) for folder in (tiny_checkpoint, tmp_path / "mean"))
    assert (before[2].word_terms, after[2].word_terms) == ("none", "stems")
    for name, tensor in before[0].state_dict().items():
        torch.testing.assert_close(after[0].state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_every_checkpoint_has_a_share(tiny_checkpoint: Path, tmp_path: Path) -> None:
    both = [str(tiny_checkpoint)] * 2
    with pytest.raises(ConfigError, match="one for each"):
        averaging.main([*both, "--shares", "1", "--out", str(tmp_path / "mean")])
