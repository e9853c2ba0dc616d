"""Which recipes imitate a teacher, and what a recipe of them may not say."""

from __future__ import annotations

from typing import Any

import pytest
from test_training_recipe import make_recipe

from m3search.training.recipe import (
    Batches,
    Data,
    Development,
    Distillation,
    Objective,
    Refresh,
    Source,
    Start,
)


def test_a_distillation_has_a_teacher_and_no_objective() -> None:
    taught = Distillation("teacher")
    recipe = make_recipe("distil", distillation=taught)
    assert (recipe.heads, recipe.objective, recipe.pretraining) == ((), None, None)
    assert make_recipe("distil", distillation=taught, development=Development(("x",)))
    with pytest.raises(ValueError, match=r"without distillation\.teacher"):
        make_recipe("distil")
    with pytest.raises(ValueError, match="word_weight = -1, not at least 0"):
        Distillation("teacher", word_weight=-1)
    tables: dict[str, Any] = {"objective": Objective(), "refresh": Refresh(5)}
    for name in tables:
        with pytest.raises(ValueError, match=f"{name} in stage distil"):
            make_recipe("distil", distillation=taught, **{name: tables[name]})
    with pytest.raises(ValueError, match="fix_encoder = true in stage distil"):
        make_recipe("distil", distillation=taught, start=Start("x", fix_encoder=True))


@pytest.mark.parametrize("stage", ["retromae", "contrastive", "finetune"])
def test_a_teacher_and_its_texts_come_together(stage: str) -> None:
    with pytest.raises(ValueError, match=f"distillation in stage {stage}"):
        make_recipe(stage, distillation=Distillation("teacher"))
    with pytest.raises(ValueError, match=f"texts = true of a source in stage {stage}"):
        make_recipe(stage, data=Data((Source("*", texts=True),)))


@pytest.mark.parametrize("stage", ["contrastive", "finetune"])
def test_texts_are_imitated_beside_pairs(stage: str) -> None:
    both = Data((Source("pairs"), Source("texts", texts=True)))
    taught: dict[str, Any] = {"data": both, "distillation": Distillation("teacher")}
    assert make_recipe(stage, **taught).distillation
    with pytest.raises(ValueError, match="same_source = false"):
        make_recipe(stage, **taught, batches=Batches(same_source=False))
    with pytest.raises(ValueError, match="texts = true of all sources"):
        make_recipe(stage, **taught | {"data": Data((Source("texts", texts=True),))})
    with pytest.raises(ValueError, match="with fix_encoder = true"):
        make_recipe("finetune", **taught, start=Start("x", fix_encoder=True))
