"""The options that say how documents are encoded and stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from m3search.errors import ConfigError

if TYPE_CHECKING:
    from m3search.model.backend import Backend
    from m3search.stores.manifest import Manifest

OPTIONS = {"chunk_overlap": "--chunk, the overlap"}
"""the options that are not named as the fields they set"""


@dataclass(frozen=True)
class Settings:
    """How the documents are to be encoded; None is the default, or what the index has."""

    model: str | None
    max_length: int | None
    mcls: bool
    layout: Mapping[str, Any]
    """what was given of the fields of the index's layout"""
    backend: Backend = "torch"


def check_settings(settings: Settings, manifest: Manifest) -> None:
    """ConfigError for an option that is not as the index was made with."""
    made, has = manifest.model, manifest.layout._asdict()
    for name, given, held in (
        ("max_length", settings.max_length, made.max_length),
        ("mcls", settings.mcls or None, made.mcls),
        *((name, given, has[name]) for name, given in settings.layout.items()),
    ):
        if given is not None and given != held:
            raise ConfigError(
                OPTIONS.get(name, f"--{name.replace('_', '-')}"),
                expected=f"{held!r}, as the index was made with",
                found=repr(given),
                remedy="Leave the option out, or build a new index.",
            )


def parse_chunk(value: str | None) -> dict[str, int]:
    """'256:32' as the fields of the layout."""
    if value is None:
        return {}
    tokens, colon, overlap = value.partition(":")
    try:
        chunk = {"chunk": int(tokens), "chunk_overlap": int(overlap) if colon else 0}
    except ValueError as error:
        raise typer.BadParameter(
            f"expected tokens as 256, or with an overlap as 256:32, found {value!r}",
            param_hint="--chunk",
        ) from error
    return chunk


def checked_template(template: str | None) -> str | None:
    """The template with \\n and \\t as typed in a shell made characters."""
    if template is None:
        return None
    from m3search.corpus import check_template

    return check_template(template.replace("\\n", "\n").replace("\\t", "\t"), "--title-template")
