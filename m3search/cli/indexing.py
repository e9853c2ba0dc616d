"""`m3search index`: a corpus becomes an index, or is added to one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from m3search.cli.options import (
    DEFAULT_INDEX,
    BackendOption,
    IndexOption,
    JsonOption,
    MaxLengthOption,
    ModelOption,
)
from m3search.cli.output import (
    print_fields,
    print_json,
    print_note,
    progress_bar,
    readable_bytes,
)
from m3search.cli.reading import Skipped, count_lines, noting
from m3search.cli.storing import Settings, check_settings, checked_template, parse_chunk
from m3search.errors import ArtifactError, DataError, M3Error

STREAM = "-"
"""what stands for standard input, and for every other stream, as the source of a build"""

if TYPE_CHECKING:
    from m3search.index import Index
    from m3search.lines import OnError
    from m3search.model.backend import Backend
    from m3search.records import Document


def build_index(
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS",
            help="JSON lines with id and text; .gz and .zst are read as they are, - is standard "
            "input.",
            show_default=False,
        ),
    ],
    index: IndexOption = DEFAULT_INDEX,
    model: ModelOption = None,
    add: Annotated[
        bool,
        typer.Option("--add", help="Add to an index; a document whose id it has is replaced."),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with a build that was interrupted; a finished one is left so."
        ),
    ] = False,
    on_error: Annotated[
        str, typer.Option(metavar="stop|skip", help="At a line that cannot be read.")
    ] = "stop",
    max_length: MaxLengthOption = None,
    title_template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="How title and text are put together; by default '{title}\\n{text}'.",
            show_default=False,
        ),
    ] = None,
    mcls: Annotated[
        bool, typer.Option("--mcls", help="For long texts: a CLS every 256 tokens, averaged.")
    ] = False,
    multi_codec: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How token vectors are stored: fp16, int8, int4 or binary.",
            show_default=False,
        ),
    ] = None,
    multi_pooling: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Token vectors of a document that become one; 1 keeps all.",
            show_default=False,
        ),
    ] = None,
    dense_codec: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="How dense vectors are stored: fp32 or fp16.", show_default=False
        ),
    ] = None,
    sparse_codec: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How lexical weights are stored: fp32, fp16 (off by at most 0.05 %) or log8 "
            "(2.2 %).",
            show_default=False,
        ),
    ] = None,
    chunk: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS[:OVERLAP]",
            help="Cut documents into passages; each document is found by its best one.",
            show_default=False,
        ),
    ] = None,
    backend: BackendOption = "torch",
    json: JsonOption = False,
) -> None:
    """Build an index of a corpus, or add to one."""
    from m3search.corpus import read_corpus
    from m3search.model.backend import check_backend

    started = time.perf_counter()
    check_backend(backend)
    if resume and add:
        raise typer.BadParameter("does not go with --add", param_hint="--resume")
    skipped = Skipped()
    documents = read_corpus(corpus, on_error=cast("OnError", on_error), report=skipped.add)
    documents = noting(documents)
    layout = {
        "title_template": checked_template(title_template),
        "multi_codec": multi_codec,
        "multi_pooling": multi_pooling,
        "dense_codec": dense_codec,
        "sparse_codec": sparse_codec,
        **parse_chunk(chunk),
    }
    given = {name: value for name, value in layout.items() if value is not None}
    settings = Settings(model, max_length, mcls, given, cast("Backend", backend))
    if resume and (finished := _find_finished(index, corpus, settings)) is not None:
        unread = ", and nothing read" if finished.manifest.source == STREAM else ""
        print_note(f"the build of {index} is finished: nothing was done{unread}")
        _print_summary(finished, 0, time.perf_counter() - started, json)
        return
    try:
        if add:
            built = _add(index, corpus, documents, settings)
        else:
            built = _build(index, corpus, documents, settings, resume)
    except (KeyboardInterrupt, DataError):
        print_note(f"stopped: {_describe_state(index, add, corpus)}")
        raise
    _print_summary(built, skipped.number, time.perf_counter() - started, json)


def _build(
    path: Path, corpus: str, documents: Iterator[Document], settings: Settings, resume: bool
) -> Index:
    """A new index, or an interrupted one gone on with; that of a stream if `resume` says so."""
    from m3search.stores.commit import WriteLock, check_folder, check_unfinished, read_manifest
    from m3search.stores.manifest import MANIFEST, Layout

    layout = Layout()
    source = _name_source(corpus)
    check_folder(path)  # what is wrong is said before a model is loaded for nothing
    if (path / MANIFEST).exists():
        manifest = read_manifest(path)
        if not manifest.complete:  # interrupted, or still being built: then that is the matter
            WriteLock(path).release()
        if not manifest.complete and not manifest.is_blank:
            layout = manifest.layout
        check_unfinished(path, manifest, layout._replace(**settings.layout), source)
        if source == STREAM and not (manifest.is_blank or resume):
            raise ArtifactError(
                str(path),
                expected="--resume, to go on with a build of standard input",
                found="a build of standard input that was interrupted, of this or of another one",
                remedy="Give --resume with the same input; what it no longer has is deleted. For "
                "another one give another folder with --index.",
            )
    from m3search.encoder import Encoder
    from m3search.index import Index

    encoder = Encoder.load(
        settings.model,
        max_length=settings.max_length,
        mcls=settings.mcls,
        backend=settings.backend,
    )
    with progress_bar("documents", count_lines(corpus), what="indexing") as step:
        return Index.build(
            path,
            documents,
            encoder,
            **layout._replace(**settings.layout)._asdict(),
            source=source,
            progress=step,
        )


def _find_finished(path: Path, corpus: str, settings: Settings) -> Index | None:
    """The index at the path if it is a finished one of this corpus; ConfigError or, for another
    model, ArtifactError where it was made in another way."""
    from m3search.stores.commit import read_manifest
    from m3search.stores.manifest import MANIFEST

    if not (path / MANIFEST).exists():
        return None
    manifest = read_manifest(path)
    if not manifest.complete or manifest.source != _name_source(corpus):
        return None
    from m3search.index import Index
    from m3search.stores.intake import BuildReport

    check_settings(settings, manifest)
    if settings.model is not None:
        from m3search.origin import load_encoder

        load_encoder(manifest.model, settings.model)  # only what it holds tells one from another
    index = Index.open(path)
    index.report = BuildReport(truncated=manifest.truncated, segments=len(manifest.segments))
    return index


def _name_source(corpus: str) -> str:
    """What the index keeps as its source: the full path of a file, - for a stream."""
    return str(Path(corpus).resolve()) if Path(corpus).is_file() else STREAM


def _add(path: Path, corpus: str, documents: Iterator[Document], settings: Settings) -> Index:
    """An index with the documents added, encoded as its others were."""
    from m3search.index import Index

    index = Index.open(path)
    made = index.manifest.model
    check_settings(settings, index.manifest)
    from m3search.origin import load_encoder

    encoder = load_encoder(made, settings.model, settings.backend)
    with progress_bar("documents", count_lines(corpus), what="adding") as step:
        index.add(documents, encoder, progress=step)
    return index


def _describe_state(path: Path, add: bool, corpus: str) -> str:
    from m3search.index import Index

    try:
        committed = len(Index.open(path))
    except M3Error:
        committed = 0
    if not committed:
        return "nothing is committed yet"
    again = " with --resume" if _name_source(corpus) == STREAM else ""
    rest = "" if add else f"; the same command{again} goes on from there"
    return f"{committed} documents are committed in {path}{rest}"


def _print_summary(index: Index, skipped: int, seconds: float, json: bool) -> None:
    report = index.report
    sizes = index.bytes_by_store()
    if json:
        print_json(
            {
                "index": str(index.path),
                "documents": len(index),
                "skipped": skipped,
                "truncated": report.truncated,
                "segments": len(index.manifest.segments),
                "seconds": round(seconds, 3),
                "bytes": sizes,
                "deleted": report.deleted,
            }
        )
        return
    notes = {
        "replaced": report.replaced,
        "kept from before": report.unchanged,
        "no longer there": report.deleted,
    }
    rate = report.documents / max(report.seconds, 1e-9)
    print_fields(
        {
            "index": index.path,
            "documents": len(index),
            "encoded": f"{report.documents} ({rate:.1f} documents/s)",
            **{name: count for name, count in notes.items() if count},
            "skipped": skipped,
            "truncated": f"{report.truncated} at {index.manifest.model.max_length} tokens",
            "segments": len(index.manifest.segments),
            "seconds": f"{seconds:.1f}",
            "bytes": ", ".join(f"{name} {readable_bytes(size)}" for name, size in sizes.items()),
        }
    )
