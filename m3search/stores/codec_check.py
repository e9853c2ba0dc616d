"""What a codec keeps of an index's own vectors, measured on a sample of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from m3search.records import FloatArray
from m3search.scoring import maxsim
from m3search.stores.codecs import Codec, decode_vectors, encode_vectors
from m3search.stores.manifest import CodecCheck

SAMPLE_TEXTS = 64
SAMPLE_VECTORS = 128
SAMPLE_QUERIES = 16
QUERY_VECTORS = 32


def check_codec(texts: Sequence[FloatArray], codec: Codec) -> CodecCheck:
    """What the codec keeps of a sample: cosines, and the order that MaxSim gives.

    The first texts serve as queries against all of them. A pair of texts counts as agreeing
    where both scores put it in the same order; equal scores agree only with equal scores.
    """
    sample = [np.asarray(text, dtype=np.float32)[:SAMPLE_VECTORS] for text in texts[:SAMPLE_TEXTS]]
    stored = [decode_vectors(encode_vectors(text, codec)) for text in sample]
    cosines = np.concatenate(
        [_cosines(text, kept) for text, kept in zip(sample, stored, strict=True)] or [np.ones(0)]
    )
    agreement = [
        _same_order(
            np.array([maxsim(query[:QUERY_VECTORS], text) for text in sample]),
            np.array([maxsim(query[:QUERY_VECTORS], text) for text in stored]),
        )
        for query in sample[:SAMPLE_QUERIES]
    ]
    return CodecCheck(
        texts=len(sample),
        vectors=len(cosines),
        mean_cosine=float(cosines.mean()) if len(cosines) else 1.0,
        min_cosine=float(cosines.min()) if len(cosines) else 1.0,
        rank_agreement=float(np.mean(agreement)) if agreement else 1.0,
    )


def _cosines(vectors: FloatArray, stored: FloatArray) -> npt.NDArray[np.float64]:
    a, b = vectors.astype(np.float64), stored.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    kept = norms > 0
    cosines: npt.NDArray[np.float64] = (a * b).sum(axis=1)[kept] / norms[kept]
    return cosines


def _same_order(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Share of the pairs that both score lists put in the same order, 0 to 1."""
    first, second = np.triu_indices(len(a), 1)
    if not len(first):
        return 1.0
    return float(np.mean(np.sign(a[first] - a[second]) == np.sign(b[first] - b[second])))
