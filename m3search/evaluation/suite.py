"""What a set is and how it is run: the keys that a suite has for it, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from m3search.corpus import TITLE_TEMPLATE, check_template
from m3search.errors import ConfigError, DataError
from m3search.evaluation.baselines import K1, B, Implementation
from m3search.evaluation.fused import Fused
from m3search.evaluation.measures import DEFAULT_MEASURES, parse_measures
from m3search.evaluation.presets import check_published
from m3search.plan import MOST_WEIGHT, Plan
from m3search.records import DEFAULT_WEIGHTS, MODES, Candidates, Missing, Mode
from m3search.stores.manifest import Layout

LexicalWeights = Literal["float", "ceil100"]
MultiCodec = Literal["fp16", "int8", "int4", "binary"]
T = TypeVar("T")
ThreeWeights = tuple[float, float, float]
"""of dense, sparse and multi, from 0 up"""

ROWS = ("dense", "sparse", "multi", "dense+sparse", "all", "bm25")
"""what is compared by default; any modes joined by + can be asked for"""
LUCENE_ROW = "bm25-lucene"
BASELINES = ("bm25", LUCENE_ROW)
"""rows that are no modes: BM25, and that of Lucene where the first is another"""
NAMES = {*ROWS, *BASELINES}


@dataclass(frozen=True)
class RowSettings:
    """What a row has in place of the settings of its set; None for those of the set."""

    depth: int | None = None
    candidates: Candidates | None = None
    missing: Missing | None = None

    def __post_init__(self) -> None:
        if self.depth is not None and self.depth < 1:
            raise ValueError("a depth below 1")

    def to_json(self) -> dict[str, int | str]:
        """What the row has of its own."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class EvaluationSet:
    """A corpus, its queries and judgements, and how to run them."""

    path: Path
    """the folder of the set, in one of the layouts"""
    name: str = ""
    """as reports call it; by default the folder's name, with - for what no name may have"""
    group: str = ""
    """sets of one group have a mean of their own"""
    split: str = "test"
    corpus: str = "corpus.jsonl"
    """the file of documents; like those below relative to the path"""
    queries: str = ""
    """the file of queries; by default the one of the layout"""
    qrels: str = ""
    """the file of judgements; by default the one of the layout and the split"""
    answers: str = ""
    """in place of judgements, the file of strings that answer the queries"""
    language: str | None = None
    """for BM25's stemmer and stop words, as "en"; guessed where it is absent"""
    max_length: int | None = None
    """tokens of a text that are encoded; by default all that the model reads"""
    weights: ThreeWeights | None = None
    """of dense, sparse and multi; by default those of the model"""
    row_weights: dict[str, ThreeWeights] = field(default_factory=dict)
    """row -> weights that it has in place of those of all rows"""
    depth: int = 200
    """candidates that dense and sparse give each"""
    missing: Missing = "exact"
    """score of a candidate in a first stage that did not return it, as in a search"""
    candidates: Candidates = "union"
    """of every row: from its own first stages, or from dense alone for the others to re-rank"""
    row_settings: dict[str, RowSettings] = field(default_factory=dict)
    """row -> depth, candidates and missing that it has in place of those above"""
    lexical_weights: LexicalWeights = "float"
    """as the model gives them, or rounded up to hundredths"""
    multi_codec: MultiCodec = "int4"
    """how token vectors are stored, as of an index"""
    title_template: str = TITLE_TEMPLATE
    """what the encoder reads of a document; BM25 always reads title and text"""
    measures: tuple[str, ...] = DEFAULT_MEASURES
    rows: tuple[str, ...] = ROWS
    bm25: Implementation = "bm25s"
    """which BM25 the row of that name is; lucene needs the extra `m3search[bm25]`, and so does the
    row bm25-lucene, which can stand beside it"""
    bm25_k1: float = K1
    """how soon more of a word counts no more, from 0 up"""
    bm25_b: float = B
    """how much the length of a document counts, 0 to 1"""
    run_files: dict[str, str] = field(default_factory=dict)
    """row -> a TREC run of another system, from where the command runs; {set} in its path is the
    name of the set"""
    fused: dict[str, Fused] = field(default_factory=dict)
    """row -> the rows whose runs it fuses, by rank or by score"""
    published: str = ""
    """the published values to stand beside, as miracl/yo"""
    exact: bool = False
    """whether dense and multi look at every row, also where an index has shortcuts"""
    drop_same_id: bool = False
    """whether a document that has the id of the query is left out of every run, as BEIR does"""
    unknown_documents: Literal["error", "keep"] = "error"
    """judgements of documents outside the corpus: an error, or kept as never found"""

    def __post_init__(self) -> None:
        if not self.name:
            own = re.sub(r"[^\w.+-]+", "-", self.path.resolve().name).lstrip(".")
            object.__setattr__(self, "name", own or "set")
        for name in (self.name, *self.run_files, *self.fused):
            if not re.fullmatch(r"[\w+-][\w.+-]*", name):
                raise ValueError(f"the name {name!r}, not of letters, digits, _, -, + and .")
        if both := sorted(self.run_files.keys() & {*self.rows, *NAMES}):
            raise ConfigError(
                "run_files",
                expected="names that are no rows of this engine, and not in rows",
                found=repr(both[0]),
                remedy="It is a row by itself: leave it out of rows, or give it another name.",
            )
        self._check_values()
        self._check_fused()
        if self.published:
            check_published(self.published)
        check_template(self.title_template)
        parse_measures(self.measures)
        self._check_rows()
        _check_own("row_weights", self.row_weights, fused=True)
        _check_own("row_settings", self.row_settings, fused=False)

    def _check_values(self) -> None:
        for name, value in (("depth", self.depth), ("max_length", self.max_length)):
            if value is not None and value < 1:
                raise ValueError(f"a {name} below 1")
        if not 0 <= self.bm25_k1 < math.inf:
            raise ValueError(f"bm25_k1 = {self.bm25_k1}, which is not from 0 up")
        if not 0 <= self.bm25_b <= 1:
            raise ValueError(f"bm25_b = {self.bm25_b}, which is not from 0 to 1")
        if self.qrels and self.answers:
            raise ValueError("both qrels and answers")
        if not self.rows and not self.run_files:
            raise ValueError("no rows")
        for weights in (self.weights, *self.row_weights.values()):
            if weights and not all(0 <= w <= MOST_WEIGHT for w in weights):
                raise ValueError(f"weights {weights}, not all from 0 to {MOST_WEIGHT:.0e}")

    def _check_rows(self) -> None:
        same: dict[tuple[Mode, ...] | Implementation, str] = {}
        for row in self.rows:
            first = same.setdefault(modes_of(row) or self.implementation(row), row)
            if first != row or self.rows.count(row) > 1:
                raise ConfigError(
                    "rows",
                    expected="different rows",
                    found=f"{row!r} twice" if first == row else f"{first!r} and {row!r}",
                    remedy="Name one of them."
                    + (" bm25 is Lucene's, too." if row in BASELINES and first != row else ""),
                )

    def _check_fused(self) -> None:
        known = {*self.rows, *self.run_files}
        if both := sorted(self.fused.keys() & {*known, *NAMES}):
            raise ConfigError(
                "fused",
                expected="names that no other row has",
                found=repr(both[0]),
                remedy="It is a row by itself: leave it out of rows, or give it another name.",
            )
        for name, fused in self.fused.items():
            if lacking := [row for row in fused.rows if row not in known]:
                raise ConfigError(
                    f"fused.{name}.rows",
                    expected=f"some of the rows of the set: {', '.join(sorted(known))}",
                    found=repr(lacking[0]),
                    remedy="Name it in rows or run_files, too.",
                )

    @property
    def layout(self) -> Layout:
        """What its index stores of a document."""
        return Layout(self.title_template, self.multi_codec)

    def run_paths(self) -> dict[str, Path]:
        """Row -> the file of its run."""
        return {row: Path(path.replace("{set}", self.name)) for row, path in self.run_files.items()}

    def implementation(self, row: str) -> Implementation:
        """Which BM25 a row of BASELINES is."""
        return "lucene" if row == LUCENE_ROW else self.bm25

    def settings_of(self, row: str) -> RowSettings | None:
        """What a row has of its own, whatever the order in which its modes are named."""
        return _own(self.row_settings, row)

    def weights_of(self, row: str) -> ThreeWeights | None:
        """What a row is weighed by, as the suite says; None for those of the model."""
        return _own(self.row_weights, row) or self.weights

    def plans(self, k: int, default: Sequence[float] = DEFAULT_WEIGHTS) -> dict[str, Plan]:
        """How each row of modes is searched for k documents; ConfigError where one cannot be.

        A row with a depth of its own has that one, whatever k is; others go as deep as k at least.
        default: the weights of rows for which the suite has none, as the model says.
        """
        plans = {}
        for row in self.rows:
            if modes := modes_of(row):
                own = self.settings_of(row) or RowSettings()
                try:
                    plans[row] = Plan.check(
                        min(k, own.depth or k),
                        own.depth or self.depth,
                        modes,
                        self.weights_of(row),
                        own.missing or self.missing,
                        own.candidates or self.candidates,
                        default,
                    )
                except ConfigError as error:
                    raise ConfigError(
                        f"row {row} of the set {self.name}, {error.where}",
                        expected=error.expected,
                        found=error.found,
                        remedy=error.remedy,
                    ) from error
        return plans


def _check_own(key: str, rows: Iterable[str], *, fused: bool) -> None:
    """ConfigError unless every row is of modes, each a different set of them; fused: of several."""
    known: set[tuple[Mode, ...]] = set()
    for row in rows:
        modes = modes_of(row, key)
        if modes is None or (fused and len(modes) < 2) or modes in known:
            remedy = "Of all and dense+sparse+multi, name one."
            raise ConfigError(
                key,
                expected=f"rows of {'two modes or more' if fused else 'modes'}, each once",
                found=repr(row),
                remedy=f"One mode alone always weighs 1; {remedy.lower()}" if fused else remedy,
            )
        known.add(modes)


def _own(by_row: Mapping[str, T], row: str) -> T | None:
    """What a row has, whatever the order in which its modes are named."""
    modes = modes_of(row)
    return next((own for name, own in by_row.items() if modes_of(name) == modes), None)


def modes_of(row: str, where: str = "rows") -> tuple[Mode, ...] | None:
    """The modes of a row such as "all" or "dense+sparse"; None for a BM25."""
    if row in BASELINES:
        return None
    if row == "all":
        return MODES
    names = row.split("+")
    for name in names:
        if name not in MODES and len(names) > 1 and name in NAMES:
            remedy = f"{name} stands alone; joined by + are {', '.join(MODES)}."
            expected = f"a sum of {', '.join(MODES)}"
            raise ConfigError(where, expected=expected, found=repr(row), remedy=remedy)
        if name not in MODES:
            others = (
                "Modes can be joined by +; what run_files and fused name are rows by themselves."
            )
            raise ConfigError.unknown(where, name, {*NAMES, *MODES}, others)
    if len(set(names)) < len(names):
        remedy = "Name each mode once."
        raise ConfigError(where, expected="different modes", found=repr(row), remedy=remedy)
    return tuple(mode for mode in MODES if mode in names)


def check_folder(wanted: EvaluationSet) -> EvaluationSet:
    """The set, if its folder is there."""
    if not wanted.path.is_dir():
        raise DataError(
            wanted.path,
            expected=f"the folder of the set {wanted.name}",
            found="a file" if wanted.path.exists() else "nothing at this path",
            remedy="Give the folder that holds the sets of a suite with --data.",
        )
    return replace(wanted, path=wanted.path.resolve())
