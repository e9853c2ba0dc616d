"""The encoder that an index was made with: found again, and told from others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from m3search.errors import ArtifactError, M3Error
from m3search.records import ModelIdentity

if TYPE_CHECKING:
    from m3search.encoder import Encoder
    from m3search.model.backend import Backend


def load_encoder(
    made_by: ModelIdentity, name: str | Path | None = None, backend: Backend = "torch"
) -> Encoder:
    """The encoder that made an index, from its old place or, if it has moved, from `name`."""
    from m3search.encoder import Encoder  # brings in torch, the slowest import there is

    place = made_by.name if name is None else name
    try:
        encoder = Encoder.load(
            place, max_length=made_by.max_length, mcls=made_by.mcls, backend=backend
        )
    except M3Error as error:
        raise ArtifactError(
            f"model {place}",
            expected="the model that made the index",
            found=f"none that loads ({error})",
            remedy="Put it back, or say where it is now: --model FOLDER, in Python "
            "Searcher(index, Encoder.load(FOLDER)).",
        ) from error
    check_identity(encoder.identity, made_by)
    return encoder


def check_identity(found: ModelIdentity, expected: ModelIdentity) -> None:
    """ArtifactError unless both make comparable vectors; the maximum length may differ."""

    def key(model: ModelIdentity) -> tuple[str, str, bool]:
        return model.fingerprint, model.pooling, model.mcls

    if key(found) != key(expected):
        raise ArtifactError(
            f"encoder {found.name}",
            expected=f"the model that made the index, {_describe(expected)}",
            found=_describe(found),
            remedy="Load that model, or build the index anew with this one.",
        )


def _describe(model: ModelIdentity) -> str:
    extra = ", mcls" if model.mcls else ""
    return f"{model.name} ({model.fingerprint[:12]}, {model.pooling} pooling{extra})"
