"""Hard negatives mined again with the model in training, and kept for a run that is resumed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from m3search.encoder import Encoder
from m3search.errors import ArtifactError
from m3search.index import Index
from m3search.lines import parse_object, read_records
from m3search.records import Document
from m3search.search import Searcher
from m3search.training.mining.candidates import IndexSource
from m3search.training.mining.negatives import mine
from m3search.training.mining.records import KnownPositives, Record, write_records
from m3search.training.recipe import Refresh
from m3search.training.sources import Corpus, Question

FOLDER = "mined"


def mined_file(folder: Path, step: int) -> Path:
    """Where the negatives that are used from a step on are kept."""
    return folder / FOLDER / f"{step}.jsonl.gz"


def mine_again(corpora: Sequence[Corpus], encoder: Encoder, settings: Refresh, out: Path) -> None:
    """Writes the negatives of every question, in the order of the corpora, into `out`.

    Candidates are all passages of all corpora but those of texts alone, which hold queries, too.
    """
    records = list(_records(corpora))
    known = KnownPositives(records)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="m3search-refresh-") as place:
        index = Index.build(Path(place) / "index", _documents(corpora), encoder)
        source = IndexSource(Searcher(index, encoder), settings.modes, settings.weights)
        mined = mine(records, source, settings.rules, known=known)
        write_records(out, ({"query": each["query"], "neg": each["neg"]} for each in mined))


def with_negatives(corpora: Sequence[Corpus], kept: Path) -> list[Corpus]:
    """The corpora with the negatives of a file in place of theirs; a teacher's scores go, too."""
    lines = read_records(kept, lambda number, line: parse_object(str(kept), number, line))
    return [_replaced(corpus, lines, kept) for corpus in corpora]


def _replaced(corpus: Corpus, lines: Iterator[Record], kept: Path) -> Corpus:
    passages = []
    for passage in corpus.passages:
        questions = []
        for question in passage.questions:
            line = next(lines, {"query": "the end of the file"})
            if line["query"] != question.text:
                raise ArtifactError(
                    str(kept),
                    expected=f"the negatives of {json.dumps(question.text)}",
                    found=json.dumps(line["query"]),
                    remedy="The file is of another training; start without --resume in a new "
                    "folder.",
                )
            questions.append(Question(question.text, tuple(line["neg"])))
        passages.append(passage._replace(questions=tuple(questions)))
    return corpus._replace(passages=tuple(passages))


def _records(corpora: Sequence[Corpus]) -> Iterator[Record]:
    for corpus in corpora:
        for passage in corpus.passages:
            for question in passage.questions:
                yield {"query": question.text, "pos": [passage.text], "title": passage.title}


def _documents(corpora: Sequence[Corpus]) -> Iterator[Document]:
    for number, corpus in enumerate(corpora):
        for row, passage in enumerate(() if corpus.source.texts else corpus.passages):
            yield Document(f"{number}.{row}", passage.text, passage.title)
