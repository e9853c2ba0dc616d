"""More positions for an encoder: short texts give what they gave, long ones fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    ElectraConfig,
    ElectraModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from m3search.errors import ConfigError
from m3search.model.layout import count_positions
from m3search.training.positions import extend_positions

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.3,
}
KINDS = ["bert", "xlm-roberta", "electra"]


def make_backbone(kind: str) -> PreTrainedModel:
    """An encoder for texts of 12 tokens."""
    torch.manual_seed(0)
    if kind == "xlm-roberta":
        config = XLMRobertaConfig(max_position_embeddings=14, pad_token_id=1, **SIZES)
        return XLMRobertaModel(config, add_pooling_layer=False).eval()
    if kind == "electra":
        config = ElectraConfig(max_position_embeddings=12, embedding_size=6, **SIZES)
        return ElectraModel(config).eval()
    return BertModel(
        BertConfig(max_position_embeddings=12, **SIZES), add_pooling_layer=False
    ).eval()


def run(backbone: PreTrainedModel, length: int) -> Tensor:
    ids = torch.randint(5, 50, (2, length), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        return backbone(input_ids=ids, attention_mask=torch.ones_like(ids))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_short_texts_give_what_they_gave_and_long_ones_fit(kind: str, tmp_path: Path) -> None:
    backbone = make_backbone(kind)
    short = run(backbone, 12)
    extend_positions(backbone, 40)
    assert count_positions(backbone.config.to_dict()) == 40
    torch.testing.assert_close(run(backbone, 12), short, atol=1e-6, rtol=0)
    long = run(backbone, 40)
    assert long.shape == (2, 40, 16)
    with pytest.raises((IndexError, RuntimeError)):
        run(backbone, 41)
    backbone.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert count_positions(again.config.to_dict()) == 40
    torch.testing.assert_close(run(again, 40), long, atol=1e-6, rtol=0)
    torch.testing.assert_close(run(again, 12), short, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("kind", "reserved"), [("bert", 0), ("xlm-roberta", 2), ("electra", 0)])
def test_new_rows_repeat_the_learned_ones_in_order(kind: str, reserved: int) -> None:
    backbone = make_backbone(kind)
    table: Any = backbone.embeddings.position_embeddings
    old = table.weight.detach().clone()
    extend_positions(backbone, 31)
    weight = table.weight.detach()
    assert table.num_embeddings == len(weight) == 31 + reserved
    assert torch.equal(weight[: reserved + 12], old)
    for position in range(31):
        assert torch.equal(weight[reserved + position], old[reserved + position % 12])


@pytest.mark.parametrize("kind", KINDS)
def test_the_new_positions_learn(kind: str) -> None:
    backbone = make_backbone(kind)
    extend_positions(backbone, 20)
    ids = torch.full((1, 20), 7)
    backbone(input_ids=ids)[0].sum(dim=1).square().sum().backward()
    table: Any = backbone.embeddings.position_embeddings
    assert table.weight.grad[-8:].abs().sum(dim=1).min() > 0
    assert table.padding_idx == (1 if kind == "xlm-roberta" else None)


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_never_taken_away(kind: str) -> None:
    backbone = make_backbone(kind)
    before = run(backbone, 12)
    with pytest.raises(ConfigError, match="expected at least 12"):
        extend_positions(backbone, 11)
    extend_positions(backbone, 12)
    assert count_positions(backbone.config.to_dict()) == 12
    assert torch.equal(run(backbone, 12), before)


def test_rotary_positions_only_have_their_limit_raised() -> None:
    config = ModernBertConfig(
        **SIZES, max_position_embeddings=12, pad_token_id=0, cls_token_id=1, sep_token_id=2
    )
    backbone = ModernBertModel(config).eval()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    extend_positions(backbone, 40)
    assert backbone.config.max_position_embeddings == 40
    after = backbone.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert run(backbone, 40).shape == (2, 40, 16)
    with pytest.raises(ConfigError, match="expected at least 40"):
        extend_positions(backbone, 39)
