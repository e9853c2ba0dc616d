"""`M3Model`: a Hugging Face encoder with the three heads of M3; it knows nothing of text.

The maths is that of arXiv 2402.03216v4, section 3.2, with the choices of the reference
implementation: the first token gives no token vector, the separator does, and token vectors and
dense vectors are normalised while lexical weights are not.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from m3search.model.attention import ready_attention

Pooling = Literal["cls", "mean"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


class Outputs(NamedTuple):
    """What one forward pass gives for a padded batch of B texts of L tokens."""

    dense: Tensor
    """(B, hidden) unit rows"""
    weights: Tensor
    """(B, L) lexical weight of each position, >= 0; special tokens and padding not yet left out"""
    vectors: Tensor
    """(B, L - 1, multi_dim) unit rows from the second token on; zero rows at padding"""


class M3Model(nn.Module):
    """Backbone + lexical head (hidden -> 1) + multi-vector head (hidden -> multi_dim).

    The dense head is the pooled hidden state itself: the first token's (`cls`, as in the paper) or
    the mean over all tokens (`mean`).
    """

    def __init__(self, backbone: PreTrainedModel, *, multi_dim: int, pooling: Pooling) -> None:
        super().__init__()
        hidden = int(backbone.config.hidden_size)
        self.backbone = backbone
        self.pooling: Pooling = pooling
        self.sparse_linear = nn.Linear(hidden, 1)
        self.colbert_linear = nn.Linear(hidden, multi_dim)
        # A new lexical head starts as plain term matching: every term alive with the same weight,
        # of a size at which matches neither vanish nor saturate under the training temperature.
        nn.init.normal_(self.sparse_linear.weight, std=0.1 / hidden)
        nn.init.constant_(self.sparse_linear.bias, 0.2)

    @property
    def dim(self) -> int:
        """Length of a dense vector."""
        return int(self.colbert_linear.in_features)

    @property
    def multi_dim(self) -> int:
        """Length of a token vector."""
        return int(self.colbert_linear.out_features)

    @property
    def vocabulary(self) -> int:
        """Columns of the sparse mode."""
        return int(self.backbone.config.vocab_size)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, cls_mask: Tensor | None = None
    ) -> Outputs:
        """Dense, lexical and token representations of a padded batch.

        input_ids, attention_mask (B, L) int64; cls_mask (B, L) bool marks the inserted CLS tokens
        of MCLS (same paper, appendix B.2), whose mean state replaces the pooling.
        The heads run in float32 whatever the backbone's precision.
        """
        with ready_attention(input_ids.device):
            states = self.backbone(input_ids=input_ids, attention_mask=attention_mask)[0].float()
        return self.represent(states, attention_mask, cls_mask)

    def represent(
        self, states: Tensor, attention_mask: Tensor, cls_mask: Tensor | None = None
    ) -> Outputs:
        """What `forward` makes of the states (B, L, hidden) of a backbone, in float32."""
        if cls_mask is None:
            pooled = pool(states, attention_mask, self.pooling)
        else:
            pooled = pool(states, cls_mask, "mean")
        with torch.autocast(states.device.type, enabled=False):
            return Outputs(
                functional.normalize(pooled, dim=-1),
                torch.relu(self.sparse_linear(states)).squeeze(-1),
                self._token_vectors(states, attention_mask),
            )

    def _token_vectors(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        vectors = self.colbert_linear(states[:, 1:])
        vectors = vectors * attention_mask[:, 1:, None].to(vectors.dtype)
        return functional.normalize(vectors, dim=-1)


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """(B, hidden) sentence vectors of states (B, L, hidden): the first one, or the mean of those
    that the mask (B, L), 0 and 1, counts."""
    if pooling == "cls":
        return states[:, 0]
    kept = mask.to(states.dtype).unsqueeze(-1)
    return (states * kept).sum(dim=1) / kept.sum(dim=1)
