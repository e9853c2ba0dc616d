"""Answers in place of judgements: a passage that has one of a question's strings answers it."""

from __future__ import annotations

from pathlib import Path

from m3search.corpus.documents import pop_id
from m3search.lines import display_name, json_type, parse_object, read_records, wrong_field
from m3search.records import Answers

ANSWERS_ID_FIELDS = ("_id", "id", "qid")


def read_answers(path: str | Path) -> Answers:
    """The strings that answer each question, in the order of the file.

    JSON lines: `_id`, `id` or `qid`; `answers`, a list of strings. A question may have none.
    DataError with the line of what is wrong.
    """
    file = display_name(path)
    answers: Answers = {}

    def parse(number: int, line: bytes) -> None:
        fields = parse_object(file, number, line)
        query = pop_id(file, number, fields, ANSWERS_ID_FIELDS)
        found = fields.get("answers")
        if not isinstance(found, list):
            raise wrong_field(file, number, '"answers" to be a list', json_type(found))
        for each in found:
            if not isinstance(each, str):
                raise wrong_field(file, number, "answers that are strings", json_type(each))
        if query in answers:
            raise wrong_field(file, number, "each question once", f"{query!r} a second time")
        answers[query] = tuple(found)

    for _ in read_records(path, parse, inside="answers.jsonl"):
        pass
    return answers
