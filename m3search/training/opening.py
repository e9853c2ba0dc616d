"""What a run says before its first step: its data, its model, where it runs, what cannot help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from torch import nn

from m3search.errors import ConfigError
from m3search.records import MODES
from m3search.training.batching import Sampler
from m3search.training.devices import Devices
from m3search.training.recipe import Recipe
from m3search.training.sources import Corpus, Question


def describe(
    recipe: Recipe, corpora: Sequence[Corpus], sampler: Sampler, model: nn.Module, devices: Devices
) -> Iterator[str]:
    """A line for each source, for files read twice, for the run and each setting without effect."""
    yield from map(_source, corpora)
    yield from _repeated(corpora)
    weights = [each for each in model.parameters() if each.requires_grad]
    trained = sum(each.numel() for each in weights) / 1e6
    total = sum(each.numel() for each in model.parameters()) / 1e6
    yield (
        f"{recipe.stage}: {recipe.optimiser.steps} steps, {sampler.steps_per_epoch} an epoch; "
        f"{trained:,.1f} of {total:,.1f} million weights in {recipe.optimiser.precision} on "
        f"{_count(devices.count, 'process', 'processes')} ({devices.device.type})"
    )
    questions = list(_questions(corpora))
    if recipe.heads and recipe.data.negatives and not any(q.negatives for q in questions):
        yield f"data.negatives = {recipe.data.negatives}, but no line has any: in-batch ones alone"
    if recipe.heads and (alone := sampler.steps_of_one) and not any(q.negatives for q in questions):
        yield f"{alone} of {sampler.steps_per_epoch} steps hold one passage: nothing to learn there"
    if recipe.heads and recipe.losses.teacher != "none" and not any(map(_is_taught, questions)):
        yield f"objective.teacher = {recipe.losses.teacher!r}, but no line has a teacher's scores"


def check_refresh(recipe: Recipe, heads: Collection[str]) -> None:
    """ConfigError where negatives are to be mined by a head that is new and stays untrained.

    heads: modes whose heads the start checkpoint has.
    """
    able = [mode for mode in MODES if mode == "dense" or mode in recipe.heads or mode in heads]
    for mode in recipe.refresh.modes if recipe.refresh else ():
        if mode not in able:
            raise ConfigError(
                "refresh.modes",
                expected=f"modes that are trained (objective.modes) or whose head "
                f"{recipe.start.checkpoint} has: {', '.join(able)}",
                found=f"{mode}, whose head would be random",
                remedy=f"Leave {mode} out, or start from a checkpoint that has its head; stage "
                "finetune can train it, too.",
            )


def check_contrast(recipe: Recipe, corpora: Sequence[Corpus], sampler: Sampler) -> None:
    """ConfigError where the queries of a source meet no passage that is not their own."""
    if not recipe.heads:
        return
    for corpus in corpora:
        if corpus.source.texts:
            continue
        if recipe.data.negatives and any(q.negatives for q in _questions([corpus])):
            continue
        if not corpus.source.in_batch_negatives:
            found = "none of either in " + corpus.name
        elif sampler.most_passages == 1:
            found = f"{_count(len(corpus.passages), 'passage')} in it, one in a step"
        else:
            continue
        raise ConfigError(
            "data.sources",
            expected="two passages in a step, or lines with negatives (data.negatives above 0)",
            found=found,
            remedy="Give more lines, negatives (m3search mine) or larger steps (batches).",
        )


def _source(corpus: Corpus) -> str:
    told = [_count(len(corpus.passages), "passage" if corpus.questions else "text")]
    if corpus.questions:
        told.append(_count(corpus.questions, "query", "queries"))
        found = list(_questions([corpus]))
        told.append(f"{sum(bool(q.negatives) for q in found):,} with negatives")
        told.append(f"{sum(map(_is_taught, found)):,} with a teacher's scores")
    files = f" ({len(corpus.files)} files)" if len(corpus.files) > 1 else ""
    return f"{corpus.name}{files}: {', '.join(told)}"


def _repeated(corpora: Sequence[Corpus]) -> Iterator[str]:
    """A line where sources share files, whose passages count more than others then."""
    read = Counter(name for corpus in corpora for name in corpus.files)
    repeated = [name for name, times in read.items() if times > 1]
    if repeated:
        more = f" and {len(repeated) - 3:,} more" if len(repeated) > 3 else ""
        names = f"{', '.join(repeated[:3])}{more}"
        yield f"data.sources: several read {names}, whose passages come as many times"


def _questions(corpora: Sequence[Corpus]) -> Iterator[Question]:
    return (q for corpus in corpora for passage in corpus.passages for q in passage.questions)


def _is_taught(question: Question) -> bool:
    return question.score is not None


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
