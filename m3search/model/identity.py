"""Which model makes vectors, and how it is used."""

from __future__ import annotations

from pathlib import Path

from m3search.errors import ConfigError
from m3search.model.fingerprints import remembered_fingerprint
from m3search.model.layout import CheckpointInfo
from m3search.model.modeling import M3Model
from m3search.model.words import sparse_columns
from m3search.records import DEFAULT_WEIGHTS, ModelIdentity


def identify(
    name: str, folder: Path, model: M3Model, info: CheckpointInfo, mcls: bool
) -> ModelIdentity:
    """That of a model as it is used: `info` with the maximum length that was asked for."""
    return ModelIdentity(
        name=name,
        fingerprint=remembered_fingerprint(folder),
        dim=model.dim,
        vocabulary=sparse_columns(model.vocabulary, info.word_terms),
        multi_dim=model.multi_dim,
        max_length=info.max_length,
        pooling=info.pooling,
        mcls=mcls,
        fusion_weights=info.fusion_weights or DEFAULT_WEIGHTS,
        word_terms=info.word_terms,
        idf=info.idf,
    )


def check_settings(name: str, info: CheckpointInfo, length: int, mcls: bool) -> None:
    """ConfigError for a length or a use that the model was not made for."""
    if not 3 <= length <= info.max_length:
        raise ConfigError(
            "max_length",
            expected=f"3 to {info.max_length} tokens for {name}",
            found=str(length),
            remedy="Choose a length in this range, or a model trained for longer texts.",
        )
    if mcls and info.pooling != "cls":
        raise ConfigError(
            "mcls",
            expected="a model that pools by its CLS token",
            found=f"{name}, which pools by {info.pooling}",
            remedy="Leave mcls off; mean pooling reads the whole text already.",
        )
