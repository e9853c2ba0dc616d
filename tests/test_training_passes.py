"""How a pass goes through the encoder: other ways are faster, none gives other numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from m3search.model.attention import ready_attention
from m3search.model.checkpoint import load_backbone, load_checkpoint
from m3search.model.modeling import M3Model
from m3search.model.tokenization import Tokenization
from m3search.training.encoding import represent
from m3search.training.passes import MULTIPLE, SHORT, attention_for, width_of
from m3search.training.recipe import Recipe
from m3search.training.start import prepare


@pytest.fixture
def encoder(backbone: Path) -> PreTrainedModel:
    loaded = load_backbone(backbone).eval()
    assert loaded.config._attn_implementation == "sdpa"
    return loaded


def attention_in(encoder: PreTrainedModel, length: int, half: bool = True) -> str:
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
        attention_for(encoder, length),
    ):
        return str(encoder.config._attn_implementation)


def test_short_texts_attend_by_matrix_products_and_long_ones_do_not(
    encoder: PreTrainedModel,
) -> None:
    assert attention_in(encoder, SHORT) == "eager"
    assert attention_in(encoder, SHORT + 1) == "sdpa"
    assert attention_in(encoder, SHORT, half=False) == "sdpa"
    assert encoder.config._attn_implementation == "sdpa"


def test_a_gpu_attends_without_plans_for_every_shape() -> None:
    enabled = torch.backends.cuda.cudnn_sdp_enabled
    assert enabled()
    with ready_attention(torch.device("cuda")):
        assert not enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
    with ready_attention(torch.device("cpu")):
        assert enabled()
    assert enabled()


def test_the_way_is_back_after_an_error(encoder: PreTrainedModel) -> None:
    with (
        pytest.raises(KeyError),
        torch.autocast("cpu", dtype=torch.bfloat16),
        attention_for(encoder, 8),
    ):
        assert encoder.config._attn_implementation == "eager"
        raise KeyError
    assert encoder.config._attn_implementation == "sdpa"


def test_passes_that_are_repeated_later_keep_their_way(
    encoder: PreTrainedModel, recipe: Recipe
) -> None:
    model = M3Model(encoder, multi_dim=8, pooling="cls")
    prepare(model, recipe)
    assert attention_in(encoder, 8) == "eager"
    batches = replace(recipe.batches, activation_checkpointing=True)
    prepare(model, replace(recipe, batches=batches))
    assert attention_in(encoder, 8) == "sdpa"


def test_an_encoder_that_was_loaded_without_fused_attention_stays_so(
    encoder: PreTrainedModel,
) -> None:
    encoder.set_attn_implementation("eager")
    assert attention_in(encoder, 8) == "eager"
    assert encoder.config._attn_implementation == "eager"


def test_gradients_are_the_same_both_ways(encoder: PreTrainedModel) -> None:
    ids = torch.arange(10, 34).view(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0

    wanted = torch.randn(17, encoder.config.hidden_size, generator=torch.Generator().manual_seed(1))

    def gradients() -> dict[str, Tensor]:
        encoder.zero_grad()
        states = encoder(input_ids=ids, attention_mask=mask)[0]
        (states[mask.bool()] * wanted).sum().backward()
        return {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}

    fused = gradients()
    encoder.set_attn_implementation("eager")
    products = gradients()
    assert fused.keys() == products.keys()
    for name, gradient in fused.items():
        atol = 1e-5 * max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(products[name], gradient, rtol=0, atol=atol)


@pytest.mark.parametrize(("longest", "width"), [(1, 8), (8, 8), (9, 16), (61, 64)])
def test_texts_are_padded_to_few_widths(encoder: PreTrainedModel, longest: int, width: int) -> None:
    assert width_of(encoder, [np.zeros(1, np.int64), np.zeros(longest, np.int64)]) == width


def test_no_text_is_padded_beyond_the_positions(encoder: PreTrainedModel) -> None:
    encoder.config.max_position_embeddings = 3 * MULTIPLE - 3
    assert width_of(encoder, [np.zeros(2 * MULTIPLE + 1, np.int64)]) == 3 * MULTIPLE - 3
    assert width_of(encoder, [np.zeros(2 * MULTIPLE, np.int64)]) == 2 * MULTIPLE


def test_wider_padding_changes_no_representation(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, _ = load_checkpoint(tiny_checkpoint)
    tokenization = Tokenization(tokenizer)
    ids = tokenization.encode(["a short text", "and one that has a few more words in it"], 64).ids
    modes = ("dense", "sparse", "multi")
    wide = represent(model.eval(), tokenization, ids, modes)
    monkeypatch.setattr(
        "m3search.training.encoding.width_of", lambda _, texts: max(map(len, texts))
    )
    for mine, theirs in zip(wide, represent(model, tokenization, ids, modes), strict=True):
        torch.testing.assert_close(mine, theirs)
