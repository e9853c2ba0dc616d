"""Collections: what is read and counted of a folder, and what is wrong with one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_fakes import JUDGED, TEXTS, Log, make_set

from m3search.errors import DataError
from m3search.evaluation import EvaluationSet, evaluate_sets
from m3search.evaluation.collection import Sample, load_collection
from m3search.records import Query


def test_a_collection_and_its_counts(tmp_path: Path) -> None:
    judged = JUDGED | {"q2": {"d2": 0}}
    collection = load_collection(EvaluationSet(make_set(tmp_path / "s", judged=judged)))
    assert collection.queries == (Query("q1", "red animal"), Query("q2", "whale"))
    assert collection.qrels == judged
    assert [each.id for each in collection.read()] == list(TEXTS)
    assert collection.counts() == {
        "documents": 4,
        "queries": 2,
        "queries_without_judgement": 1,
        "queries_without_relevant": 1,
        "judgements": 3,
        "judgements_of_unknown_documents": 0,
    }


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "\r"])
def test_ids_of_queries_fit_into_a_line(tmp_path: Path, name: str) -> None:
    """As FlagEmbedding's layout, of JSON lines, may have others."""
    folder = make_set(tmp_path / "s")
    shutil.rmtree(folder / "qrels")
    (folder / "queries.jsonl").unlink()
    for file, line in (
        ("test_queries.jsonl", {"id": name, "text": "red"}),
        ("test_qrels.jsonl", {"qid": name, "docid": "d1", "relevance": 1}),
    ):
        (folder / file).write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match="without tabs and ends of lines"):
        load_collection(EvaluationSet(folder))


def test_judgements_of_unknown_documents(tmp_path: Path) -> None:
    judged = {"q1": {"d1": 1, "gone": 1}, "q2": {"gone": 1, "lost": 1}}
    wanted = EvaluationSet(make_set(tmp_path / "s", judged=judged))
    with pytest.raises(DataError, match="2 that it lacks: 'gone', 'lost'"):
        load_collection(wanted)
    kept = load_collection(replace(wanted, unknown_documents="keep"))
    assert kept.unknown == 3
    assert kept.qrels == judged


def test_judgements_of_queries_that_are_not_there(tmp_path: Path) -> None:
    judged = JUDGED | {f"x{number}": {"d1": 1} for number in range(5)}
    with pytest.raises(DataError, match=r"5 that it lacks: 'x0', 'x1', 'x2', \.\.\."):
        load_collection(EvaluationSet(make_set(tmp_path / "s", judged=judged)))


def test_missing_files_say_what_is_there(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "s", split="dev")
    with pytest.raises(DataError, match=r"found only corpus\.jsonl\.gz, qrels/dev\.tsv"):
        load_collection(EvaluationSet(folder))
    assert load_collection(EvaluationSet(folder, split="dev")).documents == 4
    (folder / "corpus.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"expected corpus\.jsonl"):
        load_collection(EvaluationSet(folder, split="dev"))


def test_a_missing_folder_is_told_before_anything_is_run(tmp_path: Path) -> None:
    log = Log()
    sets = [EvaluationSet(make_set(tmp_path / "s")), EvaluationSet(tmp_path / "none")]
    with pytest.raises(DataError, match="--data"):
        evaluate_sets(sets, log.encoders, engine=log.engine())
    assert not log.built


def test_a_sample_is_uniform_and_the_same_every_time() -> None:
    def sample(size: int, of: int) -> list[int]:
        taken = Sample(size)
        for number in range(of):
            taken.add(str(number))
        assert taken.seen == of
        return [int(text) for text in taken.texts]

    assert sample(10, 5) == [0, 1, 2, 3, 4]
    assert sample(500, 5000) == sample(500, 5000)
    quarters = [
        sum(number * 4 // 5000 == part for number in sample(500, 5000)) for part in range(4)
    ]
    assert sum(quarters) == 500 and min(quarters) > 85
