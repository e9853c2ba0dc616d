"""Make questions for long documents with a chat model, as the training set MultiLongDoc was made.

A paragraph of each document is drawn by the seed, a model behind an OpenAI-compatible endpoint
writes a question for it, and the question with the whole document is a pair (arXiv 2402.03216v4,
section 3.1; the prompt is that of appendix A.2). An answer is refused, and asked for again, where
it is empty, not one question on one line, in another language than the paragraph as far as that is
cheap to tell, or shares 13 words in a row (32 letters without spaces) with it.

Pairs are appended to the output as they come; the same command again goes on with the documents
that have too few. Without a key in the environment variable none is sent, as local servers need
none. Interrupted with Ctrl-C it loses at most what is being asked.

    python trainer/synthesise_questions.py long.jsonl --out questions.jsonl \\
        --base-url http://localhost:8000/v1 --model NAME
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from chat_endpoint import Endpoint, NoAnswerError, Settings
from paragraphs import Drawing
from question_checks import clean_answer, problem_of
from tooling import count, drop_empty, give_report, options, read_lines, showing, wrong_line

from m3search.cli.ending import run_script
from m3search.corpus import read_corpus
from m3search.errors import ConfigError
from m3search.lines import COMPRESSED_SUFFIXES
from m3search.records import Document

PROMPT = (
    "You are a curious AI assistant, please generate one specific and valuable question based on "
    "the following text. The generated question should revolve around the core content of this "
    'text, and avoid using pronouns (e.g., "this"). Note that you should generate only one '
    "question, without including additional content:"
)
"""of arXiv 2402.03216v4, appendix A.2, in its words; the paragraph follows"""
MOST_FAILURES = 10
"""requests in a row that end without an answer before the whole is given up"""


class Asked(NamedTuple):
    """A question that is wanted: the number-th of a document, from 0."""

    document: Document
    number: int
    paragraph: str


@dataclass
class Writer:
    """Questions that are asked for until one is good."""

    endpoint: Endpoint
    prompt: str = PROMPT
    tries: int = 3
    """answers asked for before a question is given up"""
    refused: Counter[str] = field(default_factory=Counter)
    """answers by what was wrong with them"""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, asked: Asked) -> str | None:
        """A good question, or None; NoAnswerError where the endpoint does not answer."""
        for _ in range(self.tries):
            question = clean_answer(self.endpoint.ask(f"{self.prompt}\n\n{asked.paragraph}"))
            problem = problem_of(question, asked.paragraph)
            if not problem:
                return question
            with self._lock:
                self.refused[problem] += 1
        return None


def read_done(path: Path) -> set[tuple[str, int]]:
    """(document id, number) of the questions of an earlier run; a line cut off at the end goes."""
    if not path.exists():
        return set()
    whole = 0
    with path.open("rb+") as file:
        for raw in file:
            whole += len(raw) if raw.endswith(b"\n") else 0
        file.truncate(whole)
    if not whole:
        return set()
    done = set()
    for line in read_lines(path):
        name, number = line.fields.get("id"), line.fields.get("paragraph")
        if not isinstance(name, str) or not isinstance(number, int):
            expected = "lines of an earlier run, with id and paragraph"
            raise wrong_line(path, line, expected, "another line")
        done.add((name, number))
    return done


def wanted(
    documents: Iterable[Document],
    done: Container[tuple[str, int]],
    drawing: Drawing,
    skipped: Counter[str],
) -> Iterator[Asked]:
    """The questions to ask for; `skipped` counts documents by why none is asked for."""
    for document in documents:
        if len(document.text) < drawing.least_document:
            skipped["short document"] += 1
            continue
        paragraphs = drawing.draw(document)
        asked = [
            Asked(document, number, paragraph)
            for number, paragraph in enumerate(paragraphs)
            if (document.id, number) not in done
        ]
        if not asked:
            skipped["done before" if paragraphs else "no paragraph"] += 1
        yield from asked


def ask_all(
    writer: Writer, asked: Iterable[Asked], threads: int
) -> Iterator[tuple[Asked, str | None]]:
    """Each with its question, in their order; None where there is no good one.

    `threads` are asked at a time. An endpoint that has failed `MOST_FAILURES` times in a row ends
    it with a ConfigError, and so does one that has answered none of the questions.
    """
    failures, answered, reason = 0, False, ""
    remaining = iter(asked)
    pool = ThreadPoolExecutor(threads)
    waiting: deque[tuple[Asked, Future[str | None]]] = deque()
    try:
        while True:
            for each in islice(remaining, 2 * threads - len(waiting)):
                waiting.append((each, pool.submit(writer.write, each)))
            if not waiting:
                break
            each, future = waiting.popleft()
            question = None
            try:
                question = future.result()
                failures, answered = 0, True
            except NoAnswerError as error:
                failures, reason = failures + 1, str(error)
                if failures >= MOST_FAILURES:
                    raise _silent(failures, reason) from error
            yield each, question
        if failures and not answered:
            raise _silent(failures, reason)
    finally:
        writer.endpoint.stop()
        pool.shutdown(wait=False, cancel_futures=True)


def _silent(failures: int, reason: str) -> ConfigError:
    return ConfigError(
        "the endpoint",
        expected="answers",
        found=f"none to {failures} questions in a row, last {reason}",
        remedy="Check it, then give the same command again: it goes on where it stopped.",
    )


def training_line(asked: Asked, question: str, by_id: bool) -> dict[str, Any]:
    """The pair: with the document, or with its id alone."""
    document = asked.document
    line: dict[str, Any] = {"query": question}
    if by_id:
        line["pos_id"] = document.id
    else:
        line["pos"] = [document.text]
        if document.title:
            line["title"] = document.title
    language = document.metadata.get("lang") or document.metadata.get("language")
    if language:
        line["lang"] = language
    return line | {"id": document.id, "paragraph": asked.number}


def check_output(path: Path) -> None:
    """ConfigError for a name that cannot be appended to."""
    if path.suffix in COMPRESSED_SUFFIXES[1:]:
        raise ConfigError(
            "--out",
            expected="a plain file, which a stopped run can go on with",
            found=str(path),
            remedy=f"Leave {path.suffix} out, and pack the file when it is whole.",
        )


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = options(__doc__)
    add = parser.add_argument
    # fmt: off
    add("corpus", type=Path, metavar="FILE", help="documents, JSON lines with _id and text")
    add("--out", type=Path, required=True, metavar="FILE", help="pairs are appended to it")
    add("--base-url", required=True, metavar="URL", help="up to and without /chat/completions")
    add("--model", required=True, metavar="NAME", help="as the endpoint calls it")
    add("--key-variable", default="OPENAI_API_KEY", metavar="NAME",
        help="environment variable with the key; default %(default)s")
    add("--questions", type=count, default=1, metavar="N", help="a document; default %(default)s")
    add("--pos-id", action="store_true",
        help="write pos_id in place of the text: put the corpus beside as NAME.docs.jsonl")
    add("--min-document", type=int, default=2000, metavar="N", help="characters; %(default)s")
    add("--min-paragraph", type=count, default=300, metavar="N", help="characters; %(default)s")
    add("--max-paragraph", type=count, default=2000, metavar="N", help="characters; %(default)s")
    add("--prompt", type=Path, metavar="FILE", help="another prompt; the paragraph follows it")
    add("--answers", type=count, default=3, metavar="N", help="tries for a good one; %(default)s")
    add("--concurrency", type=count, default=4, metavar="N", help="requests at once; %(default)s")
    add("--per-minute", type=float, default=0.0, metavar="N", help="requests; default: no limit")
    add("--timeout", type=float, default=60.0, metavar="S", help="of a request; %(default)s")
    add("--tries", type=count, default=5, metavar="N", help="of a request; %(default)s")
    add("--backoff", type=float, default=1.0, metavar="S", help="first pause; %(default)s")
    add("--temperature", type=float, default=0.7, metavar="X", help="default %(default)s")
    add("--price", type=float, nargs=2, metavar=("IN", "OUT"),
        help="of a million tokens, for the cost in the report")
    add("--seed", type=int, default=42, help="of the paragraphs; default %(default)s")
    # fmt: on
    args = parser.parse_args(arguments)
    if args.min_paragraph > args.max_paragraph:
        parser.error("--min-paragraph is above --max-paragraph")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options and appends the questions."""
    args = read_options(arguments)
    started = time.perf_counter()
    check_output(args.out)
    settings = Settings(
        args.base_url, args.model, os.environ.get(args.key_variable, ""), args.timeout,
        args.tries, args.backoff, args.per_minute, args.temperature,
    )  # fmt: skip
    prompt = PROMPT if args.prompt is None else args.prompt.read_text(encoding="utf-8").strip()
    writer = Writer(Endpoint(settings), prompt, args.answers)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    drawing = Drawing(
        args.questions, args.min_document, args.min_paragraph, args.max_paragraph, args.seed
    )
    asked = wanted(read_corpus(args.corpus), read_done(args.out), drawing, skipped)
    try:
        with args.out.open("ab") as output:
            for each, question in ask_all(writer, showing(asked, "questions"), args.concurrency):
                counts["written" if question else "given_up"] += 1
                if question:
                    line = training_line(each, question, args.pos_id)
                    output.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                    output.flush()
    finally:
        report = _report(writer, counts, skipped, args.price, started)
        give_report(report | {"without_lines": drop_empty(args.out)}, args.report)


def _report(
    writer: Writer,
    counts: Counter[str],
    skipped: Counter[str],
    price: Sequence[float] | None,
    started: float,
) -> dict[str, Any]:
    usage = writer.endpoint.usage.counts
    names = ("requests", "retries", "prompt_tokens", "completion_tokens")
    report: dict[str, Any] = {
        "written": counts["written"],
        "given_up": counts["given_up"],
        "skipped": dict(skipped),
        "refused": dict(writer.refused),
        **{name: usage[name] for name in names},
        "failures": {name: n for name, n in usage.items() if name not in names},
        "seconds": round(time.perf_counter() - started, 1),
    }
    if price is not None:
        tokens = (usage["prompt_tokens"], usage["completion_tokens"])
        report["cost"] = round(sum(p * n for p, n in zip(price, tokens, strict=True)) / 1e6, 6)
    return report


if __name__ == "__main__":
    run_script(main)
