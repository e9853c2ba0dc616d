"""Data sets of the Hugging Face hub, from the files of their repositories.

MIRACL       miracl/miracl-corpus  miracl-corpus-v1.0-<lang>/docs-<n>.jsonl.gz
             miracl/miracl         miracl-v1.0-<lang>/topics and qrels, TREC
MLDR         Shitao/MLDR           mldr-v1.0-<lang>/corpus.jsonl.gz and test.jsonl.gz
MKQA         Shitao/bge-m3-data    MKQA_test-data.zip: <lang>.jsonl
             BeIR/nq               the passages
BEIR         BeIR/<name>           corpus and queries; judgements in BeIR/<name>-qrels
NarrativeQA  deepmind/narrativeqa  data/test-*.parquet
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from m3search.corpus import read_corpus, read_qrels, read_queries
from m3search.corpus.trec import Judgement
from m3search.errors import DataError
from m3search.evaluation.sources.plain import plain
from m3search.evaluation.sources.source import Contents, raise_lacking
from m3search.lines import parse_object, read_lines
from m3search.records import Document, Query


def read_miracl(language: str, split: str) -> Contents:
    """Passages of Wikipedia in one language, and questions in it (arXiv 2210.09984)."""
    shards = _download("miracl/miracl-corpus", f"miracl-corpus-v1.0-{language}/docs-*.jsonl.gz")
    name = f"miracl-v1.0-{language}"
    [topics] = _download("miracl/miracl", f"{name}/topics/topics.{name}-{split}.tsv")
    [qrels] = _download("miracl/miracl", f"{name}/qrels/qrels.{name}-{split}.tsv")
    documents = chain.from_iterable(map(read_corpus, shards))
    return Contents(documents, read_queries(topics), _judgements(qrels))


def read_mldr(language: str, split: str) -> Contents:
    """Long documents in one language, and questions on them (arXiv 2402.03216v4, section 3)."""
    name = f"mldr-v1.0-{language}"
    [corpus] = _download("Shitao/MLDR", f"{name}/corpus.jsonl.gz")
    [test] = _download("Shitao/MLDR", f"{name}/{split}.jsonl.gz")
    return Contents(
        read_corpus(corpus),
        (Query(line.text("query_id"), line.text("query")) for line in _lines(test)),
        chain.from_iterable(map(_mldr_judgements, _lines(test))),
    )


def _mldr_judgements(line: _Line) -> Iterator[Judgement]:
    query = line.text("query_id")
    for field, grade in (("positive_passages", 1), ("negative_passages", 0)):
        for passage in line.objects(field):
            yield Judgement(query, passage.text("docid"), grade)


def read_mkqa(language: str) -> Contents:
    """Questions in one language with their answers, on English passages (arXiv 2007.15207).

    The 6,619 questions with short answers that arXiv 2402.03216v4 keeps. Passages are those of
    Natural Questions in BEIR, made plain as they are before they are encoded there.
    """
    [archive] = _download("Shitao/bge-m3-data", "MKQA_test-data.zip")
    lines = list(_zipped_lines(archive, f"{language}.jsonl"))
    return Contents(
        (_plain(document) for document in _beir_corpus("nq")),
        (Query(line.text("id"), line.text("question")) for line in lines),
        answers=((line.text("id"), line.texts("answers")) for line in lines),
    )


def _plain(document: Document) -> Document:
    title, text = (plain(part.lower()) for part in (document.title, document.text))
    return Document(document.id, text, title)


def read_beir(name: str, split: str) -> Contents:
    """A data set of BEIR (arXiv 2104.08663)."""
    repository = f"BeIR/{name}"
    files = _download(repository, "queries.jsonl.gz", "queries/*.parquet")
    [qrels] = _download(f"{repository}-qrels", f"{split}.tsv")
    if files[0].suffix == ".parquet":
        queries: Iterable[Query] = (
            Query(line.text("_id"), line.text("text")) for line in _parquet(files, repository)
        )
    else:
        queries = read_queries(files[0])
    return Contents(_beir_corpus(name), queries, _judgements(qrels))


def _beir_corpus(name: str) -> Iterator[Document]:
    repository = f"BeIR/{name}"
    files = _download(repository, "corpus.jsonl.gz", "corpus/*.parquet")
    if files[0].suffix != ".parquet":
        return read_corpus(files[0])
    return (
        Document(line.text("_id"), line.text("text"), line.text("title"))
        for line in _parquet(files, repository)
    )


def read_narrativeqa(split: str) -> Contents:
    """Books and scripts, and questions on them, each judged by its story (arXiv 1712.07040).

    A question has the number of its line as id, as in MTEB.
    """
    repository = "deepmind/narrativeqa"
    files = _download(repository, f"data/{split}-*.parquet")
    queries: list[Query] = []
    judgements: list[Judgement] = []

    def documents() -> Iterator[Document]:
        seen = set()
        for number, line in enumerate(_parquet(files, repository)):
            document = line.object("document")
            name = document.text("id")
            queries.append(Query(str(number), line.object("question").text("text")))
            judgements.append(Judgement(str(number), name, 1))
            if name not in seen:
                seen.add(name)
                yield Document(name, document.text("text"))

    return Contents(documents(), queries, judgements)


def _judgements(qrels: Path) -> Iterator[Judgement]:
    for query, judged in read_qrels(qrels).items():
        for document, grade in judged.items():
            yield Judgement(query, document, grade)


class _Line:
    """An object of a file, whose fields are looked at as they are asked for."""

    def __init__(self, file: str, number: int, fields: Any) -> None:
        self._file, self._number, self._fields = file, number, fields

    def text(self, name: str) -> str:
        """A string; a number is one, too."""
        value = self._field(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
        raise self._wrong(name, "a string")

    def texts(self, name: str) -> list[str]:
        """A list of strings."""
        value = self._field(name)
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return value
        raise self._wrong(name, "a list of strings")

    def object(self, name: str) -> _Line:
        """An object."""
        return _Line(self._file, self._number, self._field(name))

    def objects(self, name: str) -> list[_Line]:
        """A list of objects."""
        value = self._field(name)
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        return [_Line(self._file, self._number, each) for each in value]

    def _field(self, name: str) -> Any:
        if not isinstance(self._fields, dict) or self._fields.get(name) is None:
            raise self._wrong(name, "a value")
        return self._fields[name]

    def _wrong(self, name: str, expected: str) -> DataError:
        return DataError(
            self._file,
            self._number,
            expected=f'"{name}" to be {expected}',
            found="something else, or nothing",
            remedy="Its layout has changed: put the set into a folder, in a layout of sets.",
        )


def _lines(path: Path) -> Iterator[_Line]:
    for number, line in read_lines(path):
        yield _Line(str(path), number, parse_object(str(path), number, line))


def _zipped_lines(archive: Path, name: str) -> Iterator[_Line]:
    """The lines of a file of an archive, in whatever folder of it."""
    with zipfile.ZipFile(archive) as content:
        found = [each for each in content.namelist() if Path(each).name == name]
        if not found:
            raise _no_files(str(archive), [name])
        with content.open(found[0]) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _Line(name, number, parse_object(name, number, line))


def _parquet(files: list[Path], repository: str) -> Iterator[_Line]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise_lacking(repository, "datasets", error)
    names = [str(path) for path in files]
    rows = load_dataset("parquet", data_files=names, split="train", streaming=True)
    for number, row in enumerate(rows, start=1):
        yield _Line(repository, number, row)


def _download(repository: str, *patterns: str) -> list[Path]:
    """The files of a repository that any of the patterns names, at least one; docs-2 before
    docs-10. Those that are on this machine already are not downloaded again."""
    from huggingface_hub import snapshot_download

    folder = snapshot_download(repository, repo_type="dataset", allow_patterns=list(patterns))
    found = [path for pattern in patterns for path in Path(folder).glob(pattern)]
    if not found:
        raise _no_files(repository, patterns)
    return sorted(found, key=lambda path: (len(path.name), path.name))


def _no_files(where: str, names: Iterable[str]) -> DataError:
    return DataError(
        where,
        expected=" or ".join(names),
        found="no such file",
        remedy="Go online once to download it.",
    )
