"""Where the files of a set lie in its folder: BEIR's layout, FlagEmbedding's or TREC's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m3search.errors import DataError
from m3search.evaluation.suite import EvaluationSet, check_folder
from m3search.lines import find_file

TOPICS = ("topics.{split}.tsv", "topics.{split}.txt")
LAYOUTS = (
    ("qrels/{split}.tsv", ("queries.jsonl",)),  # BEIR
    ("{split}_qrels.jsonl", ("{split}_queries.jsonl",)),  # FlagEmbedding, of one's own sets
    ("qrels.{split}.txt", TOPICS),  # TREC
    ("qrels.{split}.tsv", TOPICS),
    ("answers.jsonl", ("queries.jsonl",)),  # questions, with answers in place of judgements
)
"""the judgements by which a layout is known, and the queries that it has"""
SHOWN = 8


@dataclass(frozen=True)
class SetFiles:
    """The files of a set; each is there, plain or compressed."""

    corpus: Path
    queries: Path
    judgements: Path
    has_answers: bool
    """whether the judgements are answers to questions, and not qrels"""


def find_set_files(wanted: EvaluationSet) -> SetFiles:
    """The files that a set names, and otherwise those of the first layout whose judgements are in
    its folder; DataError for one that is not there."""
    folder = check_folder(wanted).path
    judgements, names = _find_judgements(folder, wanted)
    answers = bool(wanted.answers) or judgements.name.startswith("answers.jsonl")
    return SetFiles(
        corpus=_find(folder, (wanted.corpus,), wanted),
        queries=_find(folder, (wanted.queries,) if wanted.queries else names, wanted),
        judgements=judgements,
        has_answers=answers and not wanted.qrels,
    )


def find_texts(folder: Path, split: str) -> tuple[Path, Path] | None:
    """The files of queries and documents in a set's folder; None where one of them is not there.

    Of several files of queries it is that of the layout whose judgements are there, too.
    """
    judged = [names for judgements, names in LAYOUTS if find_file(folder, _of(judgements, split))]
    layouts = [*judged, *(names for _, names in LAYOUTS)]
    found = [find_file(folder, _of(name, split)) for names in layouts for name in names]
    queries = next((path for path in found if path), None)
    corpus = find_corpus(folder)
    return (queries, corpus) if queries and corpus else None


def find_corpus(folder: Path) -> Path | None:
    """The file of documents in a set's folder, named alike in every layout."""
    return find_file(folder, EvaluationSet(folder).corpus)


def _of(name: str, split: str) -> str:
    return name.replace("{split}", split)


def _find_judgements(folder: Path, wanted: EvaluationSet) -> tuple[Path, tuple[str, ...]]:
    """The file of judgements, and the names that the queries of its layout can have."""
    if named := wanted.qrels or wanted.answers:
        every = dict.fromkeys(name for _, names in LAYOUTS for name in names)
        return _find(folder, (named,), wanted), tuple(every)
    for name, queries in LAYOUTS:
        if found := find_file(folder, _of(name, wanted.split)):
            return found, queries
    return _find(folder, tuple(name for name, _ in LAYOUTS), wanted), ()


def _find(folder: Path, names: tuple[str, ...], wanted: EvaluationSet) -> Path:
    """The first of the files that is there."""
    written = [_of(name, wanted.split) for name in names]
    for name in written:
        if path := find_file(folder, name):
            return path
    there = sorted(
        path.relative_to(folder).as_posix()
        for place in (folder, folder / "qrels")
        if place.is_dir()
        for path in place.iterdir()
        if path.is_file()
    )
    more = ", ..." if len(there) > SHOWN else ""
    raise DataError(
        folder / written[0],
        expected=f"{' or '.join(written)}, plain or as .gz or .zst",
        found=f"only {', '.join(there[:SHOWN])}{more}" if there else "nothing there",
        remedy="Name the file or the split: --set corpus=FILE, queries=FILE, qrels=FILE or "
        "split=NAME.",
    )
