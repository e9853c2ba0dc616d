"""Runs and judgements into measures, as trec_eval computes them (through ir_measures)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ir_measures
import numpy as np

from m3search.errors import ConfigError
from m3search.records import Qrels, Run

DEFAULT_MEASURES = ("nDCG@10", "R@100")
ANSWER_RECALL = "AnswerRecall"
"""the measure of questions with answers in place of judgements"""


@dataclass(frozen=True)
class Report:
    """How good some runs are on the same judgements; values are 0 to 1, higher is better."""

    measures: tuple[str, ...]
    queries: int
    """queries with judgements: every mean is over all of them"""
    means: dict[str, dict[str, float]]
    """run -> measure -> mean over the queries"""
    per_query: dict[str, dict[str, dict[str, float]]]
    """run -> measure -> query id -> value"""
    absent: dict[str, int]
    """run -> queries for which it has no document; they count 0"""

    def to_json(self) -> dict[str, Any]:
        """The means by run and measure, and what they are over."""
        return {"rows": self.means, "queries": self.queries, "absent": self.absent}

    def to_markdown(self) -> str:
        """A table of runs x measures in percent, with what was absent below it."""
        lines = [["run", *self.measures]]
        for row, values in self.means.items():
            lines.append([row, *(shown(values[measure], measure) for measure in self.measures)])
        notes = ["", f"Means in percent over {self.queries} queries; an absent one counts 0."]
        absent = ", ".join(f"{row} {count}" for row, count in self.absent.items() if count)
        if absent:
            notes.append(f"Absent: {absent}.")
        return markdown_table(lines) + "\n".join(notes) + "\n"


def is_count(measure: str) -> bool:
    """Whether its values are numbers of documents, as of NumRet; those of others are 0 to 1."""
    return measure.startswith("Num")


def shown(value: float | None, measure: str) -> str:
    """A value as tables have it: in percent, or as it is of a measure that counts."""
    if value is not None and is_count(measure):
        return f"{value:.1f}".removesuffix(".0")
    return in_percent(value)


def shown_difference(value: float, measure: str) -> str:
    """A difference of two values with its sign: in points, or as it is of a measure that counts."""
    return f"{value if is_count(measure) else 100 * value:+z.1f}"


def in_percent(value: float | None) -> str:
    """A value of 0 to 1 as reports show it; nothing for one that is not there."""
    return "" if value is None else f"{100 * value:.1f}"


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its header first; all columns but the first stand to the right."""
    header, *others = [f"| {' | '.join(line)} |\n" for line in lines]
    return "".join([header, f"|---|{'---:|' * (len(lines[0]) - 1)}\n", *others])


def evaluate(
    runs: Mapping[str, Run], qrels: Qrels, measures: Sequence[str] = DEFAULT_MEASURES
) -> Report:
    """The measures of every run over all queries of the judgements (`trec_eval -c`).

    A query that a run lacks counts 0; one without judgements is left out. Documents of equal
    score are taken in descending order of their ids, as trec_eval does; ConfigError for a score
    that is not a number. Measures are named as in
    ir_measures: nDCG@10, R@100, RR@10, P(rel=2)@5. AnswerRecall@k is 1 for a question where any of
    the first k documents has a grade above 0, else 0.
    """
    if not qrels:
        remedy = "Give at least one judgement."
        raise ConfigError("qrels", expected="judgements", found="none", remedy=remedy)
    parsed = parse_measures(measures)
    per_query = {
        row: {
            name: _complete(values, qrels) for name, values in _values(run, qrels, parsed).items()
        }
        for row, run in runs.items()
    }
    return Report(
        measures=tuple(parsed),
        queries=len(qrels),
        means={
            row: {name: _aggregate(parsed[name], values) for name, values in by_measure.items()}
            for row, by_measure in per_query.items()
        },
        per_query=per_query,
        absent={row: sum(not run.get(query) for query in qrels) for row, run in runs.items()},
    )


def recall_curve(run: Run, qrels: Qrels, depths: Sequence[int]) -> tuple[float, ...]:
    """R@depth at each of the depths, as `evaluate` has it, from one look at the run."""
    found = np.zeros((len(qrels), len(depths)))
    for values, (query, grades) in zip(found, qrels.items(), strict=True):
        relevant = [document for document, grade in grades.items() if grade > 0]
        if relevant and (scored := run.get(query)):
            places = _in_order(scored)  # from the last one up
            ranks = [len(places) + 1 - places[name] for name in relevant if name in places]
            values[:] = [sum(rank <= depth for rank in ranks) / len(relevant) for depth in depths]
    return tuple(sum(column) / len(qrels) for column in found.T.tolist())


def parse_measures(names: Iterable[str]) -> dict[str, ir_measures.Measure]:
    """Measures by the names ir_measures gives them, in the order asked, none twice."""
    parsed = dict(_parse_measure(name) for name in names)
    if not parsed:
        raise ConfigError(
            "measures", expected="at least one", found="none", remedy="Name one, as nDCG@10."
        )
    return parsed


def reads_answers(name: str) -> bool:
    """Whether a measure is one of questions with answers."""
    return name.strip().startswith(f"{ANSWER_RECALL}@")


def cutoffs(names: Iterable[str]) -> list[int | None]:
    """How many documents a query each of the measures looks at; None for whole runs, as AP does."""
    parsed = parse_measures(names).values()
    return [int(at) if (at := measure.params.get("cutoff")) else None for measure in parsed]


def least_depth(name: str, k: int) -> int:
    """How many of k documents, best first, decide the value of a measure."""
    measure = next(iter(parse_measures([name]).values()))
    if measure.params.get("judged_only"):  # its cut-off does not count the others
        return k
    return min(k, int(measure.params.get("cutoff", k)))


def _parse_measure(name: str) -> tuple[str, ir_measures.Measure]:
    """A measure with its name, that of ir_measures where it is one of those."""
    if match := re.fullmatch(rf"\s*({ANSWER_RECALL}@([1-9]\d*))\s*", name):
        return match[1], ir_measures.Success @ int(match[2])
    try:
        measure = ir_measures.parse_measure(name)
        supported = ir_measures.DefaultPipeline.supports(measure)  # type: ignore[no-untyped-call]
    except (NameError, ValueError, SyntaxError, TypeError, AssertionError) as error:
        raise _unknown_measure(name) from error  # by an assertion those that lack a cut-off
    if measure.params.get("cutoff", 1) < 1:
        raise _unknown_measure(name)
    if str(measure).startswith("Accuracy"):  # divides by the documents that are not relevant
        raise ConfigError(
            "measures",
            expected="a measure that every query has a value of",
            found=repr(name),
            remedy="Whether the first hit is relevant is P@1, whether any of k is Success@k.",
        )
    if not supported:
        raise ConfigError(
            "measures",
            expected="a measure that what is installed can compute",
            found=repr(name),
            remedy="Check its parameters; some measures of ir_measures need another package, as "
            "RBP and INST do cwl-eval.",
        )
    return str(measure), measure


def _unknown_measure(name: str) -> ConfigError:
    """Mostly the case of a letter is wrong, as in ndcg@10."""
    word, rest = re.fullmatch(r"\s*(\w*)(.*)", name, flags=re.DOTALL).groups()  # type: ignore[union-attr]
    names = (ANSWER_RECALL, *reversed(ir_measures.measures.registry))
    known = {each.lower(): each for each in names}
    near = known.get(word.lower())
    if near is None or near == word:
        remedy = "Write it as ir_measures does: nDCG@10, R@100, RR@10, P@5, AP."
    else:
        remedy = f"Did you mean {near + rest!r}?"
    expected = "a measure of ir_measures with its cut-off"
    return ConfigError("measures", expected=expected, found=repr(name), remedy=remedy)


def _values(
    run: Run, qrels: Qrels, measures: Mapping[str, ir_measures.Measure]
) -> dict[str, dict[str, float]]:
    """Measure -> query -> value, for the queries that ir_measures answers about."""
    values: dict[str, dict[str, float]] = {name: {} for name in measures}
    filled = {
        query: _in_order(scored) for query, scored in run.items() if scored and query in qrels
    }
    names: dict[str, list[str]] = {}
    for name, measure in measures.items():
        names.setdefault(str(measure), []).append(name)
    known: dict[int, tuple[ir_measures.Measure, list[str]]] = {}
    if filled:
        # gdeval, which ERR@k is by, takes no other names of queries than numbers
        numbers = {query: str(number) for number, query in enumerate(qrels, start=1)}
        queries = list(qrels)
        judged = {numbers[query]: grades for query, grades in qrels.items()}
        ranked = {numbers[query]: places for query, places in filled.items()}
        for metric in ir_measures.iter_calc(list(measures.values()), judged, ranked):
            measure = metric.measure
            if id(measure) not in known:  # to name it takes longer than all else
                known[id(measure)] = (measure, names[str(measure)])
            for name in known[id(measure)][1]:  # two names may be one measure
                values[name][queries[int(metric.query_id) - 1]] = float(metric.value)
    return values


def _in_order(scored: Mapping[str, float]) -> dict[str, float]:
    """The documents with their places from the last one up, as trec_eval orders them.

    By their scores as float32, and equal ones by id. RR@10 and others of ir_measures are not by
    trec_eval, and would take equal scores in another order.
    """
    with np.errstate(over="ignore"):
        values = np.array([*scored.values()], np.float64).astype(np.float32)
    if np.isnan(values).any():
        raise ConfigError(
            "scores of a run",
            expected="numbers",
            found=f"nan for document {[*scored][int(np.isnan(values).argmax())]!r}",
            remedy="Leave such documents out, or score them.",
        )
    scores = values.tolist()
    ordered = [document for _, document in sorted(zip(scores, scored, strict=True))]
    return dict(zip(ordered, np.arange(1.0, len(ordered) + 1).tolist(), strict=True))


def _complete(values: Mapping[str, float], qrels: Qrels) -> dict[str, float]:
    return {query: values.get(query, 0.0) for query in qrels}


def _aggregate(measure: ir_measures.Measure, values: Mapping[str, float]) -> float:
    """The mean, or the sum for the few measures that count, such as NumRet."""
    total = measure.aggregator()
    for value in values.values():
        total.add(value)
    return float(total.result())
