"""Which paragraphs of a document questions are asked on."""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from m3search.records import Document


class Drawing(NamedTuple):
    """How paragraphs are drawn; lengths in characters."""

    number: int = 1
    """of a document, at most"""
    least_document: int = 2000
    least: int = 300
    most: int = 2000
    seed: int = 42

    def draw(self, document: Document) -> list[str]:
        """Different paragraphs of a document, the same for a seed, more for a larger number."""
        paragraphs = split_paragraphs(document.text, self.least, self.most)
        random.Random(f"{self.seed} {document.id}").shuffle(paragraphs)
        return paragraphs[: self.number]


def split_paragraphs(text: str, least: int, most: int) -> list[str]:
    """The paragraphs of a text, of `least` to `most` characters each.

    Lines part them. A shorter one is joined with the next, a longer one cut between words, or
    anywhere where there are none; what is short at the end of the text is left out.
    """
    paragraphs: list[str] = []
    pending = ""
    for line in text.split("\n"):
        pending = f"{pending}\n{line.strip()}".strip()
        while len(pending) > most:
            words = re.match(rf".{{{least},{most}}}(?=\s)", pending, re.DOTALL)
            head = words.group() if words else pending[:most]
            paragraphs.append(head.rstrip())
            pending = pending[len(head) :].lstrip()
        if len(pending) >= least:
            paragraphs.append(pending)
            pending = ""
    return paragraphs
