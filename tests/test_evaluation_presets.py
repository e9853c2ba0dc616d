"""Presets: the protocol of the paper, the values that it has, and ours beside them."""

from __future__ import annotations

import fnmatch
import math
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_copies import (  # noqa: F401
    Hub,
    hub_of_a_test,
    put_beir,
    put_miracl,
    put_mkqa,
    put_mldr,
    put_narrativeqa,
)
from scipy import sparse as sp

import m3search
from m3search.errors import ConfigError
from m3search.evaluation import (
    EvaluationSet,
    ReportFolder,
    evaluate_sets,
    load_sets,
)
from m3search.evaluation.presets import find_preset, preset_names, read_published
from m3search.evaluation.sources import find_source
from m3search.records import MODES, Encoded, ModelIdentity, Run

ROOT = Path(m3search.__file__).parent
ROWS = ["dense", "sparse", "multi", "dense+sparse", "all"]


def test_the_presets_are_those_of_the_paper() -> None:
    assert preset_names() == ["miracl", "mkqa", "mldr", "narrativeqa"]
    assert [len(find_preset(name).languages) for name in preset_names()] == [18, 25, 13, 1]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_whole(name: str) -> None:
    """Its sets load, and what is published is of its languages, rows and measures."""
    preset = find_preset(name)
    sources = [find_source(preset.source_name(language)) for language in preset.languages]
    assert len({source.set_name for source in sources}) == len(preset.languages)
    tables = read_published(name)
    assert [table.measure for table in tables] == preset.settings["measures"]
    for table in tables:
        rows = [row for row in table.average if row != "bm25"]
        assert rows == ROWS
        assert set(table.languages) <= set(ROWS) <= set(preset.settings["rows"])
        for row, values in table.languages.items():
            assert set(values) <= set(preset.languages)
            if len(values) == len(preset.languages):
                mean = sum(values.values()) / len(values)
                assert mean == pytest.approx(table.average[row], abs=0.1), row


def test_values_of_the_paper_by_hand() -> None:
    """Cells of its tables, picked from the first, the middle and the last columns."""
    [ndcg, recall] = read_published("miracl")
    cells = {("dense", "ar"): 78.4, ("sparse", "sw"): 57.9, ("multi", "te"): 87.9,
             ("dense+sparse", "de"): 57.7, ("all", "yo"): 83.5}  # fmt: skip
    assert all(ndcg.languages[row][language] == value for (row, language), value in cells.items())
    assert (ndcg.average["all"], recall.average["all"]) == (71.5, 96.4)
    [mldr] = read_published("mldr")
    assert (mldr.languages["all"]["it"], mldr.languages["dense"]["zh"]) == (75.5, 26.0)
    assert read_published("mkqa")[0].languages["all"]["km"] == 69.2
    assert read_published("narrativeqa")[0].average["all"] == 61.7


@pytest.mark.parametrize("folder", ["evaluation/presets"])
def test_what_is_installed_has_the_presets(folder: str) -> None:
    pyproject = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = pyproject["tool"]["setuptools"]["package-data"]["m3search"]
    for path in (ROOT / folder).glob("*.toml"):
        name = path.relative_to(ROOT).as_posix()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


# --- the protocol

WORDS = [f"w{number}" for number in range(40)]
DIM = 16


@dataclass
class RandomEncoder:
    """Each word has a vector for each mode; a text has their sums, or all of them.

    The dense vector of a query stands against its words: what sparse finds, dense finds late.
    """

    max_length: int | None = 512
    precision = "cpu float32"
    modes = MODES

    def __post_init__(self) -> None:
        random = np.random.default_rng(11)
        self.dense = random.standard_normal((len(WORDS), DIM)).astype(np.float32)
        self.weights = random.random(len(WORDS)).astype(np.float32)
        vectors = random.standard_normal((len(WORDS), DIM)).astype(np.float32)
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity(
            "random", "r" * 64, DIM, len(WORDS), DIM, self.max_length or 512, "cls"
        )

    def require(self, modes: object) -> None:
        """It has them all."""

    def encode(
        self, texts: list[str], kind: str = "document", *, progress: Any = None, **_: object
    ) -> Encoded:
        dense = np.zeros((len(texts), DIM), np.float32)
        sparse = np.zeros((len(texts), len(WORDS)), np.float32)
        multi = []
        for row, text in enumerate(texts):
            known = [WORDS.index(word) for word in text.split() if word in WORDS] or [0]
            dense[row] = self.dense[known].sum(axis=0) * (-1 if kind == "query" else 1)
            sparse[row, known] = 2 * self.weights[known] / np.float32(1 + len(known) / 5)
            multi.append(self.vectors[known])
        dense /= np.linalg.norm(dense, axis=1, keepdims=True)
        if progress is not None:
            progress(len(texts))
        return Encoded(dense, sp.csr_array(sparse), multi)


def slow_runs(names: list[str], texts: list[str], query: str) -> dict[str, list[tuple[int, float]]]:
    """The paper's protocol for one query, in loops: row -> (document, score), the best first."""
    encoder = RandomEncoder()
    asked, held = encoder.encode([query], "query"), [encoder.encode([text]) for text in texts]

    def integers(encoded: Encoded) -> dict[int, int]:
        line = encoded.sparse
        return {int(t): math.ceil(100 * w) for t, w in zip(line.indices, line.data, strict=True)}

    def best(scores: dict[int, float], k: int) -> list[tuple[int, float]]:
        return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:k]

    def late(document: Encoded) -> float:
        stored = document.multi[0].astype(np.float16).astype(np.float32)
        return sum(max(float(a @ b) for b in stored) for a in asked.multi[0]) / len(asked.multi[0])

    terms = integers(asked)
    dense, sparse = {}, {}
    for number, document in enumerate(held):
        dense[number] = float(asked.dense[0] @ document.dense[0])
        found = integers(document)
        whole = sum(weight * found.get(term, 0) for term, weight in terms.items())
        sparse[number] = whole / 10_000
    first = {
        "dense": best(dense, 1000),
        "sparse": best({d: s for d, s in sparse.items() if s}, 1000),
    }
    reranked = [document for document, _ in first["dense"][:200]]
    multi = {document: late(held[document]) for document in reranked}
    summed: dict[int, float] = {}
    for document, score in first["dense"]:
        summed[document] = score
    for document, score in first["sparse"]:
        summed[document] = summed.get(document, 0.0) + 0.3 * score
    every = {each: dense[each] + 0.3 * sparse[each] + multi[each] for each in reranked}

    def hundred(scores: dict[int, float]) -> list[tuple[int, float]]:
        """Of documents that are as good those with the highest ids."""
        inside = sorted(scores, key=lambda number: (scores[number], names[number]))[-100:]
        return best({number: scores[number] for number in inside}, 100)

    return {
        "dense": hundred(dict(first["dense"])),
        "sparse": hundred(dict(first["sparse"])),
        "multi": hundred(multi),
        "dense+sparse": hundred(summed),
        "all": hundred(every),
    }


def put_words(hub: Hub, language: str, seed: int = 1) -> tuple[dict[str, str], dict[str, str]]:
    """A copy of MIRACL with more passages than the deepest row looks at."""
    random = np.random.default_rng(seed)

    def words(least: int, most: int) -> str:
        return " ".join(random.choice(WORDS, random.integers(least, most)))

    texts = {f"{number}#{number % 3}": (words(1, 3), words(2, 9)) for number in range(1300)}
    queries = {f"q{number}": words(2, 5) for number in range(4)}
    judged = {
        name: {str(each): int(random.integers(0, 2)) for each in random.choice(list(texts), 40)}
        for name in queries
    }
    put_miracl(hub, language, texts, queries, judged)
    return {name: f"{title}\n{text}" for name, (title, text) in texts.items()}, queries


def test_the_rows_of_miracl_are_those_of_the_protocol(hub: Hub, tmp_path: Path) -> None:
    texts, queries = put_words(hub, "yo")
    sets = load_sets(["miracl"], data=tmp_path / "sets", languages=["yo"])
    report, runs = ReportFolder(tmp_path / "out"), {}

    def keep(result: Any, found: dict[str, Run], qrels: Any, scores: Any) -> None:
        runs.update(found)
        report.add(result, found, qrels, scores)

    experiment = evaluate_sets(sets, RandomEncoder, keep=keep)  # type: ignore[arg-type]
    report.finish(experiment)
    names = list(texts)
    for query, text in queries.items():
        slow = slow_runs(names, list(texts.values()), text)
        for row in ROWS:
            wanted = {names[number]: score for number, score in slow[row]}
            assert list(runs[row][query]) == list(wanted), (query, row)
            assert runs[row][query] == pytest.approx(wanted, abs=1e-5), (query, row)
    again = evaluate_sets(sets, RandomEncoder, scores=tmp_path / "out" / "scores")  # type: ignore[arg-type]
    assert again.sets[0].report.means == experiment.sets[0].report.means
    assert "bm25" in experiment.sets[0].report.means
    assert runs["all"] != runs["multi"] != runs["dense"]


def test_every_preset_runs_on_copies_of_its_data_sets(hub: Hub, tmp_path: Path) -> None:
    put_mldr(hub, "it", {"a": "w1 w2", "b": "w3"}, {"q": ("w1", ["a"])})
    put_beir(hub, "nq", {"a": ("W1", "w2 W3"), "b": ("", "w4")}, {}, {"q": {"a": 1}})
    put_mkqa(hub, {"km": {"1": ("w1", ["W2 w3"])}, "ar": {"1": ("w4", ["w9"])}})
    put_narrativeqa(hub, {"s": "w1", "t": "w2"}, [("s", "w1"), ("t", "w2")])
    told: list[str] = []
    sets = [
        each
        for name, languages in (("mldr", ["it"]), ("mkqa", ["km", "ar"]), ("narrativeqa", None))
        for each in load_sets(
            [name], data=tmp_path / "sets", languages=languages, report=told.append
        )
    ]
    assert [each.max_length for each in sets] == [8192, 512, 512, 8192]
    assert len(told) == 4
    found = evaluate_sets(sets, RandomEncoder).to_json()  # type: ignore[arg-type]
    values = {name: each["rows"]["all"] for name, each in found["sets"].items()}
    assert values == {
        "mldr-it": {"nDCG@10": 1.0},
        "mkqa-km": {"AnswerRecall@100": 1.0, "AnswerRecall@20": 1.0},
        "mkqa-ar": {"AnswerRecall@100": 0.0, "AnswerRecall@20": 0.0},
        "narrativeqa": {"nDCG@10": 1.0},
    }
    built = [found["sets"][name]["seconds"]["index"] for name in ("mkqa-km", "mkqa-ar")]
    assert built[0] == built[1]  # one index for both
    weights = found["sets"]["mldr-it"]["settings"]["weights"]
    assert weights["all"] == {"dense": 0.15, "sparse": 0.5, "multi": 0.35}
    assert weights["dense+sparse"] == {"dense": 0.2, "sparse": 0.8}
    beside = found["published"]["mkqa"]["AnswerRecall@100"]["rows"]
    assert list(beside) == ["all"]  # of the others the paper has no languages here
    assert beside["all"]["average"] == pytest.approx(
        {"ours": 0.5, "published": 0.7035, "difference": -0.2035, "sets": 2}
    )


def test_settings_and_languages_of_a_preset(hub: Hub, tmp_path: Path) -> None:
    for language in ("yo", "sw"):
        put_miracl(hub, language, {"1#0": ("t", "x")}, {"q": "x"}, {"q": {"1#0": 1}})
    settings = ["depth=300", "row_settings.all.depth=100"]
    one, two = load_sets(
        ["miracl"], data=tmp_path / "sets", languages=["sw", "yo"], settings=settings
    )
    assert (one.name, one.language, one.published) == ("miracl-sw", "sw", "miracl/sw")
    assert (two.name, two.split, two.lexical_weights) == ("miracl-yo", "dev", "ceil100")
    assert {row: plan.depth for row, plan in two.plans(100).items()} == {
        "dense": 300, "sparse": 300, "multi": 200, "dense+sparse": 300, "all": 100,
    }  # fmt: skip
    for languages, said in ((["yoo"], "Did you mean 'yo'"), (["it"], "expected one of ar, bn")):
        with pytest.raises(ConfigError, match=said):
            load_sets(["miracl"], data=tmp_path / "sets", languages=languages)
    with pytest.raises(ConfigError, match="--lang: expected a preset"):
        load_sets(["miracl/yo"], data=tmp_path / "sets", languages=["yo"])
    with pytest.raises(ConfigError, match="Did you mean mldr"):
        load_sets(["mldrs"], data=tmp_path / "sets")
    with pytest.raises(ConfigError, match="Did you mean 'miracl/yo'"):
        replace(one, published="miracl/yoo")
    with pytest.raises(ConfigError, match="Did you mean 'miracl'"):
        EvaluationSet(tmp_path, published="mircl/yo")


# --- ours beside the paper's
