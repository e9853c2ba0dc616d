"""Training: every score, loss and batch against a slow obvious one, and resume against no stop."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse as sp
from tiny_models import write_bert

import m3search.training.loop as loop
from m3search.encoder import Encoder
from m3search.errors import ArtifactError, ConfigError, DataError
from m3search.model.checkpoint import load_checkpoint, read_info
from m3search.records import Encoded
from m3search.scoring import dense_scores, maxsim, sparse_scores
from m3search.training.batching import Batch, Sampler
from m3search.training.data import group_by_passage, read_pairs, read_source
from m3search.training.losses import Scores, lexical_scores, m3_loss, multi_scores
from m3search.training.recipe import (
    Batches,
    Data,
    Objective,
    Optimiser,
    Output,
    Recipe,
    Source,
    Start,
)

SUBJECTS = ["lighthouse", "volcano", "bread", "glacier", "coffee", "octopus", "guitar", "zero"]


def write_pairs(path: Path, negatives: bool = False) -> Path:
    """Three questions on each of 16 passages."""
    lines = []
    for subject in SUBJECTS:
        for kind in ("history", "use"):
            text = f"The {kind} of the {subject}: a passage that tells of {subject} and {kind}."
            for word in ("what", "how", "why"):
                neg = [f"Nothing about {subject}."] if negatives else []
                query = f"{word} {subject} {kind}"
                lines.append({"query": query, "pos": [text], "neg": neg, "title": subject})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, sample_texts: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    data = write_pairs(folder / "pairs.jsonl")
    texts = [*sample_texts[::8], *data.read_text(encoding="utf-8").splitlines()]
    return write_bert(folder / "plain", texts)


@pytest.fixture
def recipe(backbone: Path, tmp_path: Path) -> Recipe:
    write_pairs(tmp_path / "data" / "pairs.jsonl", negatives=True)
    return Recipe(
        stage="finetune",
        start=Start(str(backbone), multi_dim=8, pooling="mean", max_length=128, dropout=0.1),
        data=Data(
            (Source("*.jsonl"),), str(tmp_path / "data"), 16, 32, queries_per_passage=2, negatives=1
        ),
        optimiser=Optimiser(steps=6, learning_rate=1e-3, precision="fp32", seed=3),
        batches=Batches(passages=4, neighbours=2, sub_batch_tokens=64),
        objective=Objective(self_distill_start_step=2),
        output=Output(log_every=1, save_every=2),
    )


# --- scores ---------------------------------------------------------------------------------


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
    loop.save_checkpoint(
        tmp_path / "out", run.model, run.tokenizer, loop.CheckpointInfo("mean", 128)
    )
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


# --- loss -----------------------------------------------------------------------------------


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


# --- data and batches -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"{", "no JSON"),
        (b"[]", "a list"),
        (b'{"pos": ["a"]}', "no query text"),
        (b'{"query": "q", "pos": []}', "an empty pos"),
        (b'{"query": "q", "pos": "a"}', "pos is not a list"),
        (b'{"query": "q", "pos": ["a"], "neg": [1]}', "neg is not a list"),
        (b'{"query": "q", "pos": ["a"], "title": 3}', "a title that is not text"),
        (b'{"query": "\xff", "pos": ["a"]}', "no JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, found: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"query": "q", "pos": ["a"]}\n' + line + b"\n")
    with pytest.raises(DataError, match=f"line 2.*found {found}"):
        list(read_pairs(path))


def test_pairs_are_read_from_gzip_and_grouped(tmp_path: Path) -> None:
    lines = [
        {"query": "q1", "pos": ["a", "b"], "neg": ["x"]},
        {"query": "q2", "pos": ["a"], "neg": ["b", "a"]},
    ]
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    assert [pair.query for pair in read_pairs(path)] == ["q1", "q2"]
    a, b = group_by_passage(read_pairs(path))
    assert (a.text, a.queries, a.negatives) == ("a", ("q1", "q2"), ("x", "b"))
    assert (b.text, b.queries, b.negatives) == ("b", ("q1",), ("x",))


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.folder"):
        read_source(tmp_path, Source("*.jsonl"))


def make_sampler(path: Path, seed: int = 1, **settings: Any) -> Sampler:
    data = Data((), queries_per_passage=2, negatives=1, title_probability=0.5)
    batches = Batches(**{"passages": 4, "neighbours": 1} | settings)
    return Sampler([read_source(path, Source("*.jsonl"))], data, batches, seed)


def test_an_epoch_holds_every_passage_once(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", negatives=True)
    sampler = make_sampler(tmp_path, passages=5)
    assert sampler.steps_per_epoch == 3
    for epoch in range(2):
        batches = [sampler.batch(epoch * 3 + step) for step in range(3)]
        positives = [b.passages[t].split("\n")[-1] for b in batches for t in sorted(set(b.targets))]
        assert len(positives) == len(set(positives)) == 16
        for batch in batches:
            check_batch(batch)


def check_batch(batch: Batch) -> None:
    assert len(batch.queries) == len(batch.targets) == len(set(batch.queries))
    for query, target in zip(batch.queries, batch.targets, strict=True):
        _, subject, kind = query.split()
        assert f"The {kind} of the {subject}:" in batch.passages[target]
    assert any(text.startswith("Nothing") for text in batch.passages)
    assert not any(t >= len(batch.passages) for t in batch.targets)


def test_batches_follow_from_seed_and_step_alone(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    one, two, other = make_sampler(tmp_path), make_sampler(tmp_path), make_sampler(tmp_path, 2)
    straight = [one.batch(step) for step in range(12)]
    assert [two.batch(step) for step in reversed(range(12))][::-1] == straight
    assert straight[:4] != straight[4:8]
    assert other.batch(0) != straight[0]


def test_neighbours_stay_together(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    sampler = make_sampler(tmp_path, neighbours=4, passages=8)
    subjects = [
        passage.split("of the ")[1].split(":")[0]
        for step in range(2)
        for passage in sampler.batch(step).passages
    ]
    adjacent = sum(a == b for a, b in pairwise(subjects))
    assert adjacent >= 4  # runs of four hold one or two whole pairs; alone, one in 15 would meet


def test_other_positives_of_a_query_are_masked(tmp_path: Path) -> None:
    lines = [
        {"query": "shared", "pos": ["first"]},
        {"query": "shared", "pos": ["second"]},
        {"query": "own", "pos": ["third"], "neg": ["second"]},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    batch = make_sampler(tmp_path).batch(0)
    place = batch.passages.index
    for query, target in zip(batch.queries, batch.targets, strict=True):
        if query == "shared":
            other = "second" if batch.passages[target] == "first" else "first"
            line = next(i for i, t in enumerate(batch.targets) if t == target)
            assert (line, place(other)) in batch.masked
    assert len(batch.masked) == 2


def test_repeated_and_partial_sources(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    for weight, steps in ((2.5, 10), (0.5, 2)):
        corpus = read_source(tmp_path, Source("*.jsonl", weight))
        sampler = Sampler([corpus], Data(()), Batches(passages=4), 1)
        assert sampler.steps_per_epoch == steps


# --- loop -----------------------------------------------------------------------------------


def test_a_stopped_and_resumed_run_ends_in_the_same_weights(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.train(recipe, tmp_path / "straight")
    step_of = loop.Run.train_step

    def stop_at_five(run: loop.Run) -> loop.Metrics:
        if run.step == 5:
            raise KeyboardInterrupt
        return step_of(run)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Run, "train_step", stop_at_five)
        loop.train(recipe, tmp_path / "stopped")
    loop.train(recipe, tmp_path / "stopped", resume=True)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("straight", "stopped")]
    steps = [[json.loads(line)["step"] for line in log.splitlines()] for log in logs]
    assert steps == [[1, 2, 3, 4, 5, 6]] * 2
    one, _, _ = load_checkpoint(tmp_path / "straight")
    two, _, _ = load_checkpoint(tmp_path / "stopped")
    for (name, tensor), other in zip(
        one.state_dict().items(), two.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), name


def test_training_learns_and_its_checkpoint_says_from_what(recipe: Recipe, tmp_path: Path) -> None:
    longer = replace(recipe, optimiser=replace(recipe.optimiser, steps=40, learning_rate=3e-3))
    seen: list[loop.Metrics] = []
    out = loop.train(longer, tmp_path / "out", report=seen.append)
    assert [m["step"] for m in seen] == list(range(1, 41))
    logged = (out / "metrics.jsonl").read_text().splitlines()
    assert json.loads(logged[-1])["step"] == 40
    first, last = seen[:5], seen[-5:]
    for name in ("loss_dense", "loss_sparse", "loss_multi", "loss_ensemble"):
        before, after = (sum(m[name] for m in part) for part in (first, last))
        assert after < 0.8 * before, name
    assert seen[1]["loss_distillation"] == 0 < seen[2]["loss_distillation"]
    assert all(m["active_terms_query"] > 0 for m in seen)
    info = read_info(out)
    assert (info.step, info.pooling, info.max_length) == (40, "mean", 128)
    assert info.training["data"][0]["passages"] == 16
    assert info.training["data"][0]["queries"] == 48
    assert "folder" not in info.training["recipe"]["data"]
    assert Encoder.load(out).tokens("x")[-1].text == "[SEP]"


def test_the_learning_rate_rises_and_falls(recipe: Recipe) -> None:
    longer = replace(recipe, optimiser=replace(recipe.optimiser, steps=10, warmup_ratio=0.2))
    rates = [loop.learning_rate_factor(step, longer) for step in range(10)]
    assert rates == [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]


def test_an_earlier_training_is_not_overwritten(recipe: Recipe, tmp_path: Path) -> None:
    loop.train(recipe, tmp_path / "out")
    with pytest.raises(ArtifactError, match="--resume"):
        loop.train(recipe, tmp_path / "out")


def test_resume_with_another_recipe_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    loop.train(recipe, tmp_path / "out")
    other = replace(recipe, optimiser=replace(recipe.optimiser, learning_rate=1.0))
    with pytest.raises(ConfigError, match=r"optimiser\.learning_rate = 0\.001"):
        loop.train(other, tmp_path / "out", resume=True)
    with pytest.raises(ArtifactError, match="without --resume"):
        loop.train(recipe, tmp_path / "empty", resume=True)


def test_a_loss_that_is_no_number_stops_the_run(recipe: Recipe, tmp_path: Path) -> None:
    wild = replace(recipe, objective=replace(recipe.objective, temperature=1e-45))
    with pytest.raises(loop.DivergenceError, match="a finite loss"):
        loop.train(wild, tmp_path / "out")


def test_training_goes_on_from_an_m3_checkpoint(recipe: Recipe, tmp_path: Path) -> None:
    first = loop.train(recipe, tmp_path / "first")
    start = replace(recipe.start, checkpoint=str(first))
    model, _ = loop.start_model(start)
    trained, _, _ = load_checkpoint(first)
    assert torch.equal(model.sparse_linear.weight, trained.sparse_linear.weight)
    with pytest.raises(ArtifactError, match=r"start\.multi_dim"):
        loop.start_model(replace(start, multi_dim=16))


def test_every_recipe_of_the_project_is_valid() -> None:
    recipes = sorted((Path(__file__).parent.parent / "trainer" / "recipes").glob("*.toml"))
    assert recipes
    for path in recipes:
        assert loop.read_recipe(path).stage == "finetune"
    with pytest.raises(ConfigError, match="learning_rate"):
        loop.read_recipe(recipes[0], ["optimiser.learning_rat=1"])
    changed = loop.read_recipe(recipes[0], ["optimiser.steps=3", "start.multi_dim=64"])
    assert (changed.optimiser.steps, changed.start.multi_dim) == (3, 64)
