"""New heads fitted to texts: rare terms weigh more, token vectors keep what tells states apart."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_processes import run_together
from training_runs import starting, write_lines

from m3search.records import MODES
from m3search.training import fitting
from m3search.training.fitting import MEAN_WEIGHT, Moments, fit_heads, inverse_document_frequencies
from m3search.training.recipe import Recipe, Source
from m3search.training.run import Run

SPARSE_AND_MULTI = ("sparse", "multi")


def of(*rows: Sequence[int]) -> list[np.ndarray]:
    return [np.array(row, np.int64) for row in rows]


def test_inverse_document_frequencies_are_those_of_the_formula() -> None:
    found = inverse_document_frequencies(of([1, 1, 2], [1], [1, 3]), vocabulary=5)
    expected = [np.log(1 + (3 - n + 0.5) / (n + 0.5)) for n in (0, 3, 1, 1, 0)]
    np.testing.assert_allclose(found, expected)
    assert (found > 0).all()


@pytest.fixture
def moments() -> tuple[Moments, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    states = rng.normal(size=(500, 6)) * [5, 4, 3, 1, 1, 1] + 7
    wanted = states @ [0.5, -0.2, 0, 0, 0, 1] + 3 + rng.normal(size=500) / 100
    found = Moments(6)
    for rows in (slice(0, 200), slice(200, 500)):
        found.add(states[rows], wanted[rows])
    return found, states, wanted


def test_the_regression_is_that_of_least_squares(
    moments: tuple[Moments, np.ndarray, np.ndarray],
) -> None:
    found, states, wanted = moments
    weight, bias = found.regression()
    design = np.c_[states, np.ones(len(states))]
    best = np.linalg.lstsq(design, wanted, rcond=None)[0]
    np.testing.assert_allclose([*weight, bias], best, rtol=0.02, atol=0.02)
    assert found.mean_wanted == pytest.approx(wanted.mean())


def test_the_components_are_those_of_the_largest_variance(
    moments: tuple[Moments, np.ndarray, np.ndarray],
) -> None:
    found, states, _ = moments
    rows = found.principal_components(3)
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-9)
    variance = np.linalg.svd(states - states.mean(axis=0))[1][:3] ** 2
    kept = ((states - found.mean) @ rows.T) ** 2
    np.testing.assert_allclose(kept.sum(axis=0), variance, rtol=1e-6)


def test_more_components_than_dimensions_are_zero(
    moments: tuple[Moments, np.ndarray, np.ndarray],
) -> None:
    rows = moments[0].principal_components(8)
    assert rows.shape == (8, 6)
    assert not rows[6:].any()


def heads_of(run: Run) -> dict[str, torch.Tensor]:
    model = run.model
    state = {"sparse": model.sparse_linear.weight, "multi": model.colbert_linear.weight}
    return {name: weight.detach().clone() for name, weight in state.items()}


def fit(run: Run, modes: Sequence[str] = SPARSE_AND_MULTI) -> None:
    fit_heads(run.model, run.tokenization, run.corpora, modes, run.recipe, run.devices)


def test_rare_terms_get_more_weight(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path / "run")
    fit(run)
    texts = [p.text for corpus in run.corpora for p in corpus.passages]
    ids = run.tokenization.encode(texts, 64).ids
    rarity = inverse_document_frequencies(ids, run.model.vocabulary)
    weights, wanted = [], []
    run.model.eval()
    for row in ids:
        tokens = torch.from_numpy(row)[None]
        outputs = run.model(tokens, torch.ones_like(tokens))
        words = ~np.isin(row, run.tokenization.special_ids)
        weights += outputs.weights[0, words].tolist()
        wanted += rarity[row[words]].tolist()
    assert np.corrcoef(weights, np.sqrt(wanted))[0, 1] > 0.7
    assert np.mean(weights) == pytest.approx(MEAN_WEIGHT, rel=0.2)


def test_weights_are_fitted_to_the_root_so_that_two_of_them_give_the_frequency(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    add = Moments.add

    def record(self: Moments, states: np.ndarray, wanted: np.ndarray) -> None:
        asked.extend(wanted.tolist())
        add(self, states, wanted)

    monkeypatch.setattr(Moments, "add", record)
    run = Run(recipe, tmp_path / "run")
    fit(run)
    (corpus,) = run.corpora
    ids = run.tokenization.encode([p.text for p in corpus.passages], 64).ids
    rarity = inverse_document_frequencies(ids, run.model.vocabulary)
    words = np.concatenate([row[~np.isin(row, run.tokenization.special_ids)] for row in ids])
    assert sorted(np.square(asked)) == pytest.approx(sorted(rarity[words]))


def test_only_the_heads_asked_for_change_and_no_mode_of_the_model(
    recipe: Recipe, tmp_path: Path
) -> None:
    run = Run(recipe, tmp_path / "run")
    before = heads_of(run)
    fit(run, ("multi",))
    after = heads_of(run)
    assert torch.equal(before["sparse"], after["sparse"])
    assert not torch.equal(before["multi"], after["multi"])
    assert run.model.training


def with_fitting(recipe: Recipe, **start: object) -> Recipe:
    settings = replace(recipe.optimiser, steps=2)
    return replace(starting(recipe, fit_heads=True, **start), optimiser=settings)


def test_a_run_starts_from_fitted_heads_and_says_nothing_of_kept_ones(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []
    monkeypatch.setattr(
        "m3search.training.run.fit_heads", lambda *arguments: asked.append(set(arguments[3]))
    )
    (tmp_path / "new").mkdir()
    Run(with_fitting(recipe), tmp_path / "new").train()
    (tmp_path / "kept").mkdir()
    Run(with_fitting(recipe, checkpoint=str(tmp_path / "new")), tmp_path / "kept").train()
    assert asked == [{*MODES} - {"dense"}, set()]


def test_heads_are_fitted_once(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting = with_fitting(recipe)
    whole = Run(fitting, tmp_path / "whole")
    whole.folder.mkdir()
    whole.train()
    stopped = Run(fitting, tmp_path / "stopped")
    stopped.folder.mkdir()
    fit(stopped)
    stopped.train_step()
    stopped.save_state()
    resumed = Run(fitting, tmp_path / "stopped")
    resumed.resume()
    monkeypatch.setattr("m3search.training.run.fit_heads", lambda *_: pytest.fail("fitted again"))
    resumed.train()
    for name, weight in heads_of(whole).items():
        assert torch.equal(heads_of(resumed)[name], weight)


def _fit_in_a_process(rank: int, recipe: Recipe, folder: Path) -> None:
    run = Run(recipe, folder)
    torch.manual_seed(rank)
    with torch.no_grad():
        for parameter in run.model.backbone.parameters():
            parameter += rank * 0.01  # as devices that round in their own way, only more
    fit(run)
    torch.save(heads_of(run), folder / f"{rank}.pt")


def test_all_processes_start_from_the_heads_of_the_first(recipe: Recipe, tmp_path: Path) -> None:
    run_together(2, _fit_in_a_process, recipe, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_sources_take_part_as_often_as_in_the_training(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"query": f"q {n}", "pos": [f"passage {n} of a source"]} for n in range(40)]
    for name in ("often", "seldom"):
        write_lines(tmp_path / "data" / f"{name}.jsonl", lines)
    sources = (Source("often.jsonl", weight=3.0), Source("seldom.jsonl"))
    data = replace(recipe.data, folder=str(tmp_path / "data"), sources=sources)
    encoded: list[int] = []
    states = fitting._states

    def record(*given: Any) -> Any:
        encoded.append(len(given[2]))
        return states(*given)

    monkeypatch.setattr(fitting, "_states", record)
    monkeypatch.setattr(fitting, "ENCODED", 16)
    fit(Run(replace(recipe, data=data), tmp_path / "run"))
    assert encoded == [12, 4]


def test_token_vectors_are_fitted_around_the_mean_state(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean state says what all tokens have in common, which tells none apart."""
    seen: list[np.ndarray] = []
    add = Moments.add

    def record(self: Moments, states: np.ndarray, wanted: np.ndarray) -> None:
        seen.append(states)
        add(self, states, wanted)

    monkeypatch.setattr(Moments, "add", record)
    run = Run(recipe, tmp_path / "run")
    fit(run)
    mean = torch.from_numpy(np.concatenate(seen).mean(axis=0)).float()
    head = run.model.colbert_linear
    assert float(head.bias.detach().norm()) > 0.01
    np.testing.assert_allclose(head(mean).detach(), 0, atol=1e-5)
