"""Component scores: every run that a search gives is made from them, kept in a file or not."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from evaluation_fakes import JUDGED, Log, WordEncoder, make_set

from m3search.candidates import Scored
from m3search.corpus import read_corpus, read_queries
from m3search.errors import ArtifactError, ConfigError, DataError
from m3search.evaluation import EvaluationSet, ReportFolder, evaluate_sets
from m3search.evaluation.collection import load_collection
from m3search.evaluation.components import Origin, collect, cut
from m3search.evaluation.fused import Fused
from m3search.evaluation.score_files import read_scores
from m3search.index import Index
from m3search.plan import Plan
from m3search.records import MODES, Candidates, Missing, Query
from m3search.search import Searcher

WORDS = ["red", "blue", "green", "fox", "whale", "panda", "tree", "animal"]
SUBSETS = [
    ("dense",), ("sparse",), ("multi",), ("dense", "sparse"), ("dense", "multi"),
    ("sparse", "multi"), MODES,
]  # fmt: skip


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    folder = tmp_path_factory.mktemp("words")
    random = np.random.default_rng(5)
    texts = {f"d {n}": " ".join(random.choice(WORDS, 1 + n % 6)) for n in range(60)}
    queries = {f"q{n}": " ".join(random.choice(WORDS, 1 + n % 4)) for n in range(9)}
    make_set(folder / "set", texts, {**queries, "unknown": "xyz"}, {"q1": {"d 1": 1}})
    encoder = WordEncoder(WORDS)
    documents = read_corpus(folder / "set" / "corpus.jsonl.gz")
    return Searcher(Index.build(folder / "index", documents, encoder), encoder)  # type: ignore[arg-type]


def plans(k: int = 7) -> list[Plan]:
    return [
        Plan.check(k, depth, modes, (1, 0.3, 2), missing, candidates)
        for modes, missing, candidates, depth in product(
            SUBSETS, get_args(Missing), get_args(Candidates), (7, 20)
        )
    ]


def queries_of(searcher: Searcher) -> Any:
    return searcher.encode(read_queries(searcher.index.path.parent / "set" / "queries.jsonl"))


def assert_same_run(found: Any, wanted: Any) -> None:
    """But for documents of equal scores at the end, where a search takes those that come first."""
    assert found.keys() == wanted.keys()
    for query, documents in wanted.items():
        scores = list(documents.values())
        assert list(found[query].values()) == pytest.approx(scores, rel=1e-6)
        above = [name for name, score in documents.items() if score > scores[-1]]
        assert list(found[query])[: len(above)] == above, query


def test_runs_are_those_of_searches(
    searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m3search.search.BATCH", 4)
    queries = queries_of(searcher)
    wanted_set = EvaluationSet(searcher.index.path.parent / "set")
    collection = load_collection(wanted_set)
    done: list[int] = []
    origin = Origin.of(wanted_set, collection, searcher.encoder, searcher.index)
    scores = collect(searcher, queries, plans(), origin, done.append)
    assert sum(done) == len(queries) == len(scores.queries)
    assert (scores.stages, scores.modes, scores.depth) == (MODES, MODES, 20)
    scores.write(tmp_path / "scores.jsonl.gz")
    kept = read_scores(tmp_path / "scores.jsonl.gz", wanted_set, collection)
    assert kept.origin == origin
    for plan in plans():
        wanted = searcher.run(
            queries,
            plan.k,
            weights=plan.weights,
            depth=plan.depth,
            modes=plan.modes,
            missing=plan.missing,
            candidates=plan.candidates,
        )
        assert_same_run(scores.run(plan), wanted)
        assert kept.run(plan) == scores.run(plan)


def test_the_order_of_a_corpus_decides_no_measure(tmp_path: Path) -> None:
    """Of documents that are as good as the last of a run, ids decide which are in."""
    texts = {f"d{number:03}": "red" for number in range(150)}
    judged = {"q1": {"d004": 1, "d120": 1, "d149": 1}}
    values = []
    for order in (sorted(texts), sorted(texts, reverse=True)):
        folder = tmp_path / str(len(values))
        make_set(folder, {name: texts[name] for name in order}, {"q1": "red"}, judged)
        for measures in (("R@100",), ("R@100", "R@120")):
            rows = ("dense", "sparse", "all", "bm25")
            wanted = EvaluationSet(folder, rows=rows, measures=measures)
            fused = replace(wanted, fused={"rrf": Fused(("sparse", "bm25"))})
            encoder: Any = lambda _: WordEncoder(WORDS)  # noqa: E731
            for each in (wanted, fused):
                [found] = evaluate_sets([each], encoder).sets
                values.append({found.report.means[row]["R@100"] for row in rows})
    assert values == [{2 / 3}] * 8


def test_a_run_is_cut_among_equal_scores_by_id() -> None:
    found = [("b", 3.0), ("x", 2.0), ("a", 1.0), ("z", 1.0), ("m", 1.0)]
    assert [*cut(found, 3)] == ["b", "x", "z"]
    assert [*cut(found, 4)] == ["b", "x", "z", "m"]
    assert [*cut(found, 2)] == ["b", "x"] and [*cut(found, 9)] == ["b", "x", "a", "z", "m"]
    assert cut(found, 3) == {"b": 3.0, "x": 2.0, "z": 1.0} and cut([], 3) == {}


def test_what_is_not_there_is_refused(searcher: Searcher) -> None:
    queries = queries_of(searcher)
    small = Plan.check(7, 7, ("dense", "multi"), None, "exact", "union")
    origin = Origin("0" * 64, "{text}", {}, "float32", {}, "")
    scores = collect(searcher, queries, [small], origin)
    assert (scores.stages, scores.modes) == (("dense",), ("dense", "multi"))
    for modes, depth, lacking in (
        (("sparse",), 7, "the scores of sparse"),
        (("multi",), 7, "what multi retrieves"),
        (("dense",), 8, "the 8 best of a stage"),
    ):
        with pytest.raises(ConfigError, match=f"^here: expected for the row r: {lacking}"):
            scores.check("r", Plan.check(7, depth, modes, None, "exact", "union"), "here")
    scores.check("r", small, "here")


def test_an_empty_index_has_no_candidates(tmp_path: Path) -> None:
    encoder = WordEncoder(WORDS)
    empty = Searcher(Index.build(tmp_path / "index", [], encoder), encoder)  # type: ignore[arg-type]
    queries = empty.encode([Query("q", "red fox")])
    (found,) = empty.candidates(queries, stages=MODES, modes=MODES)
    assert (found.query, found.documents, len(found.scored.rows)) == ("q", [], 0)


def test_ties_and_missing_scores_by_hand() -> None:
    scored = Scored(
        np.array([3, 5, 8, 9]),
        {
            "dense": np.array([0.5, 0.25, 0.5, 0.125], np.float32),
            "sparse": np.array([1, 2, 0, 4], np.float32),
        },
        {"dense": np.array([1, 3, 2, 0]), "sparse": np.array([0, 2, 0, 1])},
    )

    def ranked(depth: int, missing: str, candidates: str = "union") -> dict[int, float]:
        plan = Plan.check(1, depth, ("dense", "sparse"), (1, 1, 1), missing, candidates)
        rows, scores = scored.ranked(replace(plan, k=4))  # check raises the depth to k
        return dict(zip(rows.tolist(), scores.tolist(), strict=True))

    assert ranked(3, "exact") == {9: 4.125, 5: 2.25, 3: 1.5, 8: 0.5}
    assert ranked(3, "zero") == {9: 4.0, 5: 2.25, 3: 0.5, 8: 0.5}
    assert list(ranked(3, "zero")) == [9, 5, 3, 8]  # the tie by row
    assert ranked(3, "min") == {9: 4.25, 5: 2.25, 3: 2.5, 8: 2.5}
    assert ranked(1, "exact") == {9: 4.125, 3: 1.5}
    assert ranked(2, "zero", "dense") == {3: 1.5, 8: 0.5}


def evaluate(tmp_path: Path, log: Log, scores: Path | None = None, **changes: Any) -> Any:
    folder = tmp_path / "animals"
    if not folder.exists():
        make_set(folder)
    wanted = EvaluationSet(folder, **{"rows": ("dense", "all"), **changes})
    report = ReportFolder(tmp_path / "report")
    experiment = evaluate_sets(
        [wanted], log.encoders, engine=log.engine(), keep=report.add, scores=scores
    )
    report.finish(experiment)
    return experiment.to_json()["sets"]["animals"]


def test_a_report_is_made_again_from_its_scores(tmp_path: Path) -> None:
    first = evaluate(tmp_path, log := Log())
    kept = tmp_path / "report" / "scores"
    again = evaluate(tmp_path, second := Log(), kept)
    assert again["rows"] == first["rows"]
    for name in ("model", "precision", "fingerprints"):
        assert again[name] == first[name]
    assert log.built and not second.built and not second.lengths
    changed = evaluate(tmp_path, Log(), kept, weights=(0.0, 0.0, 1.0), measures=("P@1",))
    assert list(changed["rows"]["all"]) == ["P@1"]
    assert changed["settings"]["weights"]["all"] == {"dense": 0.0, "sparse": 0.0, "multi": 1.0}
    with pytest.raises(
        ConfigError, match="what multi retrieves"
    ):  # its own best were not retrieved
        evaluate(tmp_path, Log(), kept, rows=("multi",))


def test_scores_of_something_else_are_refused(tmp_path: Path) -> None:
    evaluate(tmp_path, Log())
    kept = tmp_path / "report" / "scores"
    for changes, said in (
        ({"title_template": "{text}"}, "title_template = '{text}', found with"),
        ({"multi_codec": "int8"}, "multi_codec = 'int8', found with 'int4'"),
        ({"max_length": 8}, "max_length = 8, found with 512"),
    ):
        with pytest.raises(ArtifactError, match=re.escape(said)):
            evaluate(tmp_path, Log(), kept, **changes)
    file = kept / "animals.jsonl.gz"
    queries = tmp_path / "animals" / "queries.jsonl"
    asked = queries.read_text(encoding="utf-8")
    queries.write_text(asked.replace("whale", "panda"), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"'q[0-9]' as the set asks it, found of other words"):
        evaluate(tmp_path, Log(), kept)
    queries.write_text(asked, encoding="utf-8")
    whole = file.read_bytes()
    lines = gzip.decompress(whole).splitlines()
    assert len(lines) == 1 + len(JUDGED)
    file.write_bytes(gzip.compress(b"\n".join(lines[:-1])))
    with pytest.raises(ArtifactError, match="none of 'q2'"):
        evaluate(tmp_path, Log(), kept)
    file.write_bytes(whole)
    corpus = tmp_path / "animals" / "corpus.jsonl.gz"
    corpus.write_bytes(gzip.compress(gzip.decompress(corpus.read_bytes()) + b"\n"))
    with pytest.raises(ArtifactError, match="this set's corpus"):
        evaluate(tmp_path, Log(), kept)
    file.unlink()
    with pytest.raises(DataError, match="nothing at this path"):
        evaluate(tmp_path, Log(), kept)


HEADER: dict[str, Any] = {
    "format": 2, "depth": 3, "stages": ["dense"], "modes": ["dense"], "corpus": "0",
    "title_template": "{text}", "model": {"max_length": 9, "fusion_weights": [1, 1, 1]},
    "precision": "cpu float32", "queries": {}, "index": "0",
}  # fmt: skip
REACHED = HEADER | {"reach": {"dense": {"stages": ["dense"], "depth": 1}}}
LINE: dict[str, Any] = {
    "query": "q", "documents": ["a"], "scores": {"dense": [1]}, "ranks": {"dense": [1]},
}  # fmt: skip


@pytest.mark.parametrize(
    "lines",
    [
        [{"depth": 3}],
        [HEADER | {"format": 1}],
        [HEADER | {"stages": ["dens"]}],
        [HEADER | {"model": []}],
        [HEADER | {"queries": 3}],
        [HEADER | {"model": {"max_length": 9}}],
        [HEADER, LINE | {"documents": []}],
        [HEADER, LINE | {"documents": None}],
        [HEADER, LINE | {"ranks": {}}],
        [HEADER, LINE, LINE],
        [HEADER, LINE | {"scores": {"dense": [None]}}],
        [HEADER | {"reach": {"dense": {"stages": ["dense"]}}}],
        [REACHED, LINE | {"ranks": {"dense": [2]}}],
        [REACHED, LINE | {"scores": {"dense": [None]}, "ranks": {"dense": [1]}}],
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, lines: list[Any]) -> None:
    wanted = EvaluationSet(make_set(tmp_path / "set"))
    path = tmp_path / "scores.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match=rf"scores\.jsonl.*line {len(lines)}.*component scores"):
        read_scores(path, wanted, load_collection(wanted))
