"""Answers in place of judgements: what is a token, what a match, and the recall of them."""

from __future__ import annotations

import json
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluation_fakes import Log, make_set
from hypothesis import given, settings
from hypothesis import strategies as st
from running_commands import (  # noqa: F401
    command_line,
    folder_of_a_judged_set,
    folder_of_a_test,
    lines_of,
)

from m3search.corpus import read_answers, write_run
from m3search.errors import ConfigError, DataError
from m3search.evaluation import EvaluationSet, ReportFolder, evaluate, evaluate_sets
from m3search.evaluation.answers import answer_tokens, judge_answers
from m3search.evaluation.collection import load_collection
from m3search.evaluation.comparing import read_report_side
from m3search.evaluation.tuning import judged_scores, tune
from m3search.records import Document

regex = pytest.importorskip("regex")
NOTATION = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")


def slow_tokens(text: str) -> list[str]:
    return [each.lower() for each in NOTATION.findall(unicodedata.normalize("NFD", text))]


def slow_has_answer(passage: str, answers: list[str]) -> bool:
    tokens = slow_tokens(passage)
    for answer in answers:
        wanted = slow_tokens(answer)
        for start in range(len(tokens) - len(wanted) + 1):
            if wanted and tokens[start : start + len(wanted)] == wanted:
                return True
    return False


@settings(deadline=None)  # the first call looks at all characters
@given(st.text())
def test_tokens_are_those_of_the_notation(text: str) -> None:
    assigned = "".join(c for c in text if unicodedata.category(c) not in ("Cn", "Cs"))
    assert answer_tokens(assigned) == slow_tokens(assigned)


def test_tokens_of_every_character_of_python() -> None:
    """`regex` knows newer characters, so the categories of Python are the rule."""
    for code in range(0, sys.maxunicode, 7):
        kind = unicodedata.category(chr(code))[0]
        found = answer_tokens(f"a{chr(code)}b") if unicodedata.normalize("NFD", chr(code)) == chr(
            code
        ) else None  # fmt: skip
        if found is not None:
            wanted = {"Z": 2, "C": 2, "L": 1, "N": 1, "M": 1}.get(kind, 3)
            assert len(found) == wanted, hex(code)


WORDS = ["new", "york", "New York", "St. Louis", "1,000", "é", "e\u0301", "東京", "x-y", "", "—"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=6), st.lists(st.sampled_from(WORDS), max_size=3))
def test_an_answer_is_matched_token_by_token(passage: list[str], answers: list[str]) -> None:
    text = " ".join(passage)
    grades = judge_answers([Document("d", text)], {"q": tuple(answers)}, [{"q": ["d"]}])
    assert grades == {"q": {"d": int(slow_has_answer(text, answers))}}


@pytest.mark.parametrize(
    ("passage", "answer", "match"),
    [
        ("Visit NEW YORK, today", "new york", 1),
        ("newyork", "new york", 0),
        ("in New Yorks", "New York", 0),
        ("New, York", "new york", 0),
        ("Cafe\u0301", "café", 1),
        ("東京都", "東京", 0),  # a run of letters is one token
        ("東京 都", "東京", 1),
        ("anything", "", 0),
    ],
)
def test_matches_by_hand(passage: str, answer: str, match: int) -> None:
    assert judge_answers([Document("d", passage)], {"q": (answer,)}, [{"q": ["d"]}])["q"] == {
        "d": match
    }


def test_title_and_text_are_read_and_only_what_was_found() -> None:
    documents = [Document("a", "wrote it", "Ann Lee"), Document("b", "Ann Lee"), Document("c", "x")]
    answers = {"q1": ("lee wrote",), "q2": ("x", "ann")}
    found: list[dict[str, Any]] = [{"q1": ["a", "b"]}, {"q2": {"a": 1.0}, "other": {"c": 1.0}}]
    assert judge_answers(documents, answers, found) == {"q1": {"a": 1, "b": 0}, "q2": {"a": 1}}


def test_the_share_of_questions_with_an_answer_in_the_first_k() -> None:
    runs = {
        "one": {"q1": {"a": 3.0, "b": 2.0, "c": 1.0}, "q2": {"a": 1.0}, "q3": {}},
        "two": {"q1": {"c": 5.0}, "q2": {"b": 9.0, "c": 8.0}},
    }
    qrels = {"q1": {"a": 0, "b": 1, "c": 1}, "q2": {"a": 0, "b": 1, "c": 0}, "q3": {}}
    found = evaluate(runs, qrels, ["AnswerRecall@1", "AnswerRecall@2", "Success@2"])
    assert found.measures == ("AnswerRecall@1", "AnswerRecall@2", "Success@2")
    assert found.means["one"] == pytest.approx(
        {"AnswerRecall@1": 0, "AnswerRecall@2": 1 / 3, "Success@2": 1 / 3}
    )
    assert found.per_query["two"]["AnswerRecall@1"] == {"q1": 1.0, "q2": 1.0, "q3": 0.0}
    for wrong in ("AnswerRecall@0", "AnswerRecall", "answerrecall@2"):
        with pytest.raises(ConfigError, match="measures"):
            evaluate(runs, qrels, [wrong])


ANSWERS = {"q1": ["Fox", "bear"], "q2": ["shark"]}


def make_questions(folder: Path, answers: dict[str, list[str]] = ANSWERS) -> Path:
    make_set(folder)
    (folder / "qrels" / "test.tsv").unlink()
    lines = [json.dumps({"_id": name, "answers": strings}) for name, strings in answers.items()]
    (folder / "answers.jsonl").write_text("\n".join(lines))
    return folder


MEASURES = ("AnswerRecall@1", "AnswerRecall@2")


def test_a_set_of_questions_is_evaluated_as_any_other(tmp_path: Path) -> None:
    """`red animal` finds d3 `red panda`, then d1 `red fox`: a tie is broken by the id."""
    log = Log()
    wanted = EvaluationSet(
        make_questions(tmp_path / "s"), measures=MEASURES, rows=("dense", "all", "bm25"), depth=2
    )
    collection = load_collection(wanted)
    assert collection.counts()["judgements"] == 3
    assert (collection.unjudged, len(collection.queries)) == (1, 2)
    report = ReportFolder(tmp_path / "out")
    experiment = evaluate_sets([wanted], log.encoders, engine=log.engine(), keep=report.add)
    report.finish(experiment)
    assert "Recall by depth" not in (tmp_path / "out" / "report.html").read_text()
    [found] = experiment.sets
    assert found.report.means["all"] == {"AnswerRecall@1": 0.0, "AnswerRecall@2": 0.5}
    assert found.report.per_query["bm25"]["AnswerRecall@2"] == {"q1": 1.0, "q2": 0.0}
    assert {each.first for each in found.differences} == {"dense", "all"}
    side = read_report_side(tmp_path / "out", "all", "AnswerRecall@2")
    assert side.values == {"s": {"q1": 1.0, "q2": 0.0}}
    again = evaluate_sets([wanted], log.encoders, scores=tmp_path / "out" / "scores")
    assert again.sets[0].report.means == found.report.means
    judged = judged_scores(wanted, tmp_path / "out" / "scores", "all", "AnswerRecall@2")
    assert judged.qrels == {"q1": {"d1": 1, "d3": 0}, "q2": {"d2": 0}}
    assert tune([judged], "AnswerRecall@2", folds=2).before == {"s": 0.5}


def test_measures_fit_what_a_set_is_judged_by(tmp_path: Path) -> None:
    log = Log()
    questions = EvaluationSet(make_questions(tmp_path / "s"), rows=("dense",))
    judged = EvaluationSet(make_set(tmp_path / "t"), measures=MEASURES, rows=("dense",))
    with pytest.raises(ConfigError, match=r"measures of the set s: .* answers.* AnswerRecall@100"):
        evaluate_sets([questions], log.encoders, engine=log.engine())
    with pytest.raises(ConfigError, match=r"of the set t: .* judgements.* found AnswerRecall@1\."):
        evaluate_sets([replace(questions, measures=MEASURES), judged], log.encoders)
    assert not log.built
    with pytest.raises(ValueError, match="both"):
        EvaluationSet(tmp_path, qrels="a", answers="b")


def test_two_runs_on_questions_are_compared(m3: Any, place: Path) -> None:
    make_questions(place / "s")
    write_run(place / "a.trec", {"q1": {"d1": 1.0}})
    write_run(place / "b.trec", {"q1": {"d3": 1.0}})
    options = ("--set", "s", "--measure", "AnswerRecall@1", "--json")
    (found,) = lines_of(m3("compare", "a.trec", "b.trec", *options).out)
    assert found["sets"]["s"]["difference"] == -0.5


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ('{"answers": ["x"]}', 1, 'an id in "_id", "id" or "qid"'),
        ('{"_id": "q1"}', 1, '"answers" to be a list, found null'),
        ('{"_id": "q1", "answers": "x"}', 1, "found a string"),
        ('{"_id": "q1", "answers": ["x", 3]}', 1, "answers that are strings, found a number"),
        ('{"qid": "q1", "answers": []}\n{"id": "q1", "answers": []}', 2, "'q1' a second time"),
        ("", None, "an empty file"),
    ],
)
def test_wrong_answers(tmp_path: Path, content: str, line: int | None, said: str) -> None:
    (tmp_path / "answers.jsonl").write_text(content)
    with pytest.raises(DataError) as caught:
        read_answers(tmp_path / "answers.jsonl")
    assert caught.value.line == line
    assert said in str(caught.value)


def test_answers_to_questions_that_are_not_there(tmp_path: Path) -> None:
    folder = make_questions(tmp_path / "s", {**ANSWERS, "lost": ["x"], "q3": []})
    with pytest.raises(DataError, match=r"answers\.jsonl: .* 1 that it lacks: 'lost'"):
        load_collection(EvaluationSet(folder, measures=MEASURES))
