"""Take out of training files what evaluation sets hold.

A line goes where one of its texts
  equal       equals a document or a query of a set, once both are normalised
              (NFKC, lower case, letters, marks and numbers only, no spaces),
  words       shares 13 words in a row with one,
  letters     or 32 letters, where more than half of them are of a script without spaces,
  document    or where it names, by pos_id or neg_id, a document that one of these rules took out
              of the file beside it (NAME.docs.jsonl of NAME.jsonl).

The texts of a line are its query, pos, neg, title, neg_titles and text. A title alone never equals
anything: many good texts share one. An evaluation set is a folder with corpus.jsonl or
queries.jsonl, or both, in the layout of BEIR. Files keep their names; lines that stay are not
changed; a file of which none stays is not written. The report counts the lines by rule and set, and
names some by a hash of the text, not by the text.

    python trainer/decontaminate.py train/*.jsonl.gz --evaluation eval/sets --out clean/
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ngrams import BLOCK_CHARACTERS, HashedTexts, Hashes, NGrams, in_blocks, normalise
from tooling import (
    Line,
    count,
    give_report,
    ids_of,
    open_lines,
    options,
    plan_outputs,
    read_lines,
    showing,
    texts_of,
    without_lines,
)

from m3search.cli.ending import run_script
from m3search.corpus import read_corpus, read_queries
from m3search.errors import ConfigError
from m3search.lines import find_file
from m3search.records import IntArray
from m3search.training.data import DOCUMENTS, documents_beside

WORDS, LETTERS = 13, 32
RULES = ("equal", "words", "letters")
"""in the order in which they are asked; the first that holds is reported"""
TITLES = ("title", "neg_titles")
FIELDS = ("query", "pos", "neg", *TITLES, "text")


class Hit(NamedTuple):
    """Why a text is taken out."""

    rule: str
    found_in: str
    """the evaluation set"""


class Fingerprints:
    """Hashes, each with the first set that has it, in 12 bytes a hash."""

    def __init__(self) -> None:
        self._hashes: Hashes = np.zeros(0, np.uint64)
        self._sets: IntArray = np.zeros(0, np.int32)

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, hashes: Iterable[Hashes], number: int) -> None:
        """Takes in the hashes of a set."""
        new = np.unique(np.concatenate([np.zeros(0, np.uint64), *hashes]))
        both = np.concatenate([self._hashes, new])
        sets = np.concatenate([self._sets, np.full(len(new), number, np.int32)])
        self._hashes, first = np.unique(both, return_index=True)
        self._sets = sets[first]

    def find(self, hashes: Hashes) -> IntArray:
        """(n,) the set that has each hash, -1 where none has."""
        places = np.minimum(np.searchsorted(self._hashes, hashes), max(len(self) - 1, 0))
        if not len(self):
            return np.full(len(hashes), -1)
        found: IntArray = np.where(self._hashes[places] == hashes, self._sets[places], -1)
        return found


class Evaluation:
    """The texts of evaluation sets, as far as they must not be trained on."""

    def __init__(self, words: int = WORDS, letters: int = LETTERS) -> None:
        self.sets: list[str] = []
        self._words, self._letters = words, letters
        self._known = {rule: Fingerprints() for rule in RULES}

    def add(self, name: str, texts: Iterable[str]) -> None:
        """Takes in a set."""
        hashes: dict[str, list[Hashes]] = {rule: [] for rule in RULES}
        for block in in_blocks(map(normalise, texts)):
            for rule, grams in self._parts(block).items():
                hashes[rule].append(np.unique(grams.hashes))
        for rule, found in hashes.items():
            self._known[rule].add(found, len(self.sets))
        self.sets.append(name)

    def find(self, texts: Sequence[str]) -> dict[int, Hit]:
        """The rows of the texts, normalised, that the rules take out."""
        hits: dict[int, Hit] = {}
        for rule, grams in self._parts(texts).items():
            sets = self._known[rule].find(grams.hashes)
            for place in np.flatnonzero(sets >= 0).tolist():
                hits.setdefault(int(grams.owners[place]), Hit(rule, self.sets[sets[place]]))
        return hits

    def sizes(self) -> dict[str, int]:
        """How many different hashes each rule knows."""
        return {rule: len(known) for rule, known in self._known.items()}

    def _parts(self, texts: Sequence[str]) -> dict[str, NGrams]:
        hashed = HashedTexts(texts)
        return {
            "equal": hashed.wholes(),
            "words": hashed.words(self._words),
            "letters": hashed.letters(self._letters, spaceless=True),
        }


def find_sets(folders: Iterable[Path]) -> list[Path]:
    """The evaluation sets that the folders are, or else hold."""
    found = []
    for folder in folders:
        inside = [folder] if _is_set(folder) else sorted(filter(_is_set, folder.glob("*/")))
        if not inside:
            raise ConfigError(
                "--evaluation",
                expected="a folder with corpus.jsonl or queries.jsonl, or a folder of such",
                found=f"{folder}, which has none",
                remedy="Check the path.",
            )
        found += inside
    return found


def _is_set(folder: Path) -> bool:
    return any(find_file(folder, name) for name in ("corpus.jsonl", "queries.jsonl"))


def read_set(folder: Path) -> Iterator[str]:
    """All documents, with and without their titles, and all queries of a set."""
    if corpus := find_file(folder, "corpus.jsonl"):
        for document in read_corpus(corpus):
            yield document.text
            if document.title:
                yield f"{document.title} {document.text}"
    if queries := find_file(folder, "queries.jsonl"):
        for query in read_queries(queries):
            yield query.text


class Cleaner:
    """Files without what the evaluation holds; documents come before the pairs that name them."""

    def __init__(self, evaluation: Evaluation, examples: int) -> None:
        self._evaluation = evaluation
        self._examples = examples
        self._removed: dict[Path, dict[str, str]] = {}
        """documents that were taken out: file -> id -> set"""

    def clean(self, path: Path, target: Path) -> dict[str, Any]:
        """Writes what stays of a file, and reports on the rest."""
        lines = 0
        examples: list[dict[str, Any]] = []
        removed: Counter[tuple[str, str]] = Counter()
        beside = documents_beside(path)
        gone = self._removed.get(beside.resolve(), {}) if beside else {}
        with open_lines(target) as file:
            for block in _blocks(path):
                judged = self._judge(path, block)
                for row, line in enumerate(block):
                    lines += 1
                    field, text, hit = judged.get(row) or _named(path, line, gone)
                    if hit is None:
                        file.write(line.raw)
                        continue
                    removed[hit] += 1
                    if DOCUMENTS in path.name:
                        self._note(path, line, hit)
                    if len(examples) < self._examples:
                        examples.append(_example(line, field, text, hit))
        counts = {rule: {s: n for (r, s), n in sorted(removed.items()) if r == rule}
                  for rule in (*RULES, "document")}  # fmt: skip
        by_rule = {rule: sets for rule, sets in counts.items() if sets}
        return {"lines": lines, "removed": removed.total(), "by": by_rule, "examples": examples}

    def _judge(self, path: Path, block: Sequence[Line]) -> dict[int, tuple[str, str, Hit]]:
        """row -> (field, text, why), by the first text of a line that breaks a rule."""
        found: list[tuple[int, str, str]] = []
        for row, line in enumerate(block):
            texts = texts_of(path, line, FIELDS)
            found += [(row, field, normalise(text)) for field, text in texts]
        hits = self._evaluation.find([text for _, _, text in found])
        judged: dict[int, tuple[str, str, Hit]] = {}
        for place in sorted(hits):
            row, field, text = found[place]
            if not (field.startswith(TITLES) and hits[place].rule == "equal"):
                judged.setdefault(row, (field, text, hits[place]))
        return judged

    def _note(self, path: Path, line: Line, hit: Hit) -> None:
        name = next((str(line.fields[n]) for n in ("_id", "id", "docid") if n in line.fields), "")
        self._removed.setdefault(path.resolve(), {})[name] = hit.found_in


def _named(path: Path, line: Line, gone: dict[str, str]) -> tuple[str, str, Hit | None]:
    """(field, id, why) of the first document that a line names and that was taken out."""
    for field in ("pos_id", "neg_id") if gone else ():
        for name in ids_of(path, line, field):
            if name in gone:
                return field, name, Hit("document", gone[name])
    return "", "", None


def _example(line: Line, field: str, text: str, hit: Hit) -> dict[str, Any]:
    digest = hashlib.sha256(text.replace(" ", "").encode()).hexdigest()[:16]
    return {"line": line.number, "field": field, "sha256": digest, **hit._asdict()}


def _blocks(path: Path) -> Iterator[list[Line]]:
    block: list[Line] = []
    size = 0
    for line in read_lines(path):
        block.append(line)
        size += len(line.raw)
        if size >= BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def with_documents(files: Iterable[Path]) -> list[Path]:
    """The files, and with pairs their documents and the other way round; documents first."""
    found: dict[Path, None] = {}
    for path in files:
        name = path.name.split(DOCUMENTS)[0]
        of_them = find_file(path.parent, f"{name}.jsonl") if DOCUMENTS in path.name else None
        found |= dict.fromkeys(each for each in (documents_beside(path), path, of_them) if each)
    return sorted(found, key=lambda path: DOCUMENTS not in path.name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options and cleans the files."""
    parser = options(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="training files")
    parser.add_argument("--evaluation", nargs="+", type=Path, required=True, metavar="DIR",
                        help="evaluation sets, or folders that hold such")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the files")
    parser.add_argument(
        "--words", type=count, default=WORDS, metavar="N", help="default %(default)s"
    )
    parser.add_argument("--letters", type=count, default=LETTERS, metavar="N",
                        help="in scripts without spaces; default %(default)s")  # fmt: skip
    parser.add_argument("--examples", type=int, default=5, metavar="N",
                        help="reported of each file; default %(default)s")  # fmt: skip
    args = parser.parse_args(arguments)
    started = time.perf_counter()
    outputs = plan_outputs(with_documents(args.files), args.out)
    evaluation = Evaluation(args.words, args.letters)
    for folder in showing(find_sets(args.evaluation), "sets"):
        evaluation.add(folder.name, read_set(folder))
    cleaner = Cleaner(evaluation, args.examples)
    files = {}
    for path, target in showing(outputs.items(), "files"):
        files[str(target)] = cleaner.clean(path, target)
    report = {
        "sets": evaluation.sets,
        "hashes": evaluation.sizes(),
        "lines": sum(each["lines"] for each in files.values()),
        "removed": sum(each["removed"] for each in files.values()),
        "seconds": round(time.perf_counter() - started, 1),
        "without_lines": without_lines(outputs.values()),
        "files": files,
    }
    give_report(report, args.report)


if __name__ == "__main__":
    run_script(main)
