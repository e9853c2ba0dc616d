"""Lexical weights as an index of whole numbers has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from m3search.records import Encoded, Kind, ModelIdentity

if TYPE_CHECKING:
    from m3search.encoder import Encoder

MARK = "-ceil100"
"""at the end of an encoder's fingerprint: its vectors are not those of the model itself"""


class _Ceiled:
    """An encoder whose lexical weights are rounded up to hundredths."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    @property
    def identity(self) -> ModelIdentity:
        """That of the encoder, marked; its whole numbers count as they are, without idf."""
        identity = self._encoder.identity
        return replace(identity, fingerprint=identity.fingerprint + MARK, idf=False)

    def encode(self, texts: Sequence[str], kind: Kind = "document", **options: Any) -> Encoded:
        """All texts, in their order; each lexical weight w is ceil(100 w) / 100."""
        encoded = self._encoder.encode(texts, kind, **options)
        sparse = encoded.sparse.copy()
        sparse.data = np.ceil(np.float32(100) * sparse.data) / np.float32(100)
        return replace(encoded, sparse=sparse)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def ceil_weights(encoder: Encoder) -> Encoder:
    """The encoder with lexical weights ceil(100 w) / 100, of documents and of queries.

    So the inner product of two texts is that of the whole numbers ceil(100 w), over 10,000: what
    arXiv 2402.03216v4 reports was searched with those by Lucene. Its identity differs, so that no
    index of the weights themselves is used for it.
    """
    return cast("Encoder", _Ceiled(encoder))


def model_fingerprint(model: Mapping[str, Any]) -> str:
    """That of the checkpoint, by the identity of an encoder as JSON, however its weights are
    rounded."""
    return str(model.get("fingerprint", "")).removesuffix(MARK)


def lexical_weights_of(model: Mapping[str, Any]) -> str:
    """ "ceil100" or "float", by the identity of an encoder as JSON."""
    return "ceil100" if str(model.get("fingerprint", "")).endswith(MARK) else "float"
