"""Scores and loss of training: against slow obvious ones, search, and the published formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse as sp

import m3search.training.maxsim as maxsim_module
from m3search.encoder import Encoder
from m3search.model.checkpoint import CheckpointInfo, save_checkpoint
from m3search.records import MODES, Encoded, Mode
from m3search.scoring import dense_scores, maxsim, sparse_scores
from m3search.training.losses import TeacherShares, m3_loss
from m3search.training.maxsim import best_matches
from m3search.training.recipe import Objective, Recipe
from m3search.training.representations import active_terms
from m3search.training.run import Run


@pytest.mark.parametrize("block", [1, 40, 500, 1 << 22])
def test_best_matches_equal_those_of_one_passage_at_a_time(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setitem(maxsim_module.BLOCK, "cpu", block)
    torch.manual_seed(1)
    counts = [5, 2, 7, 1, 30]
    queries = torch.randn(11, 6, requires_grad=True)
    passages = torch.randn(sum(counts), 6, requires_grad=True)
    expected = torch.stack([(queries @ p.T).amax(1) for p in passages.split(counts)], dim=1)
    found = best_matches(queries, passages, counts)
    torch.testing.assert_close(found, expected)
    share = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * share).sum(), (queries, passages))
    gradients = torch.autograd.grad((found * share).sum(), (queries, passages))
    torch.testing.assert_close(gradients, wanted)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 40))
def test_blocks_of_passages_stay_within_their_limit(counts: list[int], limit: int) -> None:
    blocks = list(maxsim_module._blocks(counts, limit))
    assert [first for first, _, _ in blocks] == [0, *(end for _, end, _ in blocks[:-1])]
    assert blocks[-1][1] == len(counts)
    for first, end, longest in blocks:
        assert longest == max(counts[first:end])
        assert end - first == 1 or longest * (end - first) <= limit


def test_nothing_as_large_as_all_similarities_is_kept_for_the_gradient() -> None:
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    queries, passages = torch.randn(64, 4, requires_grad=True), torch.randn(500, 4)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        best_matches(queries, passages, [100] * 5)
    assert kept and max(kept) <= 2000  # the passages, not 64 x 500 similarities


def test_training_and_search_give_the_same_scores(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path)
    run.model.eval()
    batch = run.sampler.batch(0)
    with torch.no_grad():
        scored = run.finetuning.score(0, run.finetuning.read(batch))
    save_checkpoint(tmp_path / "out", run.model, run.tokenizer, CheckpointInfo("mean", 128))
    encoder = Encoder.load(tmp_path / "out", device="cpu", dtype=torch.float32)
    asked = [batch.queries[row] for row in scored.rows.tolist()]
    queries, passages = (encoder.encode(texts) for texts in (asked, batch.passages))
    multi = [[maxsim(q, p) for p in passages.multi] for q in queries.multi]
    expected = {
        "dense": dense_scores(queries.dense, passages.dense),
        "sparse": sparse_scores(queries.sparse, passages.sparse),
        "multi": np.array(multi),
    }
    for mode in MODES:
        np.testing.assert_allclose(scored.scores[mode], expected[mode], atol=1e-5, err_msg=mode)
    active = active_terms(scored.query_layout, scored.query_leaves.weights)
    assert float(active.float().mean()) == pytest.approx(mean_terms(queries))


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
        by_mode(*map(torch.from_numpy, heads)),
        torch.from_numpy(targets),
        torch.zeros(3, 6, dtype=torch.bool),
        Objective(),
        distil=distil,
    )
    assert float(found.total) == pytest.approx(expected, rel=1e-9)
    named = found.named()
    assert named["loss_ensemble"] == pytest.approx(info_nce(ensemble), rel=1e-9)
    assert [named[f"loss_{mode}"] for mode in MODES] == pytest.approx(losses, rel=1e-9)
    distilled = [value for name, value in named.items() if "distillation_" in name]
    assert ("loss_distillation" in named) == distil == bool(distilled)
    if distil:
        assert distilled == pytest.approx(kl, rel=1e-9)
        assert named["loss_distillation_multi"] == distilled[2]


@pytest.mark.parametrize("distil", [False, True])
def test_the_loss_of_two_modes_and_of_one(distil: bool) -> None:
    torch.manual_seed(2)
    dense, multi = (torch.randn(3, 5, dtype=torch.float64) * 0.1 for _ in range(2))
    targets, masked = torch.tensor([0, 1, 4]), torch.zeros(3, 5, dtype=torch.bool)

    def info_nce(scores: torch.Tensor) -> float:
        return float(-log_softmax(scores.numpy())[np.arange(3), targets].mean())

    objective = Objective(modes=("dense", "multi"), loss_weights=(0.5, 9.0, 2.0))
    ensemble = (dense + multi) / 0.02
    expected = (0.5 * info_nce(dense / 0.02) + 2 * info_nce(multi / 0.02) + info_nce(ensemble)) / 3
    if distil:
        teacher = np.exp(log_softmax(ensemble.numpy()))
        kl = [-(teacher * log_softmax(s.numpy() / 0.02)).sum(1).mean() for s in (dense, multi)]
        expected = (expected + (0.5 * kl[0] + 2 * kl[1]) / 2) / 2
    scores = {"dense": dense, "multi": multi}
    found = m3_loss(scores, targets, masked, objective, distil=distil)  # type: ignore[arg-type]
    assert float(found.total) == pytest.approx(expected, rel=1e-9)
    alone = m3_loss({"dense": dense}, targets, masked, objective, distil=distil)
    assert float(alone.total) == pytest.approx(info_nce(dense / 0.02), rel=1e-9)
    assert alone.ensemble is None and alone.distillation is None


def by_mode(*scores: torch.Tensor) -> dict[Mode, torch.Tensor]:
    return dict(zip(MODES, scores, strict=True))


def test_the_teacher_gets_no_gradient() -> None:
    """With contrastive parts weighted away, a head equal to the teacher's softmax stays put."""
    dense = torch.tensor([[0.1, 0.05]], requires_grad=True)
    scores = by_mode(dense, torch.zeros(1, 2), torch.zeros(1, 2))
    objective = Objective(ensemble_weights=(1.0, 0.0, 0.0), loss_weights=(1.0, 0.0, 0.0))
    masked = torch.zeros(1, 2).bool()
    losses = m3_loss(scores, torch.tensor([0]), masked, objective, distil=True)
    assert losses.distillation is not None
    (gradient,) = torch.autograd.grad(losses.distillation, dense)
    torch.testing.assert_close(gradient, torch.zeros(1, 2))


@pytest.mark.parametrize("size", [0.1, 1.0])
@pytest.mark.parametrize("temperature", [0.02, 1e-4])
def test_masked_passages_are_no_negatives(temperature: float, size: float) -> None:
    scores = [-size - torch.rand(2, 5, dtype=torch.float64) * 0.1 for _ in range(3)]
    objective = Objective(temperature=temperature)
    targets = torch.tensor([0, 1])
    masked = torch.zeros(2, 5, dtype=torch.bool)
    masked[:, 3] = True
    kept = [0, 1, 2, 4]
    whole = m3_loss(by_mode(*scores), targets, masked, objective, distil=True)
    fewer = by_mode(*(s[:, kept] for s in scores))
    without = m3_loss(fewer, targets, masked[:, kept], objective, distil=True)
    assert float(whole.total) == pytest.approx(float(without.total), rel=1e-6)


CANDIDATES = torch.tensor([[0, 4, 2], [1, 3, -1], [4, -1, -1]])
TAUGHT = torch.tensor([[2.0, 0.5, 3.0], [1.0, -1.0, 0.0], [5.0, 0.0, 0.0]])


def test_a_teacher_s_candidates_come_in_its_order() -> None:
    teacher = TeacherShares.of(CANDIDATES, TAUGHT)
    assert teacher.candidates.tolist() == [[2, 0, 4], [1, 3, -1], [-1, -1, -1]]
    torch.testing.assert_close(teacher.shares[0], torch.tensor([3.0, 2.0, 0.5]).softmax(0))
    torch.testing.assert_close(teacher.shares[1, :2], torch.tensor([1.0, -1.0]).softmax(0))
    assert teacher.shares[2].tolist() == [0.0, 0.0, 0.0]  # one passage alone teaches nothing


@pytest.mark.parametrize("kind", ["kl", "listwise"])
def test_a_teacher_guides_each_mode(kind: str) -> None:
    torch.manual_seed(3)
    scores = torch.randn(3, 5, dtype=torch.float64) * 0.1
    targets, masked = torch.tensor([0, 1, 4]), torch.zeros(3, 5, dtype=torch.bool)
    masked[0, 1] = True
    objective = Objective(modes=("dense",), teacher=kind)  # type: ignore[arg-type]
    teacher = TeacherShares.of(CANDIDATES, TAUGHT)
    found = m3_loss({"dense": scores}, targets, masked, objective, distil=False, teacher=teacher)
    total = 0.0
    for row, (candidates, shares) in enumerate(zip(*teacher, strict=True)):
        values = {i: float(scores[row, i]) / 0.02 for i in range(5) if not masked[row, i]}

        def loss(target: int, among: dict[int, float]) -> float:
            highest = max(among.values())
            return (
                highest + np.log(sum(np.exp(v - highest) for v in among.values())) - among[target]
            )

        own = [int(c) for c in candidates if c >= 0]
        if kind == "kl" or not own:
            total += loss(int(targets[row]), values)
        left = {i: values[i] for i in own} if kind == "kl" else dict(values)
        for candidate, share in zip(own, shares.tolist(), strict=False):
            total += share * loss(candidate, left)
            if kind == "listwise":
                left.pop(candidate)
    assert float(found.total) == pytest.approx(total / 3, rel=1e-6)
    off = Objective(modes=("dense",))
    plain = m3_loss({"dense": scores}, targets, masked, off, distil=False, teacher=teacher)
    bare = m3_loss({"dense": scores}, targets, masked, off, distil=False)
    assert float(plain.total) == float(bare.total)
