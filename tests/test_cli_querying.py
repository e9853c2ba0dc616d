"""`m3search query`: hits for programs and for people, options, files and pipes of queries."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from running_commands import (  # noqa: F401
    Result,
    command_line,
    command_line_with_index,
    folder_of_a_test,
    lines_of,
)
from searching import LoadedEncoder

from m3search.corpus import read_run
from m3search.index import Index


def test_query_prints_one_line_of_json_a_hit(indexed: Callable[..., Result]) -> None:
    result = indexed("query", "vector for late", "-k", "2", "--json")
    assert result.code == 0
    hits = lines_of(result.out)
    assert len(hits) == 2
    for rank, hit in enumerate(hits, start=1):
        assert list(hit) == ["rank", "id", "score", "scores", "title", "text", "metadata"]
        assert list(hit["scores"]) == ["dense", "sparse", "multi"]
        assert hit["rank"] == rank
        dense, sparse, multi = hit["scores"].values()
        assert hit["score"] == pytest.approx(dense + 0.3 * sparse + multi, abs=1e-6)
    assert hits[0]["id"] == "late" and hits[0]["metadata"] == {"lang": "en"}
    assert "茶" in indexed("query", "茶", "--json").out  # not \\u8336


def test_query_for_people(indexed: Callable[..., Result]) -> None:
    result = indexed("query", "late [vector]", "-k", "3", "--weights", "0,1,0")
    blocks = result.out.split("\n\n")
    first = next(block for block in blocks if block.splitlines()[0].endswith("  late"))
    header, title, snippet = first.strip("\n").splitlines()
    assert re.fullmatch(
        r"  \d 0\.\d{4}  dense -?\d\.\d{3}  sparse \d\.\d{3}  multi -?\d\.\d{3}  late", header
    )
    assert title == "    Late interaction"
    assert snippet == "    A **vector** for each token."
    assert "    One [**vector**] for each text." in result.out
    assert "绿茶 和 咖啡 **late**" in result.out


def test_explain_shows_terms_and_tokens(indexed: Callable[..., Result]) -> None:
    shown = indexed("query", "late vector", "--explain", "--filter", "lang=en").out
    assert re.search(r"^    sparse  \w+ 0\.500×0\.\d{3}=0\.\d{4} · \w+ 0\.500×", shown, re.M)
    near = r"(0\.9\d|1\.0\d)"  # in 16 dimensions and 4 bits
    tokens = rf"^    multi   late→Late {near} · vector→vector {near} · </s>→</s> {near}$"
    assert re.search(tokens, shown, re.M)
    (hit,) = lines_of(indexed("query", "late", "--json", "--explain", "-k", "1").out)
    assert {term["term"] for term in hit["explain"]["terms"]} == {"late"}
    assert [token["query"] for token in hit["explain"]["tokens"]] == ["late", "</s>"]


def test_modes_weights_depth_and_filter_reach_the_search(indexed: Callable[..., Result]) -> None:
    hits = lines_of(indexed("query", "late", "--modes", "sparse", "--json").out)
    assert {hit["id"] for hit in hits} == {"late", "茶"}
    assert all(hit["score"] == hit["scores"]["sparse"] for hit in hits)
    hits = lines_of(indexed("query", "late", "--filter", "lang=zh,year>=2000", "--json").out)
    assert [hit["id"] for hit in hits] == ["茶"]
    hits = lines_of(indexed("query", "late", "--weights", "2,0,0", "--json").out)
    assert all(hit["score"] == pytest.approx(2 * hit["scores"]["dense"]) for hit in hits)
    one = indexed("query", "late", "-k", "1", "--depth", "1", "--modes", "dense, multi", "--json")
    assert len(lines_of(one.out)) == 1


def test_the_empty_text_is_a_query(indexed: Callable[..., Result]) -> None:
    assert len(lines_of(indexed("query", "", "--json").out)) == 3
    nothing = indexed("query", "", "--modes", "sparse", "--json")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "no hits\n")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["-k", "0"], 1, "error: k: expected a whole number from 1 up, found 0"),
        (["--depth", "0"], 1, "error: depth: expected"),
        (["--modes", "dens"], 1, "Did you mean 'dense'?"),
        (["--weights", "1,2"], 1, "error: weights: expected three numbers"),
        (["--weights", "0,0,0"], 1, "only zeros"),
        (["--filter", "lang"], 1, "error: filter 'lang'"),
        (["--weights", "a,b,c"], 2, "expected numbers such as 1,0.3,1, found 'a,b,c'"),
        (["-k", "many"], 2, "'-k'"),
        (["--nonsense"], 2, "nonsense"),
        (["--run", "x.trec"], 2, "each needs the other"),
        (["--queries", "q.jsonl", "--run", "x.trec"], 2, "does not go with TEXT"),
    ],
)
def test_wrong_options_are_told_before_a_model_is_loaded(
    indexed: Callable[..., Result], options: list[str], code: int, message: str
) -> None:
    LoadedEncoder.loads.clear()
    result = indexed("query", "late", *options)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert LoadedEncoder.loads == []


def test_a_file_of_queries_becomes_a_trec_run(indexed: Callable[..., Result]) -> None:
    Path("queries.tsv").write_text("q1\tlate vector\nq2\t咖啡\nq3\t\n", encoding="utf-8")
    result = indexed("query", "--queries", "queries.tsv", "--run", "runs/all.trec")
    assert (result.code, result.out) == (0, "")
    run = read_run("runs/all.trec")
    assert {query: len(scored) for query, scored in run.items()} == {"q1": 3, "q2": 3, "q3": 3}
    hits = lines_of(indexed("query", "late vector", "--json").out)
    assert list(run["q1"]) == [hit["id"] for hit in hits]
    assert list(run["q1"].values()) == pytest.approx([hit["score"] for hit in hits])
    for clash in ("--json", "--explain"):
        assert indexed("query", "--queries", "queries.tsv", "--run", "x", clash).code == 2


def test_a_query_that_is_cut_is_told(m3: Callable[..., Result]) -> None:
    assert m3("index", "corpus.jsonl", "--max-length", "4").code == 0
    cut = m3("query", "one two three four", "-k", "1")
    assert cut.err == "the query was longer than the model reads, and cut\n"
    assert m3("query", "one two", "-k", "1").err == ""
    Path("queries.tsv").write_text("a\tone two three four\nb\tone\nc\ta b c d e\n")
    many = m3("query", "--queries", "queries.tsv", "--run", "x.trec")
    assert "2 queries were longer than the model reads, and cut\n" in many.err


def test_a_model_that_moved_can_be_named(m3: Callable[..., Result]) -> None:
    assert m3("index", "corpus.jsonl").code == 0
    LoadedEncoder.loads.clear()
    assert m3("query", "late", "--model", "word-hash", "-k", "1").code == 0
    assert LoadedEncoder.loads == ["word-hash"]
    other = m3("query", "late", "--model", "another")
    assert other.code == 1
    assert "error: encoder another: expected the model that made the index" in other.err


def test_a_pipe_gives_one_query_a_line(indexed: Callable[..., Result]) -> None:
    result = indexed("query", "-k", "1", "--json", stdin="late\n\n  咖啡 \r\n")
    assert [line["query"] for line in lines_of(result.out)] == ["late", "咖啡"]
    shown = indexed("query", "-k", "1", stdin="late\n咖啡\n").out
    assert shown.startswith("> late\n") and "\n> 咖啡\n" in shown
    LoadedEncoder.loads.clear()
    broken = indexed("query", "-k", "1", "--json", stdin=b"\xff\xfe\nlate\n")
    assert broken.code == 1
    assert "error: query: expected UTF-8" in broken.err
    assert [line["query"] for line in lines_of(broken.out)] == ["late"]
    assert LoadedEncoder.loads == ["word-hash"]


def test_timings_name_every_stage(indexed: Callable[..., Result]) -> None:
    result = indexed("query", "late vector", "--json", "--filter", "lang=en", "--timings")
    assert lines_of(result.out)[0]["id"] == "late"
    stages = [line.split("  ")[0] for line in result.err.splitlines()]
    assert stages == [
        "load model",  # before the search, of which it is no part
        "search",
        "filter",
        "encode",
        *(f"{what} {mode}" for what, mode in [("retrieve", "dense"), ("retrieve", "sparse")]),
        *(f"score {mode}" for mode in ("dense", "sparse", "multi")),
        "read documents",
    ]
    assert all(re.search(r" \d+\.\d\d ms$", line) for line in result.err.splitlines())


def test_timings_of_a_file_are_of_one_query_each(indexed: Callable[..., Result]) -> None:
    Path("queries.tsv").write_text("q1\tlate vector\nq2\t咖啡\nq3\t\n", encoding="utf-8")
    for name, options in {"together": [], "each": ["--timings"]}.items():
        result = indexed("query", "--queries", "queries.tsv", "--run", f"{name}.trec", *options)
        assert result.code == 0
    assert Path("each.trec").read_text() == Path("together.trec").read_text()
    lines = {line.split("  ")[0]: line for line in result.err.splitlines()}
    assert lines["search"].endswith(" of 3") and "p99" in lines["retrieve sparse"]


def test_every_document_is_looked_at_where_that_is_asked(
    indexed: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bool] = []

    def note(path: Path, *, exact: bool = False) -> Index:
        opened.append(exact)
        return open_index(path, exact=exact)

    open_index = Index.open
    monkeypatch.setattr(Index, "open", note)
    found = [indexed("query", "late", "--json", *options).out for options in ((), ("--exact",))]
    assert opened == [False, True] and found[0] == found[1]
