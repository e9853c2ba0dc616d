"""`m3search eval`: its report, its table, and what is told before it works."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running_commands import (  # noqa: F401
    Result,
    command_line,
    folder_of_a_judged_set,
    folder_of_a_test,
    lines_of,
)
from searching import LoadedEncoder

from m3search.corpus import read_run, write_run
from m3search.evaluation.tuning import Tuned


def test_eval_of_a_beir_folder(m3: Callable[..., Result], judged: Path) -> None:
    result = m3("eval", "tiny", "--out", "report", "--json")
    assert result.code == 0
    (found,) = lines_of(result.out)
    assert list(found["sets"]) == ["tiny"]
    rows = found["sets"]["tiny"]["rows"]
    assert list(rows) == ["dense", "sparse", "multi", "dense+sparse", "all", "bm25"]
    assert list(rows["all"]) == ["nDCG@10", "R@100"]
    assert rows["sparse"] == {"nDCG@10": 1.0, "R@100": 1.0}
    assert json.loads(Path("report/report.json").read_text(encoding="utf-8")) == found
    # its runs are those of `query`
    m3("index", "tiny/corpus.jsonl")
    m3("query", "--queries", "tiny/queries.jsonl", "--run", "all.trec")
    assert read_run("report/runs/tiny.all.trec") == read_run("all.trec")


def test_the_example_of_eval_names_a_folder_for_its_sets(
    m3: Callable[..., Result], place: Path
) -> None:
    """`place` has none; the message shows where they were looked for."""
    [example] = re.findall(r"Example: (.*)", " ".join(m3("eval", "--help").out.split()))
    options = example.split()[2:]
    assert "--data" in options
    suite = Path(__file__).parent.parent / options[0]
    assert suite.is_file()
    result = m3("eval", str(suite), *options[1:])
    assert result.code == 1
    assert f"error: {options[options.index('--data') + 1]}/squad-en: expected" in result.err


def test_a_second_eval_encodes_nothing_unless_it_is_told_to(
    m3: Callable[..., Result], judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    monkeypatch.setattr(LoadedEncoder, "before_encoding", encoded.extend)

    def evaluate(*options: str) -> dict[str, Any]:
        encoded.clear()
        (found,) = lines_of(m3("eval", "tiny", "--out", "report", "--json", *options).out)
        return dict(found["sets"]["tiny"])

    first = evaluate()
    assert {"late token", "One [vector] for each text."} <= {*encoded}
    again = evaluate("--depth", "100", "--weights", "1,0.3,1")
    assert not encoded and again["rows"] == first["rows"]
    assert (again["index_reused"], again["queries_reused"]) == (True, True)
    assert again["search_reused"] is False
    for options in (("--no-cache",), ("--cache", "own"), ("--max-length", "64"), ("--model", "x")):
        other = evaluate(*options)
        assert "late token" in encoded and other["rows"] == first["rows"], options
    evaluate("--cache", "own")
    kept = sorted(path.name.rpartition(".")[0] for path in Path("own").iterdir())
    assert not encoded and kept == ["tiny", "tiny.bm25"]
    evaluate("--rows", "bm25")
    assert not encoded
    both = m3("eval", "tiny", "--cache", "own", "--no-cache")
    assert both.code == 2 and "only one of them goes" in both.err


def test_what_was_taken_from_the_cache_is_said(m3: Callable[..., Result], judged: Path) -> None:
    def said(*options: str) -> list[str]:
        return m3(
            "eval", "tiny", "--rows", "all,bm25", "--out", "report", *options
        ).err.splitlines()

    assert said() == ["report in report/report.md"]
    note, report = said("--json")
    cache = f"from the cache in {judged.parent}/cache/m3search/evaluation: "
    assert note == f"{cache}searches of 1, BM25 of 1 (of 1 sets); --no-cache makes all anew"
    assert report == "report in report/report.md"
    for name in ("report.md", "report.html"):
        page = Path("report", name).read_text(encoding="utf-8")
        assert "Not made anew: searches of 1, BM25 of 1 (of 1 sets)." in page
    assert said("--no-cache") == ["report in report/report.md"]
    assert "Not made anew" not in Path("report/report.md").read_text(encoding="utf-8")


def test_measures_with_parameters_have_commas_of_their_own(
    m3: Callable[..., Result], judged: Path
) -> None:
    asked = "P@1, SetF(beta=0.5,rel=1),nDCG(dcg='exp-log2')@3"
    (found,) = lines_of(m3("eval", "tiny", "--measures", asked, "--rows", "dense", "--json").out)
    values = found["sets"]["tiny"]["rows"]["dense"]
    assert [*values] == ["P@1", "SetF(beta=0.5)", "nDCG(dcg='exp-log2')@3"]


def test_eval_prints_a_table_in_percent(m3: Callable[..., Result], judged: Path) -> None:
    options = ["--rows", "sparse,all", "--measures", "RR@10,R@5", "--weights", "0,1,0"]
    result = m3("eval", "tiny", *options)
    assert result.code == 0
    assert result.out == (
        "RR@10  sparse    all\ntiny    100.0  100.0\n\nR@5   sparse    all\ntiny   100.0  100.0\n"
    )
    assert result.err.endswith("report in eval/reports/tiny/report.md\n")
    assert LoadedEncoder.loads == ["None"]


def test_documents_of_a_set_are_computed_by_the_backend_that_is_asked_for(
    m3: Callable[..., Result], judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m3search.model.backend.find_spec", lambda name: object())
    result = m3("eval", "tiny", "--backend", "openvino", "--out", "report", "--json")
    (found,) = lines_of(result.out)
    assert found["provenance"]["changed"] == "backend openvino"
    assert LoadedEncoder.loads == ["None by openvino"]
    beside = m3("eval", "tiny", "--backend", "openvino", "--from-scores", "report")
    assert beside.code == 1
    assert "error: --backend: expected nothing beside --from-scores" in beside.err
    assert "Did you mean 'torch'" in m3("eval", "tiny", "--backend", "torc").err


def test_weights_of_dense_and_sparse_alone_suit_every_default_row(
    m3: Callable[..., Result], judged: Path
) -> None:
    """The paper's weights for dense+sparse; multi is a mode alone."""
    result = m3("eval", "tiny", "--weights", "0.2,0.8,0", "--json")
    assert result.code == 0, result.err
    (found,) = lines_of(result.out)
    weights = found["sets"]["tiny"]["settings"]["weights"]
    assert weights["multi"] == {"multi": 1.0}
    assert weights["dense+sparse"] == {"dense": 0.2, "sparse": 0.8}


def test_weights_on_the_command_line_go_before_those_of_a_row(
    m3: Callable[..., Result], judged: Path
) -> None:
    Path("s.toml").write_text(
        "rows = ['all']\n[[sets]]\npath = 'tiny'\n[sets.row_weights]\nall = [1, 2, 3]\n"
    )
    for options, expected in ((), [1, 2, 3]), (("--weights", "3,2,1"), [3, 2, 1]):
        (found,) = lines_of(m3("eval", "s.toml", "--json", *options).out)
        weights = found["sets"]["tiny"]["settings"]["weights"]["all"]
        assert list(weights.values()) == expected


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tinny"], 1, "tinny"),
        (["tiny", "--measures", "ndcg@10"], 1, "Did you mean 'nDCG@10'?"),
        (["tiny", "--rows", "dens"], 1, "Did you mean 'dense'?"),
        (["tiny", "--depth", "0"], 1, "error: --depth: expected a setting in range"),
        (
            ["tiny", "--rows", "all,all"],
            1,
            "error: --rows: expected different rows, found 'all' twice",
        ),
        (["tiny", "--rows", "dense+multi,multi+dense"], 1, "found 'dense+multi' and 'multi+dense'"),
        (
            ["tiny", "--set", "language=jp"],
            1,
            "language of the set tiny: expected a code of ISO 639",
        ),
        (["tiny", "--weights", "1,2"], 1, "error: --weights: expected three numbers"),
        (["tiny", "--weights", "0,0,1"], 1, "row dense+sparse of the set tiny, weights"),
        (["tiny", "--weights", "x"], 2, "expected numbers"),
    ],
)
def test_eval_tells_what_is_wrong_before_it_works(
    m3: Callable[..., Result], judged: Path, arguments: list[str], code: int, message: str
) -> None:
    result = m3("eval", *arguments)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert LoadedEncoder.loads == []


def test_a_report_is_weighed_again_and_tuned(m3: Callable[..., Result], judged: Path) -> None:
    m3("eval", "tiny", "--out", "report")
    options = ("--rows", "all", "--weights", "0,1,0", "--json")
    again = m3("eval", "tiny", "--out", "again", "--from-scores", "report", *options)
    assert again.code == 0
    (found,) = lines_of(again.out)
    by_sparse = {"dense": 0.0, "sparse": 1.0, "multi": 0.0}
    assert found["sets"]["tiny"]["settings"]["weights"] == {"all": by_sparse}
    assert found["sets"]["tiny"]["rows"]["all"] == {"nDCG@10": 1.0, "R@100": 1.0}
    assert "index" not in found["sets"]["tiny"]["seconds"]
    assert found["provenance"]["changed"].endswith("from the scores in report")

    told = m3("tune", "tiny", "--from-scores", "report", "--folds", "2")
    assert told.code == 0
    assert told.out.splitlines()[0].split() == ["nDCG@10", "before", "after", "unseen"]
    assert re.search(r"tiny +[\d.]+ +100\.0 ", told.out)
    weights = re.fullmatch(r"with these weights: --weights (\S+)\n", told.err)
    assert weights and len(weights.group(1).split(",")) == 3
    assert m3("index", "tiny/corpus.jsonl", "--index", "own").code == 0
    into = m3("tune", "tiny", "--from-scores", "report", "--folds", "2", "--into", "own")
    held = "before, searches of own used 1,0.3,1"
    assert into.err.endswith(f"{held}\nsearches of own use these weights by default\n")
    (own,) = lines_of(m3("info", "own", "--json").out)
    assert own["weights"] == [float(weight) for weight in weights.group(1).split(",")]
    Path("fused.toml").write_text(
        'rows = ["dense", "all"]\nfused.rrf.rows = ["dense", "all"]\n'
        '[[sets]]\npath = "tiny"\nrow_settings.all.depth = 20\n'
    )
    assert m3("tune", "fused.toml", "--from-scores", "report", "--folds", "2").code == 0
    assert m3("eval", "fused.toml", "--from-scores", "report", "--out", "deeper").code == 0
    assert "Of tiny: all depth 20" in Path("deeper/report.md").read_text()
    wide = ("--measure", "NumRet", "--folds", "2", "--depths", "2, 4")
    deep = m3("tune", "fused.toml", "--from-scores", "report", *wide, "--set", "depth=1",
              "--set", "row_settings.all.depth=1")  # fmt: skip
    told = re.search(r"--weights (\S+)\nand this depth: (--set \S+=[24]) of m3search", deep.err)
    assert deep.code == 0 and told
    same = ("--weights", told[1], *told[2].split(), "--rows", "all", "--json", "--out", "same")
    measured = ("--measures", "NumRet", "--set", "depth=1")
    (tried,) = lines_of(m3("eval", "fused.toml", "--from-scores", "report", *same, *measured).out)
    value = tried["sets"]["tiny"]["rows"]["all"]["NumRet"]
    queries = tried["sets"]["tiny"]["queries"]
    assert re.search(rf"tiny +\S+ +{value / queries:g} ", deep.out)
    deeper = m3("tune", "tiny", "--from-scores", "report", "--depths", "2,201")
    assert deeper.code == 1 and "expected for the row all: the 201 best of a stage" in deeper.err
    for given in ("0", "x", ","):
        assert m3("tune", "tiny", "--from-scores", "report", "--depths", given).code == 2
    foreign = json.loads(Path("own/manifest.json").read_text())
    scores = Path("report/scores/tiny.jsonl.gz")
    kept = scores.read_bytes()
    text = gzip.decompress(kept).decode().replace(foreign["model"]["fingerprint"], "0" * 64)
    scores.write_bytes(gzip.compress(text.encode()))
    refused = m3("tune", "tiny", "--from-scores", "report", "--into", "own")
    assert refused.code == 1 and "own: expected an index of the model that the" in refused.err
    scores.write_bytes(kept)
    rare = gzip.decompress(kept).decode().replace('"idf": false', '"idf": true')
    scores.write_bytes(gzip.compress(rare.encode()))
    refused = m3("tune", "tiny", "--from-scores", "report", "--into", "own")
    assert refused.code == 1 and "own: expected an index with the rarity of terms" in refused.err
    scores.write_bytes(kept)
    part = m3("tune", "tiny", "--from-scores", "report", "--row", "dense+sparse", "--into", "own")
    assert part.code == 1 and "--into: expected a row of all modes" in part.err
    nowhere = m3("tune", "tiny", "--from-scores", "report", "--into", "nowhere")
    assert (nowhere.code, nowhere.out) == (1, "") and "nowhere" in nowhere.err

    (found,) = lines_of(
        m3("tune", "tiny", "--from-scores", "report", "--row", "dense+sparse", "--json").out
    )
    assert set(found["weights"]) == {"dense", "sparse"} and found["measure"] == "nDCG@10"
    for arguments, said in (
        (("--row", "bm25"), "row: expected modes"),
        (("--row", "multi"), "two modes or three"),
        (("--folds", "1"), "folds: expected two or more"),
        (("--measure", "ndcg@10"), "nDCG@10"),
    ):
        wrong = m3("tune", "tiny", "--from-scores", "report", *arguments)
        assert wrong.code == 1 and said in wrong.err
    assert m3("tune", "tiny", "--from-scores", "nowhere").code == 1
    for given, said in (
        (("--out", "report"), "--out: expected a folder other than"),
        (("--out", "again", "--model", "other"), "--model: expected nothing"),
        (("--out", "again", "--max-length", "8"), "scores with max_length = 8"),
        (("--out", "again", "--set", "title_template={text}"), "scores with title_template"),
    ):
        wrong = m3("eval", "tiny", "--from-scores", "report", *given)
        assert wrong.code == 1 and said in wrong.err, given


@pytest.mark.parametrize("gain", [-0.25, 0.0, 0.25])
def test_weights_by_which_queries_without_a_say_lose_are_warned_of(
    m3: Callable[..., Result], judged: Path, monkeypatch: pytest.MonkeyPatch, gain: float
) -> None:
    before, after, unseen = ({"tiny": value} for value in (0.5, 0.75, 0.5 + gain))
    found = Tuned({"dense": 1.0, "sparse": 2.0, "multi": 3.0}, None, before, after, unseen, {}, {})
    monkeypatch.setattr("m3search.evaluation.tuning.tune", lambda *_, **__: found)
    m3("eval", "tiny", "--out", "report", "--rows", "all")
    m3("index", "tiny/corpus.jsonl", "--index", "own")
    for options in ((), ("--json",)):
        told = m3("tune", "tiny", "--from-scores", "report", "--into", "own", *options)
        lines = told.err.splitlines()
        assert told.code == 0 and lines[-1] == "searches of own use these weights by default"
        warned = "warning: queries that had no say in their weights lose 25 points by tuning"
        assert any(line.startswith(warned) for line in lines) is (gain < -1e-9)
    (json_found,) = lines_of(told.out)
    assert json_found["gain"] == gain
    (own,) = lines_of(m3("info", "own", "--json").out)
    assert own["weights"] == [1.0, 2.0, 3.0]


def test_a_run_that_found_nothing_is_told(m3: Callable[..., Result], judged: Path) -> None:
    Path("empty.trec").write_text("")
    options = ("--rows", "sparse", "--set", "run_files.other=empty.trec", "--out", "report")
    told = m3("eval", "tiny", *options)
    assert told.code == 0 and "nothing found for any query: tiny other\n" in told.err
    (found,) = lines_of(m3("eval", "tiny", *options, "--json").out)
    assert set(found["sets"]["tiny"]["rows"]["other"].values()) == {0.0}
    assert found["sets"]["tiny"]["absent"]["other"] == 2


def test_rows_are_chosen_among_those_of_a_suite(m3: Callable[..., Result], judged: Path) -> None:
    write_run("other.trec", {"q1": {"late": 1.0}})
    Path("suite.toml").write_text(
        'rows = ["dense", "sparse"]\nrun_files.other = "other.trec"\n'
        '[fused.rrf]\nrows = ["dense", "sparse"]\n[[sets]]\npath = "tiny"\n'
    )
    for named, rows in (
        ("dense", {"dense", "other"}),
        ("dense,sparse,other", {"dense", "sparse", "other", "rrf"}),
        ("dense,sparse,rrf", {"dense", "sparse", "other", "rrf"}),
    ):
        (found,) = lines_of(m3("eval", "suite.toml", "--rows", named, "--json").out)
        assert set(found["sets"]["tiny"]["rows"]) == rows
    part = m3("eval", "suite.toml", "--rows", "dense,rrf")
    assert part.code == 1 and "fused.rrf.rows: expected some of the rows" in part.err


def test_a_folder_of_any_name_is_a_set(m3: Callable[..., Result], judged: Path) -> None:
    judged.rename("my set (2)")
    found = m3("eval", "my set (2)", "--rows", "bm25", "--json")
    assert list(lines_of(found.out)[0]["sets"]) == ["my-set-2-"]


def test_counts_are_tuned_as_counts(m3: Callable[..., Result], judged: Path) -> None:
    m3("eval", "tiny", "--out", "report", "--rows", "all")
    told = m3("tune", "tiny", "--from-scores", "report", "--measure", "NumRet")
    assert re.search(r"tiny +3 +3 +3", told.out)
