"""A cross-encoder that judges (query, passage) pairs: it reads both texts at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from m3search.errors import ArtifactError, ConfigError
from m3search.model.checkpoint import load_tokenizer, quiet_transformers
from m3search.model.damage import reading
from m3search.model.device import best_device, best_dtype, parse_dtype
from m3search.model.layout import count_positions
from m3search.model.resolve import resolve
from m3search.model.tokenization import Ids, pad
from m3search.records import FloatArray
from m3search.training.encoding import Parts

MAX_LENGTH = 512
"""tokens of query and passage together, as FlagEmbedding's rerankers are used by default"""
SHORTEST = 8
"""tokens below which no pair makes sense"""
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}


class Reranker:
    """A sequence classifier with one logit, such as BAAI/bge-reranker-v2-m3, on one device."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        max_length: int = MAX_LENGTH,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.dtype = dtype
        self.max_length = max_length
        self._tokenizer = tokenizer
        self._model = cast(Any, model)
        self._model.eval().to(self.device)

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        max_length: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> Reranker:
        """The reranker of a folder or a hub name.

        max_length: tokens of a pair, by default 512 or what the model has positions for; longer
        pairs lose tokens of the longer text. device and dtype as for `Encoder.load`.
        Raises ArtifactError for a bad checkpoint, ConfigError for a bad setting.
        """
        _, folder = resolve(name, "reranker")
        model = _load_classifier(folder)
        positions = count_positions(model.config.to_dict())
        length = min(MAX_LENGTH, positions) if max_length is None else max_length
        if not SHORTEST <= length <= positions:
            raise ConfigError(
                "max_length",
                expected=f"{SHORTEST} to {positions} tokens for {name}",
                found=str(length),
                remedy="Choose a length in this range.",
            )
        place = torch.device(device) if device is not None else best_device()
        precision = best_dtype(place) if dtype is None else parse_dtype(dtype)
        tokenizer = load_tokenizer(folder)
        return cls(model, tokenizer, max_length=length, device=place, dtype=precision)

    def score(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """(n,) float32 in 0 to 1: how likely each passage is to answer its query, as the sigmoid
        of the logit."""
        probabilities: FloatArray = torch.from_numpy(self.logits(pairs)).sigmoid().numpy()
        return probabilities

    def logits(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """(n,) float32, unbounded: the logits of (query, passage) pairs, in their order.

        Pairs are sorted by length and batched by padded tokens, which changes no logit beyond
        rounding.
        """
        logits = np.zeros(len(pairs), np.float32)
        if not len(pairs):
            return logits
        read = self._tokenizer(
            [query for query, _ in pairs],
            [passage for _, passage in pairs],
            truncation="longest_first",
            max_length=self.max_length,
            padding=False,
            return_attention_mask=False,
        )
        ids = [np.asarray(each, np.int64) for each in read["input_ids"]]
        types = [np.asarray(each, np.int64) for each in read.get("token_type_ids", [])]
        order = np.argsort([-len(each) for each in ids], kind="stable")
        budget = _BATCH_TOKENS.get(self.device.type, _BATCH_TOKENS["cpu"])
        parts = Parts.on(self.device, budget)
        for start, end in parts.cut([ids[row] for row in order]):
            rows = order[start:end]
            some = [types[row] for row in rows] if types else None
            logits[rows] = self._classify([ids[row] for row in rows], some)
        return logits

    @torch.inference_mode()
    def _classify(self, ids: Sequence[Ids], types: Sequence[Ids] | None) -> FloatArray:
        padded, mask = pad(ids, int(self._tokenizer.pad_token_id or 0))
        inputs = {"input_ids": padded, "attention_mask": mask.astype(np.int64)}
        if types is not None:
            inputs["token_type_ids"] = pad(types, 0)[0]
        tensors = {name: torch.from_numpy(each).to(self.device) for name, each in inputs.items()}
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=half):
            logits = self._model(**tensors).logits
        return cast(FloatArray, logits[:, 0].float().cpu().numpy())


def _load_classifier(folder: Path) -> PreTrainedModel:
    """The classifier of a folder in float32, every weight of it read from the file."""
    with (
        reading(
            folder,
            expected="a Hugging Face sequence classifier (config.json with its weights)",
            remedy="Give a reranker such as BAAI/bge-reranker-v2-m3, or copy it again.",
        ),
        quiet_transformers(),  # what is missing is told below
    ):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    missing = sorted(report["missing_keys"])
    if model.config.num_labels != 1 or missing:
        labels = f"{model.config.num_labels} labels"
        raise ArtifactError(
            str(folder),
            expected="a classifier with one label, and all of its weights",
            found=f"no {', '.join(missing[:3])}" if missing else labels,
            remedy="Give a reranker such as BAAI/bge-reranker-v2-m3; this is another model.",
        )
    return cast(PreTrainedModel, model)
