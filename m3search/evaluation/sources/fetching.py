"""A data set as a BEIR folder in a cache: written once, there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from m3search.errors import ConfigError, DataError
from m3search.evaluation.sources.source import Contents, Source
from m3search.records import Document
from m3search.stores.commit import WriteLock
from m3search.stores.files import make_folder, sync, write_whole
from m3search.user_cache import user_cache

SETS = "sets"
CORPUS = "corpus.jsonl.gz"


def cache_folder(data: Path | None) -> Path:
    """Where data sets are kept: the folder given, else `sets` in the user's cache."""
    if data is not None:
        return data
    cache = user_cache()
    if cache is None:
        raise ConfigError(
            "--data",
            expected="a folder to keep data sets in, for a user without a home",
            found="none",
            remedy="Give one: --data FOLDER.",
        )
    return cache / SETS


def fetch(source: Source, cache: Path, report: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of a data set in the cache, fetched unless it is there.

    A fetch that was killed leaves no folder of that name; the next one begins anew. DataError where
    the data set cannot be reached or read, ArtifactError where another process fetches it. `report`
    is told what is fetched.
    """
    place = cache / source.folder
    if place.is_dir():
        return place
    report(f"fetching {source.name} from {source.place} into {place}")
    work = place.with_name(f".{place.name}.fetching")
    try:
        make_folder(work)
        lock = WriteLock(work)
        try:
            _fetch_into(source, cache, work / "set", place)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            lock.release()
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        raise _unreachable(source, place, error) from error
    return place


def _fetch_into(source: Source, cache: Path, staged: Path, place: Path) -> None:
    shutil.rmtree(staged, ignore_errors=True)  # of a fetch that was killed
    staged.mkdir()
    contents = source.read()
    if source.shared_corpus:
        shared = cache / source.shared_corpus
        if not shared.exists():
            _write_lines(shared, map(_document, contents.documents))
        _link(shared, staged / CORPUS)
    else:
        _write_lines(staged / CORPUS, map(_document, contents.documents))
    queries = ({"_id": each.id, "text": each.text} for each in contents.queries)
    _write_lines(staged / "queries.jsonl.gz", queries)
    _write_judgements(staged, source.split, contents)
    sync(staged)
    staged.rename(place)
    sync(place.parent)


def _document(document: Document) -> dict[str, str]:
    return {"_id": document.id, "title": document.title, "text": document.text}


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with write_whole(path) as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _write_judgements(folder: Path, split: str, contents: Contents) -> None:
    if contents.answers is not None:
        answers = ({"_id": name, "answers": found} for name, found in contents.answers)
        _write_lines(folder / "answers.jsonl.gz", answers)
        return
    (folder / "qrels").mkdir()
    with write_whole(folder / "qrels" / f"{split}.tsv.gz") as file:
        file.write(b"query-id\tcorpus-id\tscore\n")
        for query, document, grade in contents.judgements:
            file.write(f"{query}\t{document}\t{grade}\n".encode())


def _link(file: Path, place: Path) -> None:
    """The same file under another name, or a copy where the disk knows no second names."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


def _unreachable(source: Source, place: Path, error: Exception) -> DataError:
    words = str(error).strip().splitlines() or [""]
    return DataError(
        source.name,
        expected=f"the data set at {source.place}",
        found=f"that it cannot be fetched ({type(error).__name__}: {words[0][:200]})",
        remedy="Go online, log in where the data set asks for it (hf auth login), or put the set "
        f"in one of the layouts into {place}.",
    )
