"""What a step logs, and what its random numbers depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from training_runs import starting

from m3search.model.tokenization import Ids
from m3search.records import MODES
from m3search.training import pretraining
from m3search.training.encoding import Encoding, Parts
from m3search.training.finetuning import step_seed
from m3search.training.masking import Vocabulary
from m3search.training.recipe import Objective, Pretraining, Recipe
from m3search.training.representations import Layout, Representations, score_mode
from m3search.training.retromae import Masked
from m3search.training.run import Run


def test_accuracies_are_those_of_the_scores_without_what_is_masked(
    recipe: Recipe, tmp_path: Path
) -> None:
    objective = Objective(ensemble_weights=(0.1, 5.0, 0.2), self_distill=False)
    run = Run(replace(starting(recipe, dropout=0.0), objective=objective), tmp_path)
    seen = set()
    for step in range(12):
        batch = run.sampler.batch(step)
        rng = np.random.default_rng(step)
        targets = rng.integers(len(batch.passages), size=len(batch.queries))
        masked = rng.random(batch.masked.shape) < 0.5
        masked[np.arange(len(targets)), targets] = False
        batch = batch._replace(targets=targets, masked=masked)
        texts = run.finetuning.read(batch)
        scored = run.finetuning.score(step, texts)
        metrics = run.finetuning.accumulate(step, texts)
        order = scored.rows.argsort()
        scores = {mode: scored.scores[mode][order].detach().numpy() for mode in MODES}
        weighed = 0.1 * scores["dense"] + 5.0 * scores["sparse"] + 0.2 * scores["multi"]
        for name, table in (*scores.items(), ("ensemble", weighed)):
            best = np.where(masked, -np.inf, table).argmax(axis=1)
            wanted = float((best == targets).mean())
            assert metrics[f"accuracy_{name}"] == pytest.approx(wanted), name
            seen |= {(name, wanted), (name, float((table.argmax(axis=1) == targets).mean()))}
    assert len(seen) > 12


def test_tokens_are_those_read_and_queries_have_a_limit_of_their_own(
    recipe: Recipe, tmp_path: Path
) -> None:
    data = replace(recipe.data, query_max_length=4, passage_max_length=7)
    run = Run(replace(recipe, data=data), tmp_path)
    batch = run.sampler.batch(0)
    texts = run.finetuning.read(batch)
    scored = run.finetuning.score(0, texts)
    assert {len(ids) for ids in scored.queries.ids} == {4}
    assert {len(ids) for ids in scored.passages.ids} == {7}
    tokens = 4 * len(batch.queries) + 7 * len(batch.passages)
    assert run.finetuning.accumulate(0, texts)["tokens"] == tokens


def test_every_part_of_a_step_has_random_numbers_of_its_own() -> None:
    seeds = [
        step_seed(seed, step, rank, what)
        for seed in range(3)
        for step in range(3)
        for rank in range(3)
        for what in ("queries", "passages")
    ]
    assert len(set(seeds)) == 54
    assert step_seed(1, 2, 0, "masks") == step_seed(1, 2, 0, "masks")


def test_parts_drop_out_different_things() -> None:
    def forward(part: Sequence[Ids]) -> Representations:
        ones = functional.dropout(torch.ones(len(part), 64), 0.5)
        return Representations(ones, ones[:, 0], ones)

    ids = [np.zeros(4, np.int64)] * 3
    first, second, third = Encoding(forward, ids, Parts(4), cached=True, seed=5).results.dense
    assert not torch.equal(first, second) and not torch.equal(second, third)


def test_texts_go_through_the_model_from_the_longest_on() -> None:
    seen: list[int] = []

    def forward(part: Sequence[Ids]) -> Representations:
        seen.extend(map(len, part))
        assert max(map(len, part)) * len(part) <= 12
        rows = torch.zeros(len(part), 2)
        return Representations(rows, rows[:, 0], rows)

    ids = [np.zeros(length, np.int64) for length in (3, 9, 1, 6, 6)]
    encoding = Encoding(forward, ids, Parts(12), cached=False, seed=5)
    assert seen == [9, 6, 6, 3, 1]
    assert encoding.order.tolist() == [1, 3, 4, 0, 2]
    assert all(a >= b for a, b in pairwise(map(len, encoding.ids)))


def test_late_interaction_is_the_mean_over_a_query_s_own_vectors() -> None:
    torch.manual_seed(4)
    counts = ([1, 4, 2], [3, 2])
    sides = [torch.randn(sum(each), 5) for each in counts]
    none, scalars = torch.zeros(0, 5), torch.zeros(0)
    special = np.zeros(1, np.int64)
    ids = [[np.zeros(1 + count, np.int64) for count in each] for each in counts]
    layouts = [Layout.of(texts, special, torch.device("cpu")) for texts in ids]
    found = score_mode(
        "multi",
        Representations(none, scalars, sides[0]),
        layouts[0],
        Representations(none, scalars, sides[1]),
        layouts[1],
    )
    for i, query in enumerate(sides[0].split(counts[0])):
        for j, passage in enumerate(sides[1].split(counts[1])):
            best = [max(float(u @ v) for v in passage) for u in query]
            assert float(found[i, j]) == pytest.approx(sum(best) / len(best), rel=1e-5)


def test_retromae_masks_anew_at_every_step_as_its_settings_say(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []
    made: list[Masked] = []

    def make_masked(
        texts: Sequence[Ids],
        vocabulary: Vocabulary,
        rngs: Sequence[np.random.Generator],
        **settings: object,
    ) -> Masked:
        asked.append(settings)
        made.append(original(texts, vocabulary, rngs, **settings))
        return made[-1]

    original = pretraining.make_masked
    monkeypatch.setattr(pretraining, "make_masked", make_masked)
    own = Pretraining(encoder_share=0.25, decoder_share=0.6, masks=3)
    batches = replace(recipe.batches, sub_batch_tokens=8192)
    masking = starting(recipe, dropout=0.3)
    masking = replace(masking, stage="retromae", objective=None, pretraining=own, batches=batches)
    run = Run(masking, tmp_path)
    texts = run.sampler.texts(0)
    losses = [
        run.pretraining.accumulate(step, run.pretraining.read(step, texts))["loss"]
        for step in (0, 0, 1)
    ]
    wanted = {"encoder_share": 0.25, "decoder_share": 0.6, "masks": 3}
    assert all(settings.items() >= wanted.items() for settings in asked)
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(made[0].masks, made[1].masks)
    assert not torch.equal(made[0].masks, made[2].masks)
    one, other = (run.pretraining.accumulate(step, [made[0]])["loss"] for step in (0, 1))
    assert one != other  # dropout, too, is another at every step
