"""The indexes of an evaluation: when they are used again, built anew or left alone."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest
from evaluation_fakes import TEXTS, Log, WordEncoder, forget_searches, make_set

from m3search.errors import ArtifactError, ConfigError
from m3search.evaluation import EvaluationSet, evaluate_sets
from m3search.evaluation.cache import Cache
from m3search.evaluation.suite import ROWS
from m3search.records import Encoded


def test_an_index_is_used_again_while_nothing_changed(tmp_path: Path) -> None:
    work = tmp_path / "work"
    folder = make_set(tmp_path / "s")
    wanted = EvaluationSet(folder, rows=("dense",))

    def reused(log: Log, wanted: EvaluationSet = wanted) -> bool:
        forget_searches(work)
        [result] = evaluate_sets(
            [wanted], log.encoders, cache=Cache(work), engine=log.engine()
        ).sets
        assert result.report.means["dense"]["R@100"] > 0
        assert len(log.built) + len(log.opened) >= 1
        return bool(result.details["index_reused"])

    assert not reused(Log())
    log = Log()
    assert reused(log) and not log.built
    assert not reused(Log(), replace(wanted, max_length=7))  # another length, other vectors
    assert reused(Log())  # and the first one is still there
    assert not reused(Log(damaged=True))
    [note, _] = sorted(work.glob("*/built.json"), key=lambda path: path.stat().st_mtime_ns)[::-1]
    note.unlink()  # as after a kill between the end of the building and its note
    assert reused(Log())
    (note.parent / "index" / "ids").unlink()  # as after a kill in the building
    log = Log()
    assert not reused(log) and (note.parent / "index") in log.built
    assert reused(Log())
    make_set(tmp_path / "other", texts=TEXTS | {"d5": "new"})
    (tmp_path / "other" / "corpus.jsonl.gz").rename(folder / "corpus.jsonl.gz")
    assert not reused(Log())


@pytest.mark.parametrize(
    ("cause", "removed"),
    [(None, True), (FileNotFoundError(), True), (BlockingIOError(), False), (OSError(), False)],
)
def test_an_index_is_removed_only_where_it_is_damaged(
    tmp_path: Path, cause: BaseException | None, removed: bool
) -> None:
    work, told = tmp_path / "work", list[str]()
    cache = Cache(work, report=told.append)
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense",))
    evaluate_sets([wanted], Log().encoders, cache=Cache(work), engine=Log().engine())
    [held] = work.glob("*/index/ids")
    held.with_name("mark").write_text("")
    forget_searches(work)
    log = Log(damaged=True, cause=cause)
    if removed:
        [result] = evaluate_sets([wanted], log.encoders, cache=cache, engine=log.engine()).sets
        assert result.details["index_reused"] is False
    else:
        with pytest.raises(ArtifactError):
            evaluate_sets([wanted], log.encoders, cache=cache, engine=log.engine())
    damage = f"made again: {held.parent}: expected sound, found damage"
    assert [line.partition(", so it is ")[2] for line in told] == [damage] * (cause is None)
    assert held.with_name("mark").exists() is not removed


@pytest.mark.parametrize("kind", [ArtifactError, ConfigError])
def test_a_building_that_fails_keeps_what_is_there(
    tmp_path: Path, kind: type[ArtifactError | ConfigError]
) -> None:
    work = tmp_path / "work"
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense",))
    log = Log(fails=kind("build", expected="room", found="none", remedy="None."))
    for _ in range(2):  # into nothing, and into what the first one left
        with pytest.raises(kind, match="room"):
            evaluate_sets([wanted], log.encoders, cache=Cache(work), engine=log.engine())
        [place] = work.glob("*/index")
        (place / "mark").write_text("")
    log.fails = None
    evaluate_sets([wanted], log.encoders, cache=Cache(work), engine=log.engine())
    assert len(log.built) == 3
    assert (place / "mark").exists()


def test_of_two_evaluations_at_once_the_second_waits_and_encodes_nothing(tmp_path: Path) -> None:
    """The second starts while the first is in its building, with m3search's own index."""
    work = tmp_path / "work"
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense",))
    words = sorted({word for text in TEXTS.values() for word in text.split()})
    told: Queue[str] = Queue()
    second = WordEncoder(words)
    found: list[Any] = []

    def evaluate_beside() -> None:
        cache = Cache(work, report=told.put)
        found.append(evaluate_sets([wanted], lambda _: second, cache=cache))

    beside = Thread(target=evaluate_beside)

    @dataclass
    class Slow(WordEncoder):
        def encode(self, texts, kind="document", **options: object) -> Encoded:
            if kind == "document":
                beside.start()
                assert f"waiting for process {os.getpid()}, which is at work on" in told.get()
            return super().encode(texts, kind, **options)

    [first] = evaluate_sets([wanted], lambda _: Slow(words), cache=Cache(work)).sets
    beside.join()
    assert not second.texts
    [other] = found[0].sets
    assert (first.details["search_reused"], other.details["search_reused"]) == (False, True)
    assert first.report == other.report
    assert other.report.means["dense"]["R@100"] == 1.0


def test_an_index_of_another_content_is_built_anew(tmp_path: Path) -> None:
    work = tmp_path / "work"
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense",))
    evaluate_sets([wanted], Log().encoders, cache=Cache(work), engine=Log().engine())
    [held] = work.glob("*/index/ids")
    documents = json.loads(held.read_text())
    held.write_text(json.dumps([*documents, ["added", "red", ""]]))  # as by `index --add`
    forget_searches(work)
    told: list[str] = []
    cache = Cache(work, report=told.append)
    [result] = evaluate_sets([wanted], Log().encoders, cache=cache, engine=Log().engine()).sets
    assert result.details["index_reused"] is False
    assert [line.endswith("/index: expected 4 documents, found 5") for line in told] == [True]
    assert json.loads(held.read_text()) == documents


def test_another_template_makes_another_index(tmp_path: Path) -> None:
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense",))
    for template, reused in (("{title}\n{text}", False), ("{text}", False), ("{text}", True)):
        each = replace(wanted, title_template=template)
        log = Log()
        forget_searches(tmp_path / "work")
        [result] = evaluate_sets(
            [each], log.encoders, cache=Cache(tmp_path / "work"), engine=log.engine()
        ).sets
        assert result.details["index_reused"] is reused


def test_an_index_of_m3search_itself(tmp_path: Path) -> None:
    wanted = EvaluationSet(make_set(tmp_path / "s"), depth=2)

    def encoders(_: int | None) -> WordEncoder:
        return WordEncoder(sorted({word for text in TEXTS.values() for word in text.split()}))

    for reused in (False, True):
        forget_searches(tmp_path / "work")
        [result] = evaluate_sets([wanted], encoders, cache=Cache(tmp_path / "work")).sets
        assert result.details["index_reused"] is reused
        assert result.details["bytes"]
        assert {row: means["R@100"] for row, means in result.report.means.items()} == (
            dict.fromkeys(ROWS, 1.0)
        )


def test_sets_of_one_corpus_share_their_index(tmp_path: Path) -> None:
    """So do questions in many languages on the same passages."""
    log, work = Log(), tmp_path / "work"
    one = EvaluationSet(make_set(tmp_path / "one"), rows=("dense",))
    two = EvaluationSet(
        make_set(tmp_path / "two", queries={"q": "blue tree"}, judged={"q": {"d2": 1}}),
        rows=("dense",),
    )
    other = EvaluationSet(make_set(tmp_path / "other", texts=TEXTS | {"d5": "x"}), rows=("dense",))
    found = evaluate_sets([one, two, other], log.encoders, engine=log.engine(), cache=Cache(work))
    assert [each.details["index_reused"] for each in found.sets] == [False, False, False]
    assert found.sets[0].details["seconds"]["index"] == found.sets[1].details["seconds"]["index"]
    assert len(log.built) == len(list(work.iterdir())) == 2
