"""What a query and a passage score together depends on them alone."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from training_runs import starting

from m3search.records import MODES
from m3search.training.recipe import Recipe
from m3search.training.run import Run

Scores = dict[tuple[str, str, str], float]
"""(mode, query, passage) -> score"""


def scores_of(recipe: Recipe, folder: Path) -> Scores:
    """Of all that meet in three epochs."""
    run = Run(recipe, folder)
    found: Scores = {}
    for step in range(3 * run.sampler.steps_per_epoch):
        batch = run.sampler.batch(step)
        scored = run.finetuning.score(step, run.finetuning.read(batch))
        for mode in MODES:
            for row, number in enumerate(scored.rows.tolist()):
                query, line = batch.queries[number], scored.scores[mode][row].tolist()
                pairs = zip(batch.passages, line, strict=True)
                found |= {(mode, query, passage): score for passage, score in pairs}
    return found


@pytest.mark.parametrize(
    "batches",
    [
        {},
        {"passages": 7},
        {"tokens": 64, "buckets": (16, 24)},
        {"sub_batch_tokens": 8192, "neighbours": 1},
        {"same_source": False, "gradient_cache": True},
    ],
)
def test_neither_the_order_of_lines_nor_the_batches_change_a_score(
    recipe: Recipe, tmp_path: Path, batches: dict[str, object]
) -> None:
    plain = starting(recipe, dropout=0.0)
    pairs = tmp_path / "data" / "pairs.jsonl"
    lines = pairs.read_text(encoding="utf-8").splitlines()
    lines.append(json.dumps({"query": "a long one", "pos": ["bread and coffee " * 7], "neg": []}))
    # the title of a passage on one of its lines only, wherever that is
    first = json.loads(lines[0])
    lines[:3] = [json.dumps(json.loads(line) | {"title": ""}) for line in lines[:3]]
    lines[1] = json.dumps(json.loads(lines[1]) | {"title": first["title"]})
    pairs.write_text("\n".join(lines), encoding="utf-8")
    wanted = scores_of(plain, tmp_path)
    random.Random(4).shuffle(lines)
    pairs.write_text("\n".join(lines[:20]), encoding="utf-8")
    (tmp_path / "data" / "more.jsonl").write_text("\n".join(lines[20:]), encoding="utf-8")
    other = replace(plain, batches=replace(plain.batches, **batches))
    found = scores_of(other, tmp_path)
    common = wanted.keys() & found.keys()
    assert len(common) > 300
    assert any(passage.startswith(f"{first['title']}\n") for _, _, passage in common)
    for key in common:
        assert found[key] == pytest.approx(wanted[key], abs=1e-5), key
