"""The passages that `m3search mine` takes negatives from, opened for any mode and for BM25."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from m3search.cli.output import print_note, progress_bar
from m3search.errors import ConfigError

if TYPE_CHECKING:
    from m3search.evaluation.baselines import Implementation
    from m3search.index import Index
    from m3search.records import Document, Mode
    from m3search.training.mining.candidates import CandidateSource

READ = 1000
"""documents of an index that are read at a time"""


@dataclass(frozen=True)
class Pool:
    """Where candidates come from, and how they are retrieved."""

    pairs: tuple[Path, ...]
    """training files, whose own texts are the candidates where no other ones are given"""
    index: Path | None
    corpus: Path | None
    model: str | None
    modes: tuple[Mode, ...] | None
    """None for BM25"""
    weights: tuple[float, ...] | None
    """of dense, sparse and multi, where the modes are several; None for those of a search"""
    max_length: int | None
    """tokens of a text, where an index is made for mining; None for all that the model reads"""
    bm25: str | None
    """which BM25, where it is one"""


def parse_mode(mode: str) -> tuple[Mode, ...] | None:
    """The modes that evaluation knows by the same names; None for BM25."""
    from m3search.evaluation.suite import modes_of

    try:
        return modes_of(mode)
    except ConfigError as error:
        raise _wrong_option("--mode", error) from error


def _wrong_option(option: str, error: ConfigError) -> typer.BadParameter:
    told = f"expected {error.expected}, found {error.found}. {error.remedy}"
    return typer.BadParameter(told, param_hint=option)


def check_pool(pool: Pool) -> None:
    """What would be ignored is a usage error, anything else that is wrong a ConfigError."""
    from m3search.plan import Plan

    if pool.modes is None:
        if pool.weights is not None or pool.max_length is not None:
            option = "--weights" if pool.weights is not None else "--max-length"
            raise typer.BadParameter("BM25 reads all words and weighs no modes", param_hint=option)
        _implementation(pool)
        return
    if pool.bm25 is not None:
        raise typer.BadParameter("goes with --mode bm25 alone", param_hint="--bm25")
    if pool.index is not None and pool.max_length is not None:
        raise typer.BadParameter(
            "an index has its own, which its documents were read to when it was made",
            param_hint="--max-length",
        )
    try:
        Plan.check(1, 1, pool.modes, pool.weights, "exact", "union")
    except ConfigError as error:
        raise _wrong_option("--weights", error) from error


def _implementation(pool: Pool) -> Implementation:
    from m3search.evaluation.baselines import IMPLEMENTATIONS, check_implementation

    name = pool.bm25 or "bm25s"
    if name not in IMPLEMENTATIONS:
        error = ConfigError.unknown("--bm25", name, IMPLEMENTATIONS)
        raise _wrong_option("--bm25", error)
    return check_implementation(name, "--bm25")


def open_source(pool: Pool, stack: ExitStack) -> CandidateSource:
    """The candidates of a pool; an index that is only built for them goes with the stack."""
    if pool.modes is None:
        return _index_words(pool)
    from m3search.search import Searcher
    from m3search.training.mining.candidates import IndexSource

    if pool.index is not None:
        index = _open_index(pool.index)
        made = index.manifest.model
        encoder = _load_encoder(pool.model or made.name, max_length=made.max_length, mcls=made.mcls)
    else:
        documents = _read_documents(pool)  # a path that is wrong is told before the model loads
        encoder = _load_encoder(pool.model, max_length=pool.max_length)
        index = _build_index(documents, encoder, stack)
    return IndexSource(Searcher(index, encoder), pool.modes, pool.weights)


def _index_words(pool: Pool) -> CandidateSource:
    from m3search.corpus import TITLE_TEMPLATE
    from m3search.training.mining.candidates import KeyedText
    from m3search.training.mining.lexical import LexicalSource

    if pool.index is None:
        documents, template = _read_documents(pool), TITLE_TEMPLATE
    else:
        index = _open_index(pool.index)
        documents, template = _live_documents(index), index.manifest.title_template
    passages = {each.id: KeyedText.of(each, template) for each in documents}
    return LexicalSource(passages, _implementation(pool))


def _open_index(path: Path) -> Index:
    from m3search.index import Index

    index = Index.open(path)
    if not index.manifest.complete:
        print_note(f"the build of {path} is not finished: {len(index)} documents so far")
    if index.has_passages:
        raise ConfigError(
            str(path),
            expected="an index of whole documents, which negatives can be taken from",
            found="one of passages",
            remedy="Build one without --chunk, or give the corpus (--corpus).",
        )
    return index


def _build_index(documents: Iterator[Document], encoder: Any, stack: ExitStack) -> Index:
    from m3search.index import Index

    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="m3search-mine-"))
    with progress_bar("documents", what="indexing") as step:
        return Index.build(Path(folder) / "index", documents, encoder, progress=step)


def _read_documents(pool: Pool) -> Iterator[Document]:
    """The documents of the corpus, or the texts of the training files."""
    from m3search.corpus import read_corpus
    from m3search.training.mining.records import gather_texts, read_training_records

    if pool.corpus is not None:
        return read_corpus(pool.corpus)
    return gather_texts(chain.from_iterable(map(read_training_records, pool.pairs)))


def _live_documents(index: Index) -> Iterator[Document]:
    """All documents of an index that are not deleted, in row order."""
    import numpy as np

    for start in range(0, index.rows, READ):
        rows = np.arange(start, min(start + READ, index.rows))
        live = rows[index.rows_of(index.ids(rows)) == rows]
        yield from index.documents(live)


def _load_encoder(name: str | None, **options: Any) -> Any:
    from m3search.encoder import Encoder

    return Encoder.load(name, **options)
