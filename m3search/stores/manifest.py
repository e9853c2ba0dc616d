"""What one commit of an index holds: the manifest, to and from JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from m3search.corpus import TITLE_TEMPLATE
from m3search.errors import ArtifactError
from m3search.records import DEFAULT_WEIGHTS, ModelIdentity, without_newer_defaults, word_terms_of
from m3search.stores.files import damaged

FORMAT = "m3search-index"
VERSION = 1
MANIFEST = "manifest.json"
SEGMENTS = "segments"
STORES = ("dense", "sparse", "multi", "documents")


@dataclass(frozen=True)
class FileEntry:
    """One immutable file of a segment."""

    name: str
    size: int
    """bytes"""
    sha256: str


@dataclass(frozen=True)
class StoreEntry:
    """One store of a segment: its kind, and the files that belong to it."""

    kind: str
    files: tuple[FileEntry, ...]
    details: Mapping[str, Any] | None = None
    """how it was written, where that is for a reader to know, and what it was measured to do"""


@dataclass(frozen=True)
class DeletesEntry:
    """The tombstones of a segment at this commit."""

    file: FileEntry
    count: int
    """rows deleted"""
    documents: int | None = None
    """documents deleted, where a row is a passage; else as many as rows"""


@dataclass(frozen=True)
class SegmentEntry:
    """A run of rows that never changes, with the tombstones of this commit beside it."""

    name: str
    rows: int
    truncated: int
    """rows whose text was longer than the encoder's maximum length, and cut"""
    stores: Mapping[str, StoreEntry]
    deletes: DeletesEntry | None = None

    @property
    def live_rows(self) -> int:
        """Rows that are not deleted."""
        return self.rows - (self.deletes.count if self.deletes else 0)

    @property
    def documents(self) -> int:
        """Documents that are not deleted: the live rows, unless these are passages."""
        store = self.stores.get("documents")
        held = (store.details or {}).get("documents") if store else None
        if held is None:
            return self.live_rows
        return int(held) - (self.deletes.documents or 0 if self.deletes else 0)

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """All files of the segment, tombstones included."""
        files = tuple(file for store in self.stores.values() for file in store.files)
        return files + ((self.deletes.file,) if self.deletes else ())


class Layout(NamedTuple):
    """What is stored of a document, the same for all segments."""

    title_template: str = TITLE_TEMPLATE
    """the text that is encoded; {title} and {text} stand for the document's"""
    multi_codec: str = "int4"
    multi_pooling: int = 1
    """token vectors that become one on the mean"""
    sparse_codec: str = "fp32"
    chunk: int = 0
    """most tokens of a passage, where documents are cut into passages; 0 where they are not"""
    chunk_overlap: int = 0
    """tokens that neighbouring passages share"""
    dense_codec: str = "fp32"


DEFAULT_LAYOUT = Layout()


@dataclass(frozen=True)
class CodecCheck:
    """What the multi-vector codec did to a sample of the build's own vectors."""

    texts: int
    vectors: int
    mean_cosine: float
    """between a vector and what is stored of it; 1 is best"""
    min_cosine: float
    rank_agreement: float
    """share of document pairs that MaxSim puts in the same order, 0 to 1"""


@dataclass(frozen=True)
class Manifest:
    """One commit: the model, the segments and every file with its size and checksum."""

    commit: int
    complete: bool
    """False while a build is under way or was interrupted"""
    source: str
    """what the build reads from"""
    model: ModelIdentity
    layout: Layout = DEFAULT_LAYOUT
    segments: tuple[SegmentEntry, ...] = ()
    next_segment: int = 1
    codec_check: CodecCheck | None = None
    weights: tuple[float, float, float] | None = None
    """of dense, sparse and multi in a search that names none; None for those of the model"""

    @property
    def fusion_weights(self) -> tuple[float, float, float]:
        """Of dense, sparse and multi in a search that names none."""
        return self.weights or self.model.fusion_weights

    @property
    def title_template(self) -> str:
        """The text that is encoded of a document."""
        return self.layout.title_template

    @property
    def is_blank(self) -> bool:
        """Whether it is of a build that has no documents yet, or none any more."""
        return not self.complete and not self.segments

    @property
    def documents(self) -> int:
        """Documents that can be found."""
        return sum(segment.documents for segment in self.segments)

    @property
    def live_rows(self) -> int:
        """Rows that are not deleted: as many as documents, unless they are passages."""
        return sum(segment.live_rows for segment in self.segments)

    @property
    def rows(self) -> int:
        """Rows of all segments, deleted ones included."""
        return sum(segment.rows for segment in self.segments)

    @property
    def truncated(self) -> int:
        """Rows of all segments whose text was cut, deleted ones included."""
        return sum(segment.truncated for segment in self.segments)

    def bytes_by_store(self) -> dict[str, int]:
        """Bytes on disk of each store, over all segments."""
        sizes = dict.fromkeys(STORES, 0)
        for segment in self.segments:
            for name, store in segment.stores.items():
                sizes[name] += sum(file.size for file in store.files)
        return sizes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the index holds: layout, files, and the model wherever that lies."""
        model = {name: value for name, value in asdict(self.model).items() if name != "name"}
        files: list[dict[str, list[str]]] = []
        for each in self.segments:
            files.append({name: [f.sha256 for f in s.files] for name, s in each.stores.items()})
            if each.deletes is not None:
                files[-1]["deletes"] = [each.deletes.file.sha256]
        return _fingerprint({"layout": self.layout._asdict(), "model": model, "files": files})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, as in manifest.json but without its own checksum."""
        fields = asdict(self)
        fields["model"] = without_newer_defaults(fields["model"])
        layout = fields.pop("layout")._asdict()
        head = {"format": FORMAT, "version": VERSION}
        sums = {"documents": self.documents, "rows": self.rows, "truncated": self.truncated}
        return {**head, **fields, **layout, **sums}

    def describe(self) -> dict[str, Any]:
        """What is shown of an index: the manifest and the bytes of each store, as plain JSON."""
        return {**self.to_json(), "bytes": self.bytes_by_store()}

    def to_bytes(self) -> bytes:
        """The content of manifest.json."""
        fields = self.to_json()
        fields["sha256"] = _fingerprint(fields)
        return _to_bytes(fields)


def is_as_written(content: bytes) -> bool:
    """Whether the bytes of a manifest are those that writing its content gives: the checksum in it
    tells nothing of white space and of how a character or a number is written."""
    return _to_bytes(json.loads(content)) == content


def _to_bytes(fields: Mapping[str, Any]) -> bytes:
    return (json.dumps(fields, indent=1) + "\n").encode()


def parse_manifest(path: Path, content: bytes) -> Manifest:
    """The manifest in the content of a file; ArtifactError if foreign, newer or damaged."""
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise damaged(path, "JSON", str(error)) from error
    _check_format(path, fields)
    found = _fingerprint({name: value for name, value in fields.items() if name != "sha256"})
    if fields.get("sha256") != found:
        raise damaged(path, f"content of SHA-256 {fields.get('sha256')}", found)
    try:
        return _to_manifest(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__} {error}"
        raise damaged(path, f"the fields of version {VERSION}", what) from error


def _check_format(path: Path, fields: object) -> None:
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ArtifactError(
            str(path),
            expected=f'"format": "{FORMAT}"',
            found="another kind of file",
            remedy="Give the folder of an m3search index.",
        )
    version = fields.get("version")
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        raise ArtifactError(
            str(path),
            expected=f"format version {VERSION}",
            found=f"version {version}",
            remedy="Update m3search to read it." if newer else "Build the index anew.",
        )


def _fingerprint(fields: Mapping[str, Any]) -> str:
    content = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def _to_manifest(fields: Mapping[str, Any]) -> Manifest:
    check, weights = fields["codec_check"], fields.get("weights")  # none before they were settable
    return Manifest(
        commit=int(fields["commit"]),
        complete=bool(fields["complete"]),
        source=str(fields["source"]),
        model=_to_identity(fields["model"]),
        layout=Layout(
            title_template=str(fields["title_template"]),
            multi_codec=str(fields["multi_codec"]),
            multi_pooling=int(fields.get("multi_pooling", 1)),  # the first indexes lack both
            sparse_codec=str(fields.get("sparse_codec", "fp32")),
            chunk=int(fields.get("chunk", 0)),
            chunk_overlap=int(fields.get("chunk_overlap", 0)),
            dense_codec=str(fields.get("dense_codec", "fp32")),
        ),
        segments=tuple(_to_segment(segment) for segment in fields["segments"]),
        next_segment=int(fields["next_segment"]),
        codec_check=None if check is None else CodecCheck(**check),
        weights=None if weights is None else _three(weights),
    )


def _to_identity(fields: Mapping[str, Any]) -> ModelIdentity:
    weights = fields.get("fusion_weights", DEFAULT_WEIGHTS)
    terms = word_terms_of(fields.get("word_terms", "none"))
    if terms is None:
        raise ValueError(f"word_terms {fields['word_terms']!r}")
    return ModelIdentity(**{**fields, "fusion_weights": _three(weights), "word_terms": terms})


def _three(weights: Sequence[Any]) -> tuple[float, float, float]:
    dense, sparse, multi = map(float, weights)
    return dense, sparse, multi


def _to_segment(fields: Mapping[str, Any]) -> SegmentEntry:
    deletes = fields["deletes"]
    if deletes is not None:
        whole = deletes.get("documents")
        file, count = FileEntry(**deletes["file"]), int(deletes["count"])
        deletes = DeletesEntry(file, count, None if whole is None else int(whole))
    return SegmentEntry(
        name=str(fields["name"]),
        rows=int(fields["rows"]),
        truncated=int(fields["truncated"]),
        stores={
            name: StoreEntry(
                store["kind"],
                tuple(FileEntry(**file) for file in store["files"]),
                store.get("details"),  # the first indexes have none
            )
            for name, store in fields["stores"].items()
        },
        deletes=deletes,
    )
