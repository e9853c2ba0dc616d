"""`Encoder.compute_score`: in windows, and with every kind of weights.

That its scores are FlagEmbedding's is held by test_parity_flagembedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3search.encoder import Encoder
from m3search.errors import ConfigError
from m3search.records import Encoded


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path) -> Encoder:
    return Encoder.load(tiny_checkpoint, device="cpu", dtype=torch.float32)


def test_scores_of_pairs_hold_a_window_at_a_time(
    encoder: Encoder, sample_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["", *sample_texts[:20], "word"]
    pairs = list(zip(texts, texts[1:] + texts[:1], strict=True))
    weights = (0.4, 0.2, 0.4)
    whole = encoder.compute_score(pairs, weights)
    sizes: list[int] = []
    encode = encoder.encode

    def counted(some: list[str], *rest: str) -> Encoded:
        sizes.append(len(some))
        return encode(some, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(encoder, "encode", counted)
    monkeypatch.setattr("m3search.model.windows.WINDOW", 4)
    parts = encoder.compute_score(pairs, weights)
    assert max(sizes) == 4 and sum(sizes) == 2 * len(pairs)
    monkeypatch.setattr("m3search.model.windows.WINDOW_CHARACTERS", 1)
    single = encoder.compute_score(pairs, weights)
    assert max(sizes[-len(pairs) :]) == 1
    for name, scores in whole.items():
        np.testing.assert_allclose(parts[name], scores, rtol=0, atol=2e-6)
        np.testing.assert_allclose(single[name], scores, rtol=0, atol=2e-6)
    assert encoder.compute_score([]) == {name: [] for name in whole}


def test_a_sum_without_weights_is_0(encoder: Encoder) -> None:
    scores = encoder.compute_score([("late tea", "tea")], (0, 0, 2))
    assert scores["sparse+dense"] == [0.0]
    assert scores["colbert+sparse+dense"] == pytest.approx(scores["colbert"])


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ((0, 0, 0), "only zeros"),
        ((1, -1, 1), r"\(1, -1, 1\)"),
        ((1, float("nan"), 1), "nan"),
        ((1, 1), r"\(1, 1\)"),
    ],
)
def test_weights_of_pairs_out_of_range(encoder: Encoder, weights: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=f"weights: expected three finite .* found .*{found}"):
        encoder.compute_score([("a", "b")], weights)
