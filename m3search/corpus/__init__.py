"""Files of documents, queries, judgements and runs, read as streams and written whole.

Corpus and queries are JSON lines, queries also TREC's topics; judgements are BEIR or TREC qrels, or
JSON lines; runs are TREC runs.
`.gz`, `.zst` and `-` (standard input) are read as they are.

documents   a corpus and its queries, and what is encoded of a document
topics      queries as TREC's topics
trec        judgements and runs
answers     strings that answer questions, in place of judgements
scripts     which scripts write words without spaces
seen_ids    which ids were seen before, in few bytes
"""

from m3search.corpus.answers import read_answers
from m3search.corpus.documents import (
    TITLE_TEMPLATE,
    check_template,
    document_text,
    read_corpus,
    read_queries,
)
from m3search.corpus.trec import read_qrels, read_run, write_run

__all__ = [
    "TITLE_TEMPLATE",
    "check_template",
    "document_text",
    "read_answers",
    "read_corpus",
    "read_qrels",
    "read_queries",
    "read_run",
    "write_run",
]
