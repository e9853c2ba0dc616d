"""How many tokens an encoder has positions for, asked of transformers' own models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from m3search.model.layout import count_positions

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
BEHIND_PADDING = [
    "camembert", "data2vec-text", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm",
    "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
]  # fmt: skip
FROM_ZERO = ["bert", "electra", "distilbert", "albert", "nystromformer", "ernie"]
OWN: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 24, "hidden_dim": 24, "n_layers": 1, "n_heads": 2},
    "longformer": {"attention_window": [4]},
    "layoutlmv3": {"visual_embed": False, "coordinate_size": 4, "shape_size": 4},
    "lilt": {"channel_shrink_ratio": 2, "pad_token_id": 1},
    "luke": {"entity_vocab_size": 5, "entity_emb_size": 8},
    "markuplm": {"pad_token_id": 1},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "padding"),
    [
        (kind, padding)
        for kind in [*FROM_ZERO, *BEHIND_PADDING]
        for padding in (1, 3)
        if (kind, padding) != ("mpnet", 3)  # its code takes 1 whatever its configuration says
    ],
)
def test_a_text_of_as_many_tokens_fits_and_a_longer_one_does_not(kind: str, padding: int) -> None:
    settings = SIZES | OWN.get(kind, {}) | {"pad_token_id": padding}
    config = AutoConfig.for_model(kind, **settings)
    model = AutoModel.from_config(config).eval()
    positions = count_positions(config.to_dict())
    assert positions == (20 if kind in FROM_ZERO else 20 - padding - 1)
    with torch.inference_mode():
        model(input_ids=torch.full((1, positions), 7))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, positions + 1), 7))


def test_a_configuration_that_says_little() -> None:
    assert count_positions({}) == 512
    assert count_positions({"model_type": "roberta", "max_position_embeddings": 514}) == 512
    stated = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": None}
    assert count_positions(stated) == 512
