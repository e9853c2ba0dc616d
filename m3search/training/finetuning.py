"""One step of contrastive training or fine-tuning: texts in, gradients and metrics out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from m3search.model.modeling import M3Model
from m3search.model.tokenization import Ids, Tokenization
from m3search.records import Mode
from m3search.training.devices import Devices
from m3search.training.drawing import Batch
from m3search.training.encoding import Encoding, Parts, represent
from m3search.training.losses import Losses, TeacherShares, m3_loss
from m3search.training.recipe import Recipe
from m3search.training.representations import Layout, Representations, active_terms, score_mode

Metrics = dict[str, float]


class Texts(NamedTuple):
    """A batch, and this process's part of it as token ids."""

    batch: Batch
    queries: list[Ids]
    passages: list[Ids]


class Scored(NamedTuple):
    """This process's queries with all passages of the step."""

    scores: Mapping[Mode, Tensor]
    """(own queries, P), rows in the order of `rows`, columns as in the batch"""
    rows: Tensor
    """(own queries,) which query of the batch each row is"""
    queries: Encoding
    passages: Encoding
    query_leaves: Representations
    passage_leaves: Representations
    """of all processes"""
    query_layout: Layout
    passage_layout: Layout


class Finetuning:
    """What a step does with the model; every process does its part of the same batch."""

    def __init__(
        self, recipe: Recipe, model: M3Model, tokenization: Tokenization, devices: Devices
    ) -> None:
        self._recipe = recipe
        self._model = model
        self._tokenization = tokenization
        self._devices = devices
        self._modes = recipe.losses.modes

    def read(self, batch: Batch) -> Texts:
        """The texts that this process encodes; nothing else of the step is touched."""
        data, own = self._recipe.data, self._devices.own
        queries = batch.queries[own(len(batch.queries))]
        passages = batch.passages[own(len(batch.passages))]
        return Texts(
            batch,
            self._tokenization.encode(queries, data.query_max_length).ids,
            self._tokenization.encode(passages, data.passage_max_length).ids,
        )

    def accumulate(self, step: int, texts: Texts) -> Metrics:
        """Adds the gradients of the loss of a batch to those of the model; metrics come back.

        The gradients are those of the whole batch's loss, whatever the number of processes and
        forward passes.
        """
        batch, scored = texts.batch, self.score(step, texts)
        losses, share = self._losses(step, batch, scored)
        if len(scored.rows):
            (losses.total * share).backward()  # type: ignore[no-untyped-call]
        scored.queries.backward(_gradients(scored.query_leaves))
        of_all = _gradients(scored.passage_leaves)
        sizes = [len(tensor) for tensor in scored.passages.results]
        own = (self._devices.own_share(g, n) for g, n in zip(of_all, sizes, strict=True))
        scored.passages.backward(Representations(*own))
        self._devices.sum_gradients(self._model)
        with torch.no_grad():
            return self._metrics(batch, scored, losses, share)

    def score(self, step: int, texts: Texts) -> Scored:
        """Scores of this process's queries with the passages of all processes."""
        batch, device = texts.batch, self._devices.device
        own_queries = self._devices.own(len(batch.queries))
        own_passages = self._devices.own(len(batch.passages))
        queries = self._encode(texts.queries, step, "queries")
        passages = self._encode(texts.passages, step, "passages")
        gather = self._devices.gather
        query_layout = self._layout(queries)
        passage_layout = Layout(*map(gather, self._layout(passages)))
        query_leaves = queries.results.as_leaves()
        passage_leaves = Representations(*map(gather, passages.results)).as_leaves()
        numbers = gather(torch.from_numpy(passages.order + own_passages.start).to(device))
        columns = numbers.argsort()
        scores = {
            mode: score_mode(
                mode, query_leaves, query_layout, passage_leaves, passage_layout
            ).index_select(1, columns)
            for mode in self._modes
        }
        rows = torch.from_numpy(queries.order + own_queries.start)
        return Scored(
            scores,
            rows,
            queries,
            passages,
            query_leaves,
            passage_leaves,
            query_layout,
            passage_layout,
        )

    def _layout(self, texts: Encoding) -> Layout:
        tokenization = self._tokenization
        return Layout.of(
            texts.ids, tokenization.special_ids, self._devices.device, tokenization.words
        )

    def _encode(self, ids: Sequence[Ids], step: int, what: str) -> Encoding:
        batches = self._recipe.batches
        seed = step_seed(self._recipe.optimiser.seed, step, self._devices.rank, what)
        parts = Parts.on(self._devices.device, batches.sub_batch_tokens)
        return Encoding(self._forward, ids, parts, cached=batches.gradient_cache, seed=seed)

    def _forward(self, ids: Sequence[Ids]) -> Representations:
        half = self._recipe.optimiser.precision == "bf16"
        with torch.autocast(self._devices.device.type, dtype=torch.bfloat16, enabled=half):
            return represent(self._model, self._tokenization, ids, self._modes)

    def _losses(self, step: int, batch: Batch, scored: Scored) -> tuple[Losses, float]:
        """The loss of this process's queries, and their share of all."""
        objective, device = self._recipe.losses, self._devices.device
        distil = objective.self_distill and step >= objective.self_distill_start_step
        targets, masked, candidates, scores = (
            torch.from_numpy(array[scored.rows.numpy()]).to(device)
            for array in (batch.targets, batch.masked, batch.candidates, batch.teacher_scores)
        )
        teacher = TeacherShares.of(candidates, scores) if candidates.shape[1] else None
        losses = m3_loss(scored.scores, targets, masked, objective, distil=distil, teacher=teacher)
        return losses, len(scored.rows) / len(batch.queries)

    def _metrics(self, batch: Batch, scored: Scored, losses: Losses, share: float) -> Metrics:
        """The means over the whole batch, the same in every process."""
        weights = self._recipe.losses.weights_of("ensemble")
        targets, masked = (
            torch.from_numpy(array[scored.rows.numpy()]).to(self._devices.device)
            for array in (batch.targets, batch.masked)
        )
        named: dict[str, Tensor] = dict(scored.scores.items())
        if len(named) > 1:
            parts = [weights[mode] * score for mode, score in scored.scores.items()]
            named["ensemble"] = torch.stack(parts).sum(dim=0)
        means = losses.named()
        for name, scores in named.items():
            rivals = scores.masked_fill(masked, -torch.inf)
            means[f"accuracy_{name}"] = float((rivals.argmax(dim=1) == targets).float().mean())
        tokens = sum(map(len, [*scored.queries.ids, *scored.passages.ids]))
        if "sparse" in self._modes:
            active = active_terms(scored.query_layout, scored.query_leaves.weights)
            means["active_terms_query"] = float(active.float().mean())
        values = [value * share if share else 0.0 for value in means.values()]
        *summed, tokens_of_all = self._devices.sum([*values, float(tokens)])
        metrics = dict(zip(means, summed, strict=True))
        if "sparse" in self._modes:
            active = active_terms(scored.passage_layout, scored.passage_leaves.weights)
            metrics["active_terms_passage"] = float(active.float().mean())
        return metrics | {"tokens": tokens_of_all}


def step_seed(seed: int, step: int, number: int, what: str) -> int:
    """The random numbers of one part of a step, so that nothing of them has to be saved.

    number: of the process, or of the text, that they are for.
    """
    name = f"{seed}:{step}:{number}:{what}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=6).digest(), "big")


def _gradients(leaves: Representations) -> Representations:
    given = (leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves)
    return Representations(*given)
