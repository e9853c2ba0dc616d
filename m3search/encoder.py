"""`Encoder`: texts in, `Encoded` out, all three modes from one forward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from scipy import sparse as sp
from transformers import PreTrainedTokenizerFast

from m3search.errors import ArtifactError, ConfigError
from m3search.model.backend import Backend
from m3search.model.checkpoint import check_folder, load_checkpoint
from m3search.model.device import best_dtype, choose_device, parse_dtype
from m3search.model.identity import check_settings, identify
from m3search.model.modeling import M3Model
from m3search.model.openvino import OpenVinoStates
from m3search.model.passages import cut_passages
from m3search.model.resolve import resolve
from m3search.model.terms import lexical_matrix, named_weights
from m3search.model.tokenization import Tokenization, pad
from m3search.model.windows import count_characters, cut, windows
from m3search.model.words import WordTable
from m3search.records import (
    MODES,
    Encoded,
    FloatArray,
    Kind,
    Mode,
    ModelIdentity,
    Token,
)
from m3search.scoring import check_pair_weights, pair_scores

QUERY_MAX_LENGTH = 512
"""Queries are cut here even by models that read longer documents, as in the reference."""
_BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}

Progress = Callable[[int], None]
"""Called with the number of texts done since the last call."""


class Encoder:
    """An M3 model with its tokenizer, on one device, at one precision; safe to share by threads."""

    def __init__(
        self,
        model: M3Model,
        tokenizer: PreTrainedTokenizerFast,
        identity: ModelIdentity,
        *,
        device: torch.device,
        dtype: torch.dtype,
        modes: Sequence[Mode] = MODES,
        states: OpenVinoStates | None = None,
    ) -> None:
        """states: computes the backbone's states of documents in place of the model."""
        self.identity = identity
        self.modes = tuple(modes)
        """what it encodes for; the others stay empty: no terms, no token vectors"""
        self.device = device
        self.dtype = dtype
        backend = "" if states is None else " openvino"
        self.precision = f"{device.type} {str(dtype).removeprefix('torch.')}{backend}"
        """what documents are computed on and in, as "cpu float32": it may change their vectors"""
        self.model = model.eval().to(device)
        self._states = states
        words = WordTable.made_for(identity.word_terms, tokenizer, model.vocabulary)
        self._tokenization = Tokenization(tokenizer, words)
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        name: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        max_length: int | None = None,
        mcls: bool = False,
        modes: Sequence[Mode] = MODES,
        pooling: str | None = None,
        backend: Backend = "torch",
    ) -> Encoder:
        """The encoder of a checkpoint.

        name: None for the embedded m3-mini, a folder, or a hub name such as ``BAAI/bge-m3``.
        device: None takes a GPU where there is one. dtype: what documents are computed in, such as
        "float32"; None takes bfloat16 where the device has it, else float32. Queries are computed
        in float32, so that their vectors do not depend on what is encoded beside them, and so are
        all heads.
        max_length: tokens per text, at most what the model was made for (the default). mcls: a CLS
        every 256 tokens, their mean state as dense vector (arXiv 2402.03216v4, appendix B.2); for
        models with CLS pooling.
        modes: those that the checkpoint must have the heads of; ("dense",) takes any encoder, for
        an evaluation. Others may be missing, and are left out of what it encodes for. An index
        needs all. pooling: "cls" or "mean" in place of what the checkpoint says, and needed where
        it says nothing.
        backend: what computes documents; "openvino" does so on the CPU, with the extra of that
        name, and leaves queries to torch.
        Raises ArtifactError for a bad checkpoint, ConfigError for a bad setting.
        """
        canonical, folder = resolve(name)
        model, tokenizer, info = load_checkpoint(folder, modes, pooling)
        heads = check_folder(folder, modes)
        length = info.max_length if max_length is None else max_length
        check_settings(canonical, info, length, mcls)
        place = choose_device(device, backend)
        identity = identify(canonical, folder, model, replace(info, max_length=length), mcls)
        precision = best_dtype(place) if dtype is None else parse_dtype(dtype)
        there = [mode for mode in MODES if mode == "dense" or mode in heads]
        states = OpenVinoStates(model.backbone, precision) if backend == "openvino" else None
        return cls(
            model, tokenizer, identity, device=place, dtype=precision, modes=there, states=states
        )

    def require(self, modes: Iterable[str]) -> None:
        """ArtifactError unless it encodes for all of these modes."""
        _check_modes(self, list(modes))

    def encode(
        self,
        texts: Sequence[str],
        kind: Kind = "document",
        *,
        batch_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> Encoded:
        """All texts, in their order.

        kind: a query is cut at 512 tokens even where documents may be longer. batch_tokens: padded
        tokens per forward pass; it changes speed and memory, and no score beyond rounding.
        """
        if isinstance(texts, str):
            raise ConfigError(
                "texts",
                expected="a list of texts",
                found="one text",
                remedy="Put it in a list: encode([text]).",
            )
        parts = list(self.stream(texts, kind, batch_tokens=batch_tokens, progress=progress))
        return Encoded.concatenate(parts) if parts else self._encode_window([], kind, 1, None)

    def stream(
        self,
        texts: Iterable[str],
        kind: Kind = "document",
        *,
        batch_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Encoded]:
        """`encode` for any number of texts: an `Encoded` for each window of them, in order.

        A window is 2,048 texts, or fewer where they are long.
        """
        if kind not in get_args(Kind):
            raise ConfigError.unknown("kind", str(kind), get_args(Kind))
        budget = batch_tokens or _BATCH_TOKENS.get(self.device.type, _BATCH_TOKENS["cpu"])
        for window in windows(texts, count_characters):
            yield self._encode_window(window, kind, budget, progress)

    def tokens(self, text: str, kind: Kind = "document") -> list[Token]:
        """What stands behind each row of `Encoded.multi` for this text, in row order."""
        with self._lock:
            return self._tokenization.tokens(text, self._limit(kind), self.identity.mcls)

    def token_weights(self, tokens: Sequence[Token], terms: Mapping[int, float]) -> list[float]:
        """What each token of a text weighs where the terms of another text have these weights.

        terms: by their columns. It is the Euclidean length of the weight of its piece and of its
        share in that of its word or stem: of n equal shares, too, the length is the whole.
        """
        return self._tokenization.token_weights([token.id for token in tokens], terms)

    def terms(self, text: str, kind: Kind = "document") -> dict[int, str]:
        """What stands behind the columns of `Encoded.sparse` that this text can have a weight in:
        its pieces and, where they are terms, its words of several pieces or its stems."""
        with self._lock:
            return self._tokenization.terms(text, self._limit(kind), self.identity.mcls)

    def passages(self, text: str, tokens: int, overlap: int = 0) -> list[tuple[int, int]]:
        """Characters [start, end) of passages of at most `tokens` tokens that cover the text."""
        with self._lock:
            starts = self._tokenization.starts(text)
        return cut_passages(text, starts, tokens, overlap)

    def knows(self, text: str) -> bool:
        """Whether any piece of the text is in the vocabulary: unknown ones all look the same."""
        pieces = self.tokens(text, "query")[:-1]
        return any(piece.id != self._tokenization.unknown_id for piece in pieces)

    def lexical_weights(
        self, encoded: Encoded, texts: Sequence[str] | None = None, kind: Kind = "document"
    ) -> list[dict[str, float]]:
        """The sparse vector of each text by the names of its terms, the heaviest first.

        texts, kind: what was encoded and as what, where words of several pieces are to have names,
        too, and not only their columns, as "#1234567".
        """
        names = [self.terms(text, kind) for text in texts] if texts else [{}] * len(encoded)
        pieces = self._tokenization.pieces
        return [
            named_weights(encoded.sparse[[row]], known, pieces) for row, known in enumerate(names)
        ]

    def compute_score(
        self,
        pairs: Sequence[tuple[str, str]],
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> dict[str, list[float]]:
        """The scores of (query, document) pairs by the names and rules of FlagEmbedding.

        weights: dense, sparse, multi; finite, from 0 up, not all 0. Keys dense, sparse, colbert,
        sparse+dense, colbert+sparse+dense; each of the two sums is divided by the sum of its
        weights, and is 0 where these are 0. The vectors of a window of pairs are held at a time.
        """
        self.require(MODES)
        check_pair_weights(weights)
        scores: dict[str, list[float]] = {}
        together = windows(pairs, lambda pair: len(pair[0]) + len(pair[1])) if pairs else [[]]
        for window in together:
            queries = self.encode([query for query, _ in window], "query")
            documents = self.encode([document for _, document in window], "document")
            for name, values in pair_scores(queries, documents, weights).items():
                scores.setdefault(name, []).extend(values)
        return scores

    def _limit(self, kind: Kind) -> int:
        length = self.identity.max_length
        return min(length, QUERY_MAX_LENGTH) if kind == "query" else length

    def _encode_window(
        self, texts: list[str], kind: Kind, budget: int, progress: Progress | None
    ) -> Encoded:
        """Texts sorted by length, cut into batches of `budget` padded tokens, put back in order."""
        with self._lock:
            tokenized = self._tokenization.encode(texts, self._limit(kind), self.identity.mcls)
        order = np.argsort([-len(ids) for ids in tokenized.ids], kind="stable")
        empty = sp.csr_array((0, self.identity.vocabulary), dtype=np.float32)
        dense: list[FloatArray] = [np.zeros((0, self.identity.dim), np.float32)]
        sparse, multi = [empty], []
        for rows in cut(order, tokenized, budget):
            batch = self._encode_fitting([tokenized.ids[row] for row in rows], kind)
            dense.append(batch.dense)
            sparse.append(batch.sparse)
            multi.extend(batch.multi)
            if progress:
                progress(len(rows))
        back = np.argsort(order, kind="stable")
        return Encoded(
            np.concatenate(dense)[back],
            sp.csr_array(sp.vstack(sparse, format="csr")[back]),
            [multi[position] for position in back],
            tokenized.truncated,
        )

    def _encode_fitting(self, ids: list[np.ndarray], kind: Kind) -> Encoded:
        """A batch at once or, where the device has no memory for it, in halves."""
        try:
            return self._encode_batch(ids, kind)
        except torch.OutOfMemoryError:
            if len(ids) == 1:
                raise
        half = len(ids) // 2
        return Encoded.concatenate(
            [self._encode_fitting(ids[:half], kind), self._encode_fitting(ids[half:], kind)]
        )

    @torch.inference_mode()
    def _encode_batch(self, ids: list[np.ndarray], kind: Kind) -> Encoded:
        input_ids, mask = pad(ids, self._tokenization.pad_id)
        cls = self._tokenization.cls_mask(input_ids, self.identity.mcls)
        cls_mask = torch.from_numpy(cls).to(self.device) if self.identity.mcls else None
        tensors = (
            torch.from_numpy(input_ids).to(self.device),
            torch.from_numpy(mask.astype(np.int64)).to(self.device),
        )
        if kind == "document" and self._states is not None:
            outputs = self.model.represent(self._states(*tensors), tensors[1], cls_mask)
        else:
            half = kind == "document" and self.dtype != torch.float32
            with torch.autocast(self.device.type, dtype=self.dtype, enabled=half):
                outputs = self.model(*tensors, cls_mask)
        dense, weights, vectors = (tensor.cpu().numpy() for tensor in outputs)
        kept = (mask & ~cls)[:, 1:] & ("multi" in self.modes)
        multi = np.split(vectors[kept], np.cumsum(kept.sum(axis=1))[:-1])
        terms = mask & ~np.isin(input_ids, self._tokenization.special_ids)
        terms &= "sparse" in self.modes
        columns, words = self.identity.vocabulary, self._tokenization.words
        sparse = lexical_matrix(input_ids, weights, terms, columns, words)
        return Encoded(dense, sparse, multi)


def _check_modes(encoder: Encoder, wanted: Sequence[str]) -> None:
    missing = [mode for mode in wanted if mode not in encoder.modes]
    if missing:
        raise ArtifactError(
            f"encoder {encoder.identity.name}",
            expected=f"the modes {', '.join(wanted)}",
            found=f"{', '.join(encoder.modes)} alone",
            remedy=f"Ask for these, or train the heads of {' and '.join(missing)} "
            "(m3search train).",
        )
