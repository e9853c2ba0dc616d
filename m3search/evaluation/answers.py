"""Whether a passage answers a question: whether it has one of the answers in it, word by word."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import groupby

from m3search.corpus import document_text
from m3search.records import Answers, Document, Qrels


def answer_tokens(text: str) -> list[str]:
    """The tokens of a text: runs of letters, digits and marks, else single characters.

    Of the text in NFD, in lower case; separators and control characters are left out. In the
    notation of Unicode's properties: ``[\\p{L}\\p{N}\\p{M}]+|[^\\p{Z}\\p{C}]``. So the passages of
    open-domain question answering are judged (arXiv 1704.00051; 2010.08191, section 4.1).

    >>> answer_tokens("Amélie (2001)") == ["ame\\u0301lie", "(", "2001", ")"]
    True
    """
    return [token.lower() for token in _pattern().findall(unicodedata.normalize("NFD", text))]


def judge_answers(
    documents: Iterable[Document], answers: Answers, found: Iterable[Mapping[str, Iterable[str]]]
) -> Qrels:
    """A grade for each document that was found for a question: 1 where it has an answer, else 0.

    found: question id -> ids of documents, of any number of runs. Title and text of a document are
    read one after the other. The questions are those of `answers`, in their order.
    """
    asked: dict[str, set[str]] = {}
    for by_query in found:
        for query, names in by_query.items():
            for name in names:
                asked.setdefault(name, set()).add(query)
    joined = {
        query: [_joined(text) for text in texts if answer_tokens(text)]
        for query, texts in answers.items()
    }
    qrels: Qrels = {query: {} for query in answers}
    for document in documents:
        queries = asked.get(document.id, set()) & qrels.keys()
        tokens = _joined(document_text(document)) if queries else ""
        for query in queries:
            qrels[query][document.id] = int(any(answer in tokens for answer in joined[query]))
    return qrels


def _joined(text: str) -> str:
    """The tokens with a space around each, which none of them has: one text is in another where
    its tokens are."""
    return f" {' '.join(answer_tokens(text))} "


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    """Python's own `re` knows no properties: their characters are spelt out as ranges."""
    kinds = [unicodedata.category(chr(code))[0] for code in range(sys.maxunicode + 1)]
    word, left_out = ("".join(_ranges(kinds, of)) for of in ("LNM", "ZC"))
    return re.compile(f"[{word}]+|[^{left_out}]")


def _ranges(kinds: list[str], wanted: str) -> Iterable[str]:
    code = 0
    for inside, group in groupby(kinds, lambda kind: kind in wanted):
        length = len(list(group))
        if inside:
            yield f"\\U{code:08x}-\\U{code + length - 1:08x}"
        code += length
