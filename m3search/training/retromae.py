"""RetroMAE pre-training (arXiv 2205.12035): a masked auto-encoder whose bottleneck is one vector.

The encoder reads a text with 30 % of its words masked. A decoder of one layer rebuilds every token
from the encoder's sentence vector and half of the text, another half for every token ("enhanced
decoding", section 3.3 there), so that the sentence vector has to say what the text says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel

from m3search.errors import ArtifactError
from m3search.model.modeling import Pooling, pool
from m3search.model.tokenization import Ids, pad
from m3search.training.cross_entropy import linear_cross_entropy
from m3search.training.masking import Vocabulary, corrupt, mask_words, word_numbers
from m3search.training.passes import attention_for
from m3search.training.prediction import PredictionHead

_UNCOUNTED = -100
"""Label of a token that is not predicted."""

_SETTINGS = (
    "hidden_size", "num_attention_heads", "intermediate_size", "layer_norm_eps",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range",
)  # fmt: skip


class Masked(NamedTuple):
    """A padded batch of B texts of at most L tokens, with at most M decoder masks for each."""

    encoder_ids: Tensor
    """(B, L) int64, what the encoder reads"""
    labels: Tensor
    """(B, L) int64, the ids that the encoder has to predict, -100 elsewhere"""
    ids: Tensor
    """(B, L) int64, the texts as they are: first and last token special, padding on the right"""
    attention_mask: Tensor
    """(B, L) int64, 1 at tokens, 0 at padding"""
    masks: Tensor
    """(B, M, L) bool, True where a token is hidden from the decoder's rows that use the mask"""
    choice: Tensor
    """(B, L) int64, the mask that the decoder's row of each token uses, below M"""

    def to(self, device: torch.device | str) -> Masked:
        """The same batch on `device`."""
        return Masked(*(tensor.to(device, non_blocking=True) for tensor in self))


class RetroMAELosses(NamedTuple):
    """Scalars in float32."""

    total: Tensor
    """the sum of both others, with their gradients"""
    encoder: Tensor
    decoder: Tensor
    """mean cross-entropies in nats a token, without gradients"""


def make_masked(
    texts: Sequence[Ids],
    vocabulary: Vocabulary,
    rngs: Sequence[np.random.Generator],
    *,
    encoder_share: float = 0.3,
    decoder_share: float = 0.5,
    masks: int = 128,
    width: int | None = None,
) -> Masked:
    """A batch of at least one text, masked anew, each text by the random numbers of its own.

    texts: token ids with their special tokens, no padding. Shares are parts of the tokens that are
    not special, in whole words. Each text gets `masks` decoder masks, or as many as it has tokens,
    and each of its tokens one of them at random. width: tokens to pad to, by default the longest.
    """
    ids, real = pad(texts, vocabulary.pad_id, width)
    corrupted, hidden = ids.copy(), np.zeros(ids.shape, dtype=bool)
    drawn = np.zeros((len(texts), min(masks, max(map(len, texts))), ids.shape[1]), dtype=bool)
    choice = np.zeros(ids.shape, np.int64)
    for row, (text, rng) in enumerate(zip(texts, rngs, strict=True)):
        words = word_numbers(text, vocabulary.starts, vocabulary.special)
        count, own = min(masks, len(text)), slice(len(text))
        hidden[row, own] = mask_words(words, encoder_share, rng)[0]
        drawn[row, :count, own] = mask_words(words, decoder_share, rng, count)
        corrupted[row, own] = corrupt(text, hidden[row, own], vocabulary, rng)
        choice[row, own] = rng.integers(count, size=len(text))
    labels = np.where(hidden, ids, _UNCOUNTED)
    arrays = (corrupted, labels, ids, real.astype(np.int64), drawn, choice)
    return Masked(*map(torch.from_numpy, arrays))


def visible_positions(batch: Masked, start: int, stop: int) -> Tensor:
    """(B, stop - start, L) bool: what the decoder's rows of tokens start..stop - 1 may see.

    Row i sees position 0, which holds the sentence vector, and every token j that its mask does not
    hide, except itself and padding.
    """
    texts = torch.arange(len(batch.ids), device=batch.ids.device)[:, None]
    hidden = batch.masks[texts, batch.choice[:, start:stop]]
    positions = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    own = positions[start:stop, None] == positions
    visible = ~(hidden | own) & batch.attention_mask.bool()[:, None]
    visible[:, :, 0] = True
    return visible


def decoder_labels(batch: Masked) -> Tensor:
    """(B, L) int64: the id of every token but the first and the last of a text, else -100."""
    real = batch.attention_mask.bool()
    inner = functional.pad(real[:, 2:], (1, 1), value=False)  # another token follows, one precedes
    return batch.ids.masked_fill(~inner, _UNCOUNTED)


class DecoderLayer(nn.Module):
    """A layer of BERT (normalised behind each sum) whose queries are not its keys."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        hidden, eps = int(config.hidden_size), float(config.layer_norm_eps)
        self.heads = int(config.num_attention_heads)
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.joined = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=eps)
        self.widened = nn.Linear(hidden, int(config.intermediate_size))
        self.narrowed = nn.Linear(int(config.intermediate_size), hidden)
        self.output_norm = nn.LayerNorm(hidden, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.attention_dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def memorise(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (B, heads, L, width), of what the rows can see: (B, L, hidden)."""
        return self._divide(self.key(memory)), self._divide(self.value(memory))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """(B, R, hidden) states of the rows whose queries (B, R, hidden) are given.

        keys, values from `memorise`; visible (B, R, L) bool, at least one True in a row.
        """
        attended = functional.scaled_dot_product_attention(
            self._divide(self.query(queries)),
            keys,
            values,
            attn_mask=visible[:, None],
            dropout_p=self.attention_dropout.p if self.training else 0.0,
        )
        joined = self.joined(attended.transpose(1, 2).flatten(2))
        states = self.attention_norm(queries + self.dropout(joined))
        changed = self.narrowed(functional.gelu(self.widened(states)))
        return cast(Tensor, self.output_norm(states + self.dropout(changed)))

    def _divide(self, states: Tensor) -> Tensor:
        """(B, heads, R, width) of (B, R, hidden)."""
        return states.view(*states.shape[:2], self.heads, -1).transpose(1, 2)


class RetroMAE(nn.Module):
    """An encoder with what its pre-training needs; only `backbone` is of use afterwards.

    One head predicts for encoder and decoder. The blocks bound the memory and change no result:
    `row_block` decoder rows and `token_block` rows of logits exist at a time.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        *,
        pooling: Pooling = "cls",
        row_block: int = 256,
        token_block: int = 512,
    ) -> None:
        super().__init__()
        _check_family(backbone)
        config = backbone.config
        self.backbone = backbone
        self.pooling: Pooling = pooling
        self.row_block, self.token_block = row_block, token_block
        self.head = PredictionHead(config.hidden_size, self._words, config.layer_norm_eps)
        self.decoder = DecoderLayer(config)
        for module in (*self.head.modules(), *self.decoder.modules()):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.initializer_range)
                nn.init.zeros_(module.bias)

    def forward(self, batch: Masked, tokens: Sequence[float] | None = None) -> RetroMAELosses:
        """The losses of encoder and decoder, their gradients meeting in the backbone.

        tokens: what the sums of each are divided by, the tokens that are predicted where the batch
        is a part of more; without, those of the batch. All tokens are predicted in one call, as
        each call holds a gradient of the word embeddings.
        """
        with attention_for(self.backbone, batch.encoder_ids.shape[1]):
            output = self.backbone(input_ids=batch.encoder_ids, attention_mask=batch.attention_mask)
        states = output[0]
        decoded = self.decode(pool(states, batch.attention_mask, self.pooling), batch)
        labels = torch.stack([batch.labels, decoder_labels(batch)])
        counted = labels != _UNCOUNTED
        counts = counted.sum(dim=(1, 2))
        of_all = counts if tokens is None else torch.tensor(tokens, device=counts.device)
        shares = torch.repeat_interleave(1 / of_all.clamp(min=1), counts)
        total, losses = linear_cross_entropy(
            self.head(torch.stack([states, decoded])[counted]),
            self._words.weight,
            self.head.bias,
            labels[counted],
            shares,
            self.token_block,
        )
        encoder, decoder = torch.split(losses * shares, counts.tolist())
        return RetroMAELosses(total, encoder.sum(), decoder.sum())

    def decode(self, sentence: Tensor, batch: Masked) -> Tensor:
        """(B, L, hidden) states from which the head predicts each token; sentence (B, hidden).

        Queries are the sentence vector with the position of each token; keys and values the
        sentence vector, then the embeddings of the text from its second token on.
        """
        texts = self._embed(input_ids=batch.ids)
        memory = torch.cat([sentence[:, None], texts[:, 1:]], dim=1)
        keys, values = self.decoder.memorise(memory)
        queries = self._queries(sentence, batch.ids.shape[1])

        def decode_rows(start: int, rows: Tensor) -> Tensor:
            visible = visible_positions(batch, start, start + rows.shape[1])
            return cast(Tensor, self.decoder(rows, keys, values, visible))

        starts = range(0, queries.shape[1], self.row_block)
        blocks = zip(starts, torch.split(queries, self.row_block, dim=1), strict=True)
        decoded = [checkpoint(decode_rows, *block, use_reentrant=False) for block in blocks]
        return torch.cat(decoded, dim=1)

    @property
    def _words(self) -> nn.Embedding:
        return cast(nn.Embedding, self.backbone.get_input_embeddings())

    def _embed(self, **inputs: Tensor) -> Tensor:
        """(B, L, hidden) embeddings, widened where the backbone's are narrower than its states."""
        embedded = cast(nn.Module, self.backbone.embeddings)(**inputs)
        project = getattr(self.backbone, "embeddings_project", nn.Identity())
        return cast(Tensor, project(embedded))

    def _queries(self, sentence: Tensor, length: int) -> Tensor:
        """(B, L, hidden): the embedding module run on the sentence vector in place of each word.

        Where embeddings are narrower than states (ELECTRA) the vector does not fit in there, and
        is added to the projected embedding of its position.
        """
        width = self._words.embedding_dim
        everywhere = sentence[:, None].expand(-1, length, -1)
        if width == sentence.shape[1]:
            return self._embed(inputs_embeds=everywhere)
        nothing = sentence.new_zeros(len(sentence), length, width)
        return everywhere + self._embed(inputs_embeds=nothing)


def _check_family(backbone: PreTrainedModel) -> None:
    """ArtifactError unless the embedding module knows positions and the settings are BERT's."""
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    missing = [name for name in _SETTINGS if not hasattr(backbone.config, name)]
    if isinstance(table, nn.Embedding) and not missing:
        return
    raise ArtifactError(
        f"the encoder ({backbone.config.model_type})",
        expected="one of the BERT family, whose embeddings hold learned positions",
        found=f"no {', '.join(missing) or 'table of positions in its embeddings'}",
        remedy="RetroMAE's decoder needs them: start from another encoder or leave this stage out.",
    )
