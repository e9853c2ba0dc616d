"""The lines of training files as mining reads and writes them: with every field that they have.

`m3search.training.data` reads the same files for the trainer, which needs fewer of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from m3search.corpus import read_corpus
from m3search.lines import parse_object, read_records
from m3search.records import Document
from m3search.stores.files import write_whole
from m3search.training.data import documents_beside, read_pairs
from m3search.training.keys import id_key, text_key
from m3search.training.mining.candidates import KeyedText

Record = dict[str, Any]
"""a line of a training file: query, pos, neg and any other fields"""


class KnownPositives:
    """Which passages answer which queries, in all training files: about 120 bytes a positive."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._answers: set[bytes] = set()
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Takes in the positives of one line."""
        query = text_key(record["query"])
        self._answers.update(query + name for name in positive_names(record))

    def answers(self, query: bytes, names: Iterable[bytes]) -> bool:
        """Whether a passage of these names is a positive of the query with this key."""
        return any(query + name in self._answers for name in names)


def read_training_records(path: Path) -> Iterator[Record]:
    """The lines of a training file with all their fields; DataError with the line of a bad one.

    Where `pos_id` stands in place of `pos`, the texts and the title of the documents are put in
    beside it, by which the positives are known, too: `mine` leaves the ids out of its lines, which
    need no file of documents beside them.
    """
    beside = documents_beside(path)
    documents = {} if beside is None else {each.id: each for each in read_corpus(beside)}
    lines = read_records(path, partial(parse_object, str(path)), inside="pairs.jsonl")
    for _, record in zip(read_pairs(path), lines, strict=True):  # the trainer's reader checks it
        yield record if "pos" in record else _with_positives(record, documents)


def _with_positives(record: Record, documents: Mapping[str, Document]) -> Record:
    found = [documents[name] for name in _ids_of(record)]
    title = record.get("title") or found[0].title
    texts = {"pos": [each.text for each in found]}
    return {**record, **texts, "title": title} if title else {**record, **texts}


def _ids_of(record: Record) -> list[str]:
    names = record.get("pos_id") or []
    return [str(name) for name in (names if isinstance(names, list) else [names])]


def positives_of(record: Record) -> tuple[Document, ...]:
    """The positives of a line, each with the line's title."""
    title = record.get("title") or ""
    return tuple(Document("", text, title) for text in record.get("pos") or ())


def negatives_of(record: Record) -> tuple[Document, ...]:
    """The negatives of a line, each with its own title."""
    texts = record.get("neg") or ()
    titles = record.get("neg_titles") or [""] * len(texts)
    return tuple(Document("", *pair) for pair in zip(texts, titles, strict=True))


def positive_names(record: Record) -> frozenset[bytes]:
    """All that the positives of a line may be known by: texts with and without title, ids."""
    names = {id_key(name) for name in _ids_of(record)}
    return frozenset(names.union(*(KeyedText.of(each).names for each in positives_of(record))))


def gather_texts(records: Iterable[Record]) -> Iterator[Document]:
    """All positives and negatives of training files as a corpus, each text once."""
    seen: set[bytes] = set()
    for record in records:
        for document in (*positives_of(record), *negatives_of(record)):
            key = KeyedText.of(document).key
            if key not in seen:
                seen.add(key)
                yield document._replace(id=f"text {len(seen)}")


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Writes JSON lines, gzip where the name ends in .gz.

    The file appears whole or not at all, also where the process is killed.
    """
    with write_whole(path) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
