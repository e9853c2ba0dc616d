"""Settings of single rows, and lexical weights rounded up: what each row is searched by."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_fakes import IDENTITY, Log, WordEncoder, make_set
from scipy import sparse as sp

from m3search.corpus import read_corpus
from m3search.errors import ArtifactError, ConfigError
from m3search.evaluation import EvaluationSet, ReportFolder, evaluate_sets, load_sets
from m3search.evaluation.cache import Cache
from m3search.evaluation.lexical import ceil_weights
from m3search.evaluation.suite import RowSettings
from m3search.records import Encoded, Run

WORDS = ["red", "blue", "green", "fox", "whale", "panda", "tree", "animal"]


class RandomEncoder(WordEncoder):
    """Its lexical weights and vectors are those of a text's words, whatever they are."""

    def encode(self, texts, kind="document", **options: object) -> Encoded:
        encoded = super().encode(texts, kind, **options)
        random = np.random.default_rng(3)
        factors = random.random(encoded.sparse.shape[1]).astype(np.float32)
        sparse = sp.csr_array(encoded.sparse.multiply(factors))
        dense = encoded.dense @ random.standard_normal((len(factors),) * 2).astype(np.float32)
        return replace(
            encoded, sparse=sparse, dense=dense / np.linalg.norm(dense, axis=1, keepdims=True)
        )


def make_words_set(folder: Path) -> EvaluationSet:
    random = np.random.default_rng(5)
    texts = {f"d{n}": " ".join(random.choice(WORDS, 1 + n % 6)) for n in range(300)}
    queries = {f"q{n}": " ".join(random.choice(WORDS, 1 + n % 4)) for n in range(9)}
    judged = {name: {f"d{n}": 1 + n % 2 for n in range(0, 300, 7)} for name in queries}
    return EvaluationSet(make_set(folder, texts, queries, judged), measures=("nDCG@10", "R@5"))


def runs_of(wanted: EvaluationSet, scores: Path | None = None, out: Path | None = None) -> Any:
    kept: dict[str, Run] = {}
    report = ReportFolder(out) if out is not None else None

    def keep(result: Any, runs: dict[str, Run], qrels: Any, found: Any) -> None:
        kept.update(runs)
        if report is not None:
            report.add(result, runs, qrels, found)

    experiment = evaluate_sets(
        [wanted], lambda _: RandomEncoder(WORDS), keep=keep, scores=scores  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    if report is not None:
        report.finish(experiment)
    return kept


OWN = {
    "multi": RowSettings(depth=120, candidates="dense"),
    "all": RowSettings(depth=120, candidates="dense", missing="min"),
    "sparse+dense": RowSettings(missing="zero"),
}


def test_each_row_is_what_it_would_be_alone(tmp_path: Path) -> None:
    """From one search of all rows, and again from its component scores."""
    rows = ("dense", "sparse", "multi", "dense+sparse", "all")
    wanted = replace(make_words_set(tmp_path / "s"), rows=rows, depth=150)
    together = runs_of(replace(wanted, row_settings=OWN), out=tmp_path / "out")
    again = runs_of(replace(wanted, row_settings=OWN), scores=tmp_path / "out" / "scores")
    plain = runs_of(wanted)
    for row in rows:
        own = OWN.get("sparse+dense" if row == "dense+sparse" else row, RowSettings())
        alone = runs_of(replace(wanted, rows=(row,), **own.to_json()))
        assert again[row] == together[row] == alone[row], row
        assert (plain[row] == alone[row]) == (row not in OWN and row != "dense+sparse"), row


def test_token_vectors_are_compared_only_as_deep_as_a_row_goes(tmp_path: Path) -> None:
    """A candidate further down has no score of multi, and no row may need one."""
    rows = ("dense", "multi", "dense+sparse", "all")
    wanted = replace(make_words_set(tmp_path / "s"), rows=rows, depth=150, row_settings=OWN)
    runs_of(wanted, out=tmp_path / "out")
    scores = tmp_path / "out" / "scores"
    header, *lines = map(
        json.loads, gzip.decompress((scores / "s.jsonl.gz").read_bytes()).splitlines()
    )
    assert header["reach"] == {"multi": {"stages": ["dense"], "depth": 120}}
    for line in lines:
        places, found = line["ranks"]["dense"], line["scores"]["multi"]
        assert [value is None for value in found] == [not 0 < place <= 120 for place in places]
        assert None not in line["scores"]["dense"] + line["scores"]["sparse"]
    assert any(None in line["scores"]["multi"] for line in lines)
    for row in ("all", "dense+multi"):
        changes: dict[str, Any] = {"row_settings": {}, "rows": (row,)}
        with pytest.raises(ConfigError, match="of multi for more than the 120 best of dense"):
            runs_of(replace(wanted, **changes), scores=scores)
    shallow = {"all": RowSettings(depth=100, candidates="dense"), "multi": OWN["multi"]}
    runs_of(replace(wanted, row_settings=shallow), scores=scores)
    runs_of(replace(wanted, row_settings={}), out=tmp_path / "plain")
    whole = gzip.decompress((tmp_path / "plain" / "scores" / "s.jsonl.gz").read_bytes())
    assert b"reach" not in whole and b"null" not in whole


def test_settings_of_rows_in_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        """
        depth = 1000
        row_settings = { all = { depth = 200, candidates = "dense" }, multi = { depth = 200 } }
        [[sets]]
        path = "shared"
        [[sets]]
        path = "own"
        depth = 7
        [[sets]]
        path = "other"
        [sets.row_settings.dense]
        depth = 150
        """
    )
    shared, own, other = load_sets([path])
    plans = shared.plans(100)
    assert {row: plan.depth for row, plan in plans.items()} == {
        "dense": 1000, "sparse": 1000, "multi": 200, "dense+sparse": 1000, "all": 200,
    }  # fmt: skip
    assert plans["all"].first_stages == ("dense",)
    assert plans["multi"].candidates == "union"
    assert {plan.depth for plan in own.plans(5).values()} == {7}
    assert own.plans(5)["all"].candidates == "dense"
    assert [plan.depth for plan in other.plans(9).values()] == [150, 1000, 1000, 1000, 1000]


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("[row_settings.al]\ndepth = 3", "row_settings", "'all'"),
        ("[row_settings.bm25]\ndepth = 3", "row_settings", "'bm25'"),
        ("[row_settings.all]\ndepth = 0", "row_settings.all", "a depth below 1"),
        ("[row_settings.all]\ndpeth = 1", "row_settings.all.dpeth", "'depth'"),
        ("[row_settings.all]\nmissing = 'zeros'", "row_settings.all.missing", "'zero'"),
        (
            "[row_settings]\n'dense+sparse' = {}\n'sparse+dense' = {}",
            "row_settings",
            "rows of modes, each once",
        ),
        ("lexical_weights = 'ceil'", "lexical_weights", "'ceil100'"),
    ],
)
def test_wrong_settings_of_rows(tmp_path: Path, text: str, where: str, said: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f"{text}\n[[sets]]\npath = 'a'\n")
    with pytest.raises(ConfigError) as caught:
        load_sets([path])
    assert where in caught.value.where
    assert said in str(caught.value)


def test_the_report_says_what_single_rows_were_made_with(tmp_path: Path) -> None:
    log = Log()
    one = EvaluationSet(
        make_set(tmp_path / "one"), rows=("dense", "all"), row_settings={"all": OWN["all"]}
    )
    two = EvaluationSet(make_set(tmp_path / "two"), rows=("dense",))
    report = ReportFolder(tmp_path / "out")
    found = evaluate_sets([one, two], log.encoders, engine=log.engine(), keep=report.add)
    text = report.finish(found).read_text()
    settings = json.loads((tmp_path / "out" / "report.json").read_text())["sets"]["one"]["settings"]
    assert settings["row_settings"] == {
        "all": {"depth": 120, "candidates": "dense", "missing": "min"}
    }
    assert "\nOf one: all depth 120, candidates dense, missing min.\n" in text
    assert "Of two:" not in text


def test_weights_rounded_up_give_scores_of_whole_numbers(tmp_path: Path) -> None:
    wanted = replace(make_words_set(tmp_path / "s"), rows=("sparse",))
    runs = {
        kind: runs_of(replace(wanted, lexical_weights=kind))["sparse"]  # type: ignore[arg-type]
        for kind in ("float", "ceil100")
    }
    assert runs["float"] != runs["ceil100"]
    texts = [
        json.loads(line) for line in (tmp_path / "s" / "queries.jsonl").read_text().splitlines()
    ]
    documents = {each.id: each.text for each in read_corpus(tmp_path / "s" / "corpus.jsonl.gz")}
    encoder = RandomEncoder(WORDS)

    def integers(text: str) -> dict[int, int]:
        row = encoder.encode([text]).sparse
        pairs = zip(row.indices.tolist(), row.data.tolist(), strict=True)
        return {term: math.ceil(100 * weight) for term, weight in pairs}

    for query in texts:
        asked = integers(query["text"])
        found = runs["ceil100"][query["_id"]]
        assert found
        for name, score in found.items():
            held = integers(documents[name])
            whole = sum(weight * held.get(term, 0) for term, weight in asked.items())
            assert score == pytest.approx(whole / 10_000, rel=1e-5)


def test_an_index_of_the_other_kind_is_not_used_again(tmp_path: Path) -> None:
    log, work = Log(), tmp_path / "work"
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense", "sparse"))
    for kind in ("float", "ceil100", "ceil100", "float"):
        each = replace(wanted, lexical_weights=kind)
        [result] = evaluate_sets([each], log.encoders, engine=log.engine(), cache=Cache(work)).sets
        assert result.details["settings"]["lexical_weights"] == kind
    assert len(log.built) == 2
    assert ceil_weights(log.encoders(None)).identity == replace(  # type: ignore[arg-type]
        IDENTITY, fingerprint=IDENTITY.fingerprint + "-ceil100"
    )


def test_scores_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    log = Log()
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense", "sparse"))
    ceiled = replace(wanted, lexical_weights="ceil100")
    for kind, (made, asked) in enumerate([(wanted, ceiled), (ceiled, wanted)]):
        report = ReportFolder(tmp_path / f"{kind}")
        report.finish(evaluate_sets([made], log.encoders, engine=log.engine(), keep=report.add))
        scores = tmp_path / f"{kind}" / "scores"
        evaluate_sets([made], log.encoders, scores=scores)
        with pytest.raises(ArtifactError, match="lexical_weights"):
            evaluate_sets([asked], log.encoders, scores=scores)
