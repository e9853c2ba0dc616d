"""Small copies of data sets, in the layout of their repositories and of the hub's cache."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

REVISION = "0" * 40
TEXTS = {"1#0": ("Tea", "a drink"), "2#0": ("Rice", "a grain"), "3#0": ("", "untitled")}
QUERIES = {"q1": "what is tea", "q2": "une boisson", "q3": "not judged"}
JUDGED = {"q1": {"1#0": 1, "2#0": 0}, "q2": {"1#0": 1}}


def json_lines(objects: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in objects).encode()


class Hub:
    """A cache of huggingface_hub, which answers from it alone: the tests are offline."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))

    def put(self, repository: str, name: str, content: bytes) -> Path:
        place = self.folder / f"datasets--{repository.replace('/', '--')}"
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / "main").write_text(REVISION)
        path = place / "snapshots" / REVISION / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    def put_parquet(self, repository: str, name: str, rows: list[dict[str, Any]]) -> Path:
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        return self.put(repository, name, buffer.getvalue())


def put_miracl(
    hub: Hub,
    language: str,
    texts: dict[str, tuple[str, str]],
    queries: dict[str, str],
    judged: dict[str, dict[str, int]],
    shards: int = 1,
) -> None:
    """texts: id -> title and text; the documents in turn go to the shards."""
    lines = [{"docid": name, "title": t, "text": text} for name, (t, text) in texts.items()]
    size = -(-len(lines) // shards)
    for number in range(shards):
        part = lines[number * size : (number + 1) * size]
        path = f"miracl-corpus-v1.0-{language}/docs-{number}.jsonl.gz"
        hub.put("miracl/miracl-corpus", path, json_lines(part))
    name = f"miracl-v1.0-{language}"
    topics = "".join(f"{query}\t{text}\n" for query, text in queries.items())
    hub.put("miracl/miracl", f"{name}/topics/topics.{name}-dev.tsv", topics.encode())
    qrels = "".join(f"{q}\tQ0\t{d}\t{g}\n" for q, by in judged.items() for d, g in by.items())
    hub.put("miracl/miracl", f"{name}/qrels/qrels.{name}-dev.tsv", qrels.encode())


def put_mldr(
    hub: Hub, language: str, texts: dict[str, str], questions: dict[str, tuple[str, list[str]]]
) -> None:
    """questions: id -> text, and the documents that answer it; the first other one does not."""
    corpus = [{"docid": name, "text": text} for name, text in texts.items()]
    test = []
    for name, (text, positive) in questions.items():
        negative = [each for each in texts if each not in positive][:1]
        test.append(
            {
                "query_id": name,
                "query": text,
                "positive_passages": [{"docid": each, "text": texts[each]} for each in positive],
                "negative_passages": [{"docid": each, "text": texts[each]} for each in negative],
            }
        )
    hub.put("Shitao/MLDR", f"mldr-v1.0-{language}/corpus.jsonl.gz", json_lines(corpus))
    hub.put("Shitao/MLDR", f"mldr-v1.0-{language}/test.jsonl.gz", json_lines(test))


def put_mkqa(
    hub: Hub, questions: dict[str, dict[str, tuple[str, list[str]]]], folder: str = ""
) -> None:
    """questions: language -> id -> text and answers."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for language, by_name in questions.items():
            lines = [
                {"id": name, "question": text, "answers": answers}
                for name, (text, answers) in by_name.items()
            ]
            archive.writestr(f"{folder}{language}.jsonl", json_lines(lines))
    hub.put("Shitao/bge-m3-data", "MKQA_test-data.zip", buffer.getvalue())


def put_beir(
    hub: Hub,
    name: str,
    texts: dict[str, tuple[str, str]],
    queries: dict[str, str],
    judged: dict[str, dict[str, int]],
    *,
    split: str = "test",
    parquet: bool = False,
) -> None:
    corpus = [{"_id": key, "title": t, "text": text} for key, (t, text) in texts.items()]
    asked = [{"_id": key, "title": "", "text": text} for key, text in queries.items()]
    repository = f"BeIR/{name}"
    for kind, rows in (("corpus", corpus), ("queries", asked)):
        if parquet:
            hub.put_parquet(repository, f"{kind}/{name}-{kind}.parquet", rows)
        else:
            lines = [row | {"metadata": {}} for row in rows]
            hub.put(repository, f"{kind}.jsonl.gz", json_lines(lines))
    qrels = "".join(f"{q}\t{d}\t{g}\n" for q, by in judged.items() for d, g in by.items())
    header = "query-id\tcorpus-id\tscore\n"
    hub.put(f"{repository}-qrels", f"{split}.tsv", (header + qrels).encode())


def put_narrativeqa(hub: Hub, stories: dict[str, str], questions: list[tuple[str, str]]) -> None:
    """questions: a story's id, and what is asked of it."""
    rows = [
        {
            "document": {"id": story, "text": stories[story], "summary": {"tokens": ["a"]}},
            "question": {"text": text, "tokens": text.split()},
        }
        for story, text in questions
    ]
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        hub.put_parquet("deepmind/narrativeqa", f"data/test-{number:05}-of-00002.parquet", part)


@pytest.fixture(name="hub")
def hub_of_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(tmp_path / "hub", monkeypatch)
