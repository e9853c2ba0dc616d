"""How dense vectors are stored: in 32 or in 16 bits a number, in files that FAISS reads itself."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from m3search.errors import ConfigError

_wrapped: Any = faiss  # its type stubs know only the C++ signatures


@dataclass(frozen=True)
class Floats:
    """One way to store vectors; a store of it keeps no number more exactly than its dtype can."""

    name: str
    kind: str
    """of the store, in the manifest"""
    dtype: str
    header: int
    """bytes before the vectors"""
    index: str
    """the class in FAISS"""

    def header_of(self, dim: int, rows: int) -> bytes:
        """What FAISS writes before that many vectors."""
        one = self._empty(dim)
        one.add(np.zeros((1, dim), dtype=np.float32))
        held = bytes(faiss.serialize_index(one))
        size = np.dtype(self.dtype).itemsize * dim
        header = bytearray(held[: len(held) - size])
        if len(header) != self.header or struct.unpack_from("<q", header, 8) != (1,):
            raise RuntimeError(f"this FAISS writes {self.index} in an unknown layout")
        (unit,) = struct.unpack_from("<Q", header, self.header - 8)  # numbers, or bytes of codes
        struct.pack_into("<q", header, 8, rows)
        struct.pack_into("<Q", header, self.header - 8, unit * rows)
        return bytes(header)

    def _empty(self, dim: int) -> Any:
        if self.dtype == "<f4":
            return _wrapped.IndexFlatIP(dim)
        kinds = _wrapped.ScalarQuantizer
        return _wrapped.IndexScalarQuantizer(dim, kinds.QT_fp16, _wrapped.METRIC_INNER_PRODUCT)


FP32 = Floats("fp32", "flat", "<f4", 45, "IndexFlatIP")
FP16 = Floats("fp16", "flat-fp16", "<f2", 81, "IndexScalarQuantizer")
FLOATS = {each.name: each for each in (FP32, FP16)}
"""by name"""
BY_KIND = {each.kind: each for each in FLOATS.values()}


def find_floats(name: str) -> Floats:
    """The way of that name, or ConfigError."""
    if name not in FLOATS:
        raise ConfigError.unknown("dense codec", name, tuple(FLOATS))
    return FLOATS[name]
