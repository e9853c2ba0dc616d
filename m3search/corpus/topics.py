"""TREC's topics: `<top>`, `<num>`, `<title>` and more, over several lines each."""

from __future__ import annotations

import re

from m3search.lines import decode_line, wrong_field
from m3search.records import Query

_TAG = re.compile(r"(</?\w+>)")
_LABELS = {"num": re.compile(r"(?i)\s*number:"), "title": re.compile(r"(?i)\s*topic:")}
"""words that older topics have after a tag"""


class Topics:
    """Takes a file line by line, and gives the query of each topic at its end.

    Its id is the number, its text the title; other fields are left out.
    """

    def __init__(self) -> None:
        self._start = 0
        """line of the topic that has begun; 0 between topics"""
        self._field = ""
        self._texts: dict[str, list[str]] = {}

    def __call__(self, file: str, number: int, line: bytes) -> Query | None:
        """The query of the topic that ends on the line; DataError for one that lacks a part."""
        query = None
        for piece in _TAG.split(decode_line(file, number, line)):
            if _TAG.fullmatch(piece):
                query = self._take_tag(file, number, piece.lower()) or query
            elif self._field:
                self._texts.setdefault(self._field, []).append(piece)
            elif self._start == 0 and piece.strip():
                raise wrong_field(file, number, "<top>", repr(piece.strip()[:40]))
        return query

    def _take_tag(self, file: str, number: int, tag: str) -> Query | None:
        if tag == "</top>":
            return self._finish(file, number)
        if tag == "<top>":
            self.check_end(file)
            self._start, self._texts = number, {}
        self._field = "" if tag == "<top>" or tag.startswith("</") else tag.strip("<>")
        return None

    def check_end(self, file: str) -> None:
        """DataError where a topic has begun and not ended."""
        if self._start:
            raise wrong_field(file, self._start, "</top> after <top>", "a topic without its end")

    def _finish(self, file: str, number: int) -> Query:
        start, self._start, self._field = self._start or number, 0, ""
        parts = []
        for name, label in _LABELS.items():
            text = " ".join(" ".join(self._texts.get(name, ())).split())
            text = label.sub("", text, count=1).strip()
            if not text:
                raise wrong_field(file, start, f"a topic with a <{name}>", "none")
            parts.append(text)
        return Query(*parts)
