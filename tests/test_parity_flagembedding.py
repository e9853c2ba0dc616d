"""The same checkpoint in m3search and in FlagEmbedding gives the same vectors and scores."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3search.encoder import Encoder
from m3search.model.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from m3search.records import Encoded

TOLERANCE = 1e-5
SCRIPTS = [
    "Η θάλασσα ήταν ήρεμη και ο φάρος έλαμπε.",
    "הים היה שקט והמגדלור האיר למרחוק.",
    "ทะเลสงบและประภาคารส่องแสงไปไกล",
    "바다는 잔잔했고 등대는 멀리 비추었다.",
    "கடல் அமைதியாக இருந்தது, கலங்கரை விளக்கம் ஒளிர்ந்தது.",
    "ზღვა წყნარი იყო და შუქურა ანათებდა.",
    "Ծովը հանգիստ էր, և փարոսը լուսավորում էր։",
    "সমুদ্র শান্ত ছিল এবং বাতিঘর আলো দিচ্ছিল।",
]


@pytest.fixture(scope="module")
def texts(sample_texts: list[str]) -> list[str]:
    """50 texts in more than ten scripts, an empty one and one of about 9,000 tokens among them."""
    chosen = sample_texts[::8] + SCRIPTS
    special = ["", " ", "a", "repeat repeat repeat Repeat", "<mask> and </s> spelled out"]
    chosen = special + chosen[: 44 - len(special)] + sample_texts[3:8]
    chosen.append(" ".join(sample_texts)[:60_000])
    assert len(chosen) == 50
    return chosen


@pytest.fixture(scope="module")
def oracle() -> Callable[[Path], Any]:
    """Loads a checkpoint in FlagEmbedding, in float32 on the CPU, without its chatter."""

    def load(folder: Path) -> Any:
        with quiet():
            from FlagEmbedding import BGEM3FlagModel

            return BGEM3FlagModel(str(folder), use_fp16=False, devices="cpu")

    return load


@contextlib.contextmanager
def quiet() -> Any:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def encode_oracle(model: Any, texts: list[str]) -> dict[str, Any]:
    with quiet():
        return dict(
            model.encode(
                texts,
                batch_size=8,
                max_length=8192,
                return_dense=True,
                return_sparse=True,
                return_colbert_vecs=True,
            )
        )


def assert_same(ours: Encoded, theirs: dict[str, Any]) -> None:
    np.testing.assert_allclose(ours.dense, theirs["dense_vecs"], rtol=0, atol=TOLERANCE)
    for row, weights in enumerate(theirs["lexical_weights"]):
        line = ours.sparse[[row], :].tocoo()
        mine = dict(zip(line.coords[1].tolist(), line.data.tolist(), strict=True))
        assert mine.keys() == {int(token) for token in weights}
        for token, weight in weights.items():
            assert abs(mine[int(token)] - float(weight)) <= TOLERANCE
    for vectors, other in zip(ours.multi, theirs["colbert_vecs"], strict=True):
        np.testing.assert_allclose(vectors, other, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def ours(tiny_checkpoint: Path) -> Encoder:
    return Encoder.load(tiny_checkpoint, device="cpu", dtype=torch.float32)


def test_all_three_modes_agree(
    ours: Encoder, oracle: Callable[[Path], Any], tiny_checkpoint: Path, texts: list[str]
) -> None:
    encoded = ours.encode(texts, batch_tokens=20_000)
    assert encoded.truncated.tolist() == [False] * 49 + [True]
    assert len(encoded.multi[-1]) == 8191
    assert encoded.sparse[[0], :].nnz == 0  # the empty text has no terms ...
    assert len(encoded.multi[0]) == 1  # ... and the separator's vector
    assert_same(encoded, encode_oracle(oracle(tiny_checkpoint), texts))


def test_compute_score_agrees(
    ours: Encoder, oracle: Callable[[Path], Any], tiny_checkpoint: Path, texts: list[str]
) -> None:
    short = [text[:300] for text in texts[1:20]]
    pairs = list(zip(short, short[1:] + short[:1], strict=True))
    weights = (0.4, 0.2, 0.4)
    with quiet():
        theirs = oracle(tiny_checkpoint).compute_score(
            [list(pair) for pair in pairs], weights_for_different_modes=list(weights)
        )
    mine = ours.compute_score(pairs, weights)
    assert mine.keys() == theirs.keys()
    for name, scores in theirs.items():
        np.testing.assert_allclose(mine[name], scores, rtol=0, atol=TOLERANCE, err_msg=name)


def test_a_saved_checkpoint_loads_in_flagembedding(
    oracle: Callable[[Path], Any], tiny_checkpoint: Path, texts: list[str], tmp_path: Path
) -> None:
    model, tokenizer, _ = load_checkpoint(tiny_checkpoint)
    save_checkpoint(tmp_path, model, tokenizer, CheckpointInfo("cls", 8192))
    saved = Encoder.load(tmp_path, device="cpu", dtype=torch.float32).encode(texts[:20])
    assert_same(saved, encode_oracle(oracle(tmp_path), texts[:20]))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_saved_checkpoint_loads_in_sentence_transformers(
    tiny_checkpoint: Path, texts: list[str], tmp_path: Path, pooling: Any
) -> None:
    model, tokenizer, _ = load_checkpoint(tiny_checkpoint)
    model.pooling = pooling
    save_checkpoint(tmp_path, model, tokenizer, CheckpointInfo(pooling, 512))
    ours = Encoder.load(tmp_path, device="cpu", dtype=torch.float32).encode(texts)
    with quiet():
        from sentence_transformers import SentenceTransformer

        theirs = SentenceTransformer(str(tmp_path), device="cpu").encode(texts, batch_size=8)
    np.testing.assert_allclose(ours.dense, theirs, rtol=0, atol=TOLERANCE)
    assert json.loads((tmp_path / "m3.json").read_text())["heads"]["multi"] == [32, 32]
