"""Scores and loss of training: against slow obvious ones, search, and FlagEmbedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse as sp
from training_runs import make_recipe, write_backbone

import m3search.training.loop as loop
from m3search.encoder import Encoder
from m3search.model.checkpoint import CheckpointInfo, save_checkpoint
from m3search.records import Encoded
from m3search.scoring import dense_scores, maxsim, sparse_scores
from m3search.training.losses import Scores, lexical_scores, m3_loss, multi_scores
from m3search.training.recipe import (
    Objective,
    Recipe,
)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, sample_texts: list[str]) -> Path:
    return write_backbone(tmp_path_factory.mktemp("bert"), sample_texts)


@pytest.fixture
def recipe(backbone: Path, tmp_path: Path) -> Recipe:
    return make_recipe(backbone, tmp_path / "data")


def test_lexical_scores_equal_those_over_the_whole_vocabulary() -> None:
    torch.manual_seed(0)
    ids = [torch.randint(0, 12, (rows, length)) for rows, length in ((3, 5), (4, 7))]
    weights = [torch.rand(i.shape) * (torch.rand(i.shape) > 0.3) for i in ids]
    for tensor in weights:
        tensor.requires_grad_()

    def whole(index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        table = torch.zeros(*index.shape, 12).scatter(2, index[..., None], weight[..., None])
        return table.amax(dim=1)

    expected = whole(ids[0], weights[0]) @ whole(ids[1], weights[1]).T
    wanted = torch.autograd.grad(expected.square().sum(), weights)
    found = lexical_scores(ids[0], weights[0], ids[1], weights[1])
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.square().sum(), weights)
    for gradient, other, weight in zip(gradients, wanted, weights, strict=True):
        counted = weight > 0  # what is 0 came through a relu or a mask, which pass no gradient
        torch.testing.assert_close(gradient[counted], other[counted])


def test_multi_scores_equal_maxsim_of_the_real_vectors() -> None:
    torch.manual_seed(1)
    lengths = ([3, 1, 4], [5, 2, 6, 1, 3, 3, 2, 4, 6, 5])
    tensors, masks = [], []
    for sizes in lengths:
        vectors = torch.nn.functional.normalize(torch.randn(len(sizes), max(sizes), 4), dim=-1)
        mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
        tensors.append(vectors * mask[..., None])
        masks.append(mask)
    found = multi_scores(tensors[0], masks[0], tensors[1], masks[1])
    for i, q in enumerate(lengths[0]):
        for j, p in enumerate(lengths[1]):
            expected = maxsim(tensors[0][i, :q].numpy(), tensors[1][j, :p].numpy())
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-6)


def test_training_and_search_give_the_same_scores(recipe: Recipe, tmp_path: Path) -> None:
    run = loop.Run(recipe, tmp_path)
    run.model.eval()
    batch = run.sampler.batch(0)
    with torch.no_grad():
        _, scores, active, _ = run.losses_of(batch)
    save_checkpoint(tmp_path / "out", run.model, run.tokenizer, CheckpointInfo("mean", 128))
    encoder = Encoder.load(tmp_path / "out", device="cpu", dtype=torch.float32)
    queries, passages = (encoder.encode(texts) for texts in (batch.queries, batch.passages))
    np.testing.assert_allclose(scores.dense, dense_scores(queries.dense, passages.dense), atol=1e-5)
    np.testing.assert_allclose(
        scores.sparse, sparse_scores(queries.sparse, passages.sparse), atol=1e-5
    )
    multi = [[maxsim(q, p) for p in passages.multi] for q in queries.multi]
    np.testing.assert_allclose(scores.multi, multi, atol=1e-5)
    assert active[0] == pytest.approx(mean_terms(queries))
    assert active[1] >= mean_terms(passages)  # positions here, terms there


def mean_terms(encoded: Encoded) -> float:
    return float(np.diff(sp.csr_array(encoded.sparse).indptr).mean())


def log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("distil", [False, True])
def test_the_loss_is_the_published_formula(distil: bool) -> None:
    rng = np.random.default_rng(5)
    heads = [rng.uniform(-0.2, 0.4, (3, 6)) for _ in range(3)]
    targets = np.array([0, 2, 4])
    scaled = [head / 0.02 for head in heads]
    ensemble = scaled[0] + 0.3 * scaled[1] + scaled[2]

    def info_nce(scores: np.ndarray) -> float:
        return float(-log_softmax(scores)[np.arange(3), targets].mean())

    losses = [info_nce(scores) for scores in scaled]
    expected = (losses[0] + 0.1 * losses[1] + losses[2] + info_nce(ensemble)) / 4
    if distil:
        teacher = np.exp(log_softmax(ensemble))
        kl = [float(-(teacher * log_softmax(s)).sum(axis=1).mean()) for s in scaled]
        expected = (expected + (kl[0] + 0.1 * kl[1] + kl[2]) / 3) / 2
    found = m3_loss(
        Scores(*map(torch.from_numpy, heads)),
        torch.from_numpy(targets),
        torch.zeros(3, 6, dtype=torch.bool),
        Objective(),
        distil,
    )
    assert float(found.total) == pytest.approx(expected, rel=1e-9)
    assert float(found.ensemble) == pytest.approx(info_nce(ensemble), rel=1e-9)


def test_the_teacher_gets_no_gradient() -> None:
    """With contrastive parts weighted away, a head equal to the teacher's softmax stays put."""
    dense = torch.tensor([[0.1, 0.05]], requires_grad=True)
    scores = Scores(dense, torch.zeros(1, 2), torch.zeros(1, 2))
    objective = Objective(ensemble_weights=(1.0, 0.0, 0.0), loss_weights=(1.0, 0.0, 0.0))
    losses = m3_loss(scores, torch.tensor([0]), torch.zeros(1, 2).bool(), objective, True)
    (gradient,) = torch.autograd.grad(losses.distillation, dense)
    torch.testing.assert_close(gradient, torch.zeros(1, 2))


def test_masked_passages_are_no_negatives() -> None:
    scores = [torch.randn(2, 5, dtype=torch.float64) * 0.1 for _ in range(3)]
    targets = torch.tensor([0, 1])
    masked = torch.zeros(2, 5, dtype=torch.bool)
    masked[:, 3] = True
    kept = [0, 1, 2, 4]
    whole = m3_loss(Scores(*scores), targets, masked, Objective(), True)
    without = m3_loss(
        Scores(*(s[:, kept] for s in scores)), targets, masked[:, kept], Objective(), True
    )
    assert float(whole.total) == pytest.approx(float(without.total), rel=1e-6)
