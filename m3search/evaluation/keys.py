"""What decides what a corpus and its queries are encoded to, as one key."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from m3search import __version__
from m3search.stores.files import checksum
from m3search.stores.manifest import DEFAULT_LAYOUT

if TYPE_CHECKING:
    from m3search.encoder import Encoder

SOURCES = ("corpus", "encoder.py", "index.py", "lines.py", "model", "records.py", "stores")
"""of the package: what reads a corpus, encodes it and writes the index"""
LIBRARIES = ("numpy", "tokenizers", "torch", "transformers")


def index_key(corpus: Path, template: str, encoder: Encoder) -> str:
    """SHA-256 of all that decides what is in an index, and to what its queries are encoded.

    The corpus by its file, the model by its fingerprint and by how it is used, and the code that
    makes vectors of texts and stores them. Where corpus and model lie is not part of it.
    """
    model = {name: value for name, value in asdict(encoder.identity).items() if name != "name"}
    stored = DEFAULT_LAYOUT._replace(title_template=template)._asdict()
    used = {"precision": encoder.precision, "modes": list(encoder.modes)}
    parts = [checksum(corpus), model, used, stored, code_key()]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def code_key() -> str:
    """SHA-256 of the sources that make an index, and the versions of the libraries below them."""
    package, digest = Path(__file__).parents[1], sha256()
    for name in SOURCES:
        place = package / name
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(path.relative_to(package).as_posix().encode() + b"\0")
            digest.update(path.read_bytes())
    return json.dumps([digest.hexdigest(), __version__, *map(_version, LIBRARIES)])


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # a build under another name
        return ""
