"""`Encoder.load(backend="openvino")`: the same vectors, and errors that say what is missing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from m3search.encoder import Encoder
from m3search.errors import ConfigError
from m3search.model import backend
from m3search.records import Encoded, Kind

needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="the extra m3search[openvino] is not installed"
)
TEXTS = ["", "word", "ein zwei drei " * 60, "Why does honey keep for years?", "天空是蓝色的"]


def difference(a: Encoded, b: Encoded) -> float:
    """The largest of any number of the two."""
    parts = [*zip(a.multi, b.multi, strict=True), (a.dense, b.dense)]
    parts.append((a.sparse.toarray(), b.sparse.toarray()))
    return max(float(np.abs(one - other).max(initial=0)) for one, other in parts)


@needs_openvino
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_documents_are_those_of_torch(tiny_checkpoint: Path, dtype: str, most: float) -> None:
    expected = Encoder.load(tiny_checkpoint, device="cpu", dtype="float32").encode(TEXTS)
    encoder = Encoder.load(tiny_checkpoint, dtype=dtype, backend="openvino")
    assert encoder.device.type == "cpu"
    for budget in (1, 40, 100_000):  # alone, and padded beside longer ones
        assert difference(encoder.encode(TEXTS, batch_tokens=budget), expected) < most


@needs_openvino
def test_the_embedded_model_in_float32_is_that_of_torch() -> None:
    expected = Encoder.load(device="cpu", dtype="float32").encode(TEXTS)
    found = Encoder.load(dtype="float32", backend="openvino").encode(TEXTS)
    assert difference(found, expected) < 1e-5


@needs_openvino
@pytest.mark.parametrize(("kind", "used"), [("document", True), ("query", False)])
def test_queries_are_left_to_torch(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, used: bool
) -> None:
    encoder = Encoder.load(tiny_checkpoint, backend="openvino")
    states, asked = encoder._states, []
    assert states is not None
    monkeypatch.setattr(encoder, "_states", lambda *given: asked.append(1) or states(*given))
    encoder.encode(TEXTS, kind)
    assert bool(asked) == used


@needs_openvino
@pytest.mark.parametrize("dtype", ["float16", "fp16"])
def test_a_precision_that_it_has_not(tiny_checkpoint: Path, dtype: str) -> None:
    with pytest.raises(ConfigError, match=r"expected float32 or bfloat16.*, found float16"):
        Encoder.load(tiny_checkpoint, dtype=dtype, backend="openvino")


def test_without_the_package_the_error_names_the_extra(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'm3search\[openvino\]'"):
        Encoder.load(tiny_checkpoint, backend="openvino")


def test_it_computes_on_the_processor_alone(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="device: expected cpu"):
        Encoder.load(tiny_checkpoint, device="cuda", backend="openvino")


def test_another_backend_is_not_guessed(tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'openvino'"):
        Encoder.load(tiny_checkpoint, backend="openvin")  # type: ignore[arg-type]
