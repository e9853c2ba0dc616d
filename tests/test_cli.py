"""The command line as its users meet it: outputs, errors, exit codes, pipes and prompts."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from searching import LoadedEncoder

from m3search.cli import main
from m3search.cli.indexing import _count_lines
from m3search.cli.output import print_table, readable_bytes
from m3search.corpus import read_run
from m3search.errors import ConfigError

DOCUMENTS = [
    {"_id": "late", "title": "Late interaction", "text": "A vector for each token.", "lang": "en"},
    {"_id": "茶", "title": "茶", "text": "绿茶 和 咖啡 late", "lang": "zh", "year": 2001},
    {"_id": "dense", "text": "One [vector] for each text.", "lang": "en", "year": 1999},
]


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in = types.ModuleType("m3search.encoder")
    stand_in.Encoder = LoadedEncoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "m3search.encoder", stand_in)
    monkeypatch.setattr(LoadedEncoder, "loads", [])
    monkeypatch.chdir(tmp_path)
    lines = "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in DOCUMENTS)
    Path("corpus.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


@pytest.fixture
def m3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
        if stdin is not None:
            raw = stdin if isinstance(stdin, bytes) else stdin.encode()
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), "utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, err = capsys.readouterr()
        return Result(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def indexed(m3: Callable[..., Result]) -> Callable[..., Result]:
    assert m3("index", "corpus.jsonl").code == 0
    return m3


def lines_of(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


# index


def test_index_prints_what_programs_rely_on(m3: Callable[..., Result]) -> None:
    result = m3("index", "corpus.jsonl", "--index", "one/two", "--json")
    assert result.code == 0
    (summary,) = lines_of(result.out)
    keys = ["index", "documents", "skipped", "truncated", "segments", "seconds", "bytes"]
    assert list(summary) == keys
    assert summary["index"] == "one/two"
    assert (summary["documents"], summary["skipped"], summary["segments"]) == (3, 0, 1)
    assert set(summary["bytes"]) == {"dense", "sparse", "multi", "documents"}
    assert all(isinstance(size, int) and size > 0 for size in summary["bytes"].values())


def test_index_summary_for_people(m3: Callable[..., Result]) -> None:
    result = m3("index", "corpus.jsonl")
    assert re.search(r"^documents +3$", result.out, re.M)
    assert re.search(r"^encoded +3 \([\d.]+ documents/s\)$", result.out, re.M)
    assert re.search(r"^bytes +dense .*B, sparse .*B, multi .*B, documents", result.out, re.M)


def test_an_index_is_not_built_over_but_added_to(indexed: Callable[..., Result]) -> None:
    LoadedEncoder.loads.clear()
    refused = indexed("index", "corpus.jsonl")
    assert refused.code == 1 and refused.out == ""
    assert refused.err.startswith("error: indexes/default: expected no index yet")
    assert "--add" in refused.err and "--index" in refused.err
    assert LoadedEncoder.loads == []  # nothing slow was done first
    more = '{"_id": "new", "text": "Something else"}\n{"_id": "late", "text": "Replaced"}\n'
    added = indexed("index", "-", "--add", "--json", stdin=more)
    assert added.code == 0
    assert lines_of(added.out)[0]["documents"] == 4
    assert LoadedEncoder.loads == ["word-hash"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--max-length", "64"), "error: --max-length: expected 512, as the index was made with"),
        (("--model", "other"), "expected the model that made the index"),
        (("--mcls",), "error: --mcls: expected False"),
        (("--title-template", "{text}"), "error: --title-template: expected '{title}"),
    ],
)
def test_adding_with_other_settings_is_an_error(
    indexed: Callable[..., Result], option: tuple[str, ...], message: str
) -> None:
    result = indexed("index", "corpus.jsonl", "--add", *option)
    assert result.code == 1
    assert message in result.err
    assert indexed("index", "corpus.jsonl", "--add", "--max-length", "512").code == 0


def test_wrong_lines_stop_or_are_listed(m3: Callable[..., Result]) -> None:
    bad = "".join('{"_id": 1}\n' for _ in range(25))
    good = Path("corpus.jsonl").read_text(encoding="utf-8")
    Path("mixed.jsonl").write_text(good + bad, encoding="utf-8")
    stopped = m3("index", "mixed.jsonl", "--index", "a")
    assert stopped.code == 1 and stopped.out == ""
    assert "error: mixed.jsonl, line 4: expected" in stopped.err
    result = m3("index", "mixed.jsonl", "--index", "b", "--on-error", "skip", "--json")
    assert result.code == 0
    assert lines_of(result.out)[0]["skipped"] == 25
    shown = [line for line in result.err.splitlines() if line.startswith("skipped: ")]
    assert len(shown) == 25  # all of them: nobody finds the others again
    for number, line in enumerate(shown, start=4):
        assert line.startswith(f"skipped: mixed.jsonl, line {number}: expected")


def test_a_build_of_another_corpus_does_not_delete_the_first(
    m3: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    def interrupt(texts: Sequence[str]) -> None:
        if any("stop here" in text for text in texts):
            raise KeyboardInterrupt

    rows = [{"_id": str(i), "text": "stop here" if i == 600 else "go on"} for i in range(700)]
    Path("long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(LoadedEncoder, "before_encoding", staticmethod(interrupt))
    assert m3("index", "long.jsonl").code == 130
    monkeypatch.setattr(LoadedEncoder, "before_encoding", staticmethod(lambda texts: None))
    LoadedEncoder.loads.clear()
    refused = m3("index", "corpus.jsonl")
    assert (refused.code, refused.out, LoadedEncoder.loads) == (1, "", [])
    assert f"expected {place}/long.jsonl, of which the build was interrupted" in refused.err
    assert f"found {place}/corpus.jsonl. Run the first again" in refused.err
    monkeypatch.chdir(place / "indexes")
    done = m3("index", "../long.jsonl", "--index", "default", "--json")
    assert (done.code, lines_of(done.out)[0]["documents"]) == (0, 700)


def test_a_pipe_is_left_for_the_reader_of_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert _count_lines("corpus.jsonl") == len(DOCUMENTS)
    assert _count_lines("-") is None
    reader, writer = os.pipe()
    os.write(writer, b'{"_id": "a", "text": "b"}\n')
    os.close(writer)
    assert _count_lines(f"/dev/fd/{reader}") is None
    assert os.read(reader, 100) == b'{"_id": "a", "text": "b"}\n'
    os.close(reader)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "corpus.json"], "error: corpus.json: expected a file, found nothing at this"),
        (["index", "."], "found a folder"),
        (["index", "corpus.jsonl", "--on-error", "ignore"], "error: on_error: expected one of"),
        (["index", "corpus.jsonl", "--title-template", "{title}"], "expected {text} somewhere"),
        (["index", "corpus.jsonl", "--title-template", "{text}{x}"], "error: title template"),
        (["index", "corpus.jsonl", "--add"], "error: indexes/default"),
        (["query", "late"], "error: indexes/default"),
        (["delete", "late"], "error: indexes/default"),
        (["compact"], "error: indexes/default"),
        (["info", "nowhere"], "error: nowhere: expected the folder of an index or of a checkpoint"),
        (["info", "corpus.jsonl"], "found a file"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(
    m3: Callable[..., Result], arguments: list[str], message: str
) -> None:
    result = m3(*arguments)
    assert (result.code, result.out) == (1, "")
    assert message in result.err
    assert "Traceback" not in result.err
    assert LoadedEncoder.loads == []


def test_title_template_reads_escapes_as_typed_in_a_shell(m3: Callable[..., Result]) -> None:
    m3("index", "corpus.jsonl", "--title-template", r"{title}\n\n{text}")
    (info,) = lines_of(m3("info", "indexes/default", "--json").out)
    assert info["title_template"] == "{title}\n\n{text}"


def test_ctrl_c_says_what_is_committed(
    m3: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(texts: Sequence[str]) -> None:
        if any("stop here" in text for text in texts):
            raise KeyboardInterrupt

    monkeypatch.setattr(LoadedEncoder, "before_encoding", staticmethod(interrupt))
    rows = [{"_id": str(i), "text": "stop here" if i == 600 else "go on"} for i in range(700)]
    Path("long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = m3("index", "long.jsonl")
    assert (result.code, result.out) == (130, "")
    # the 512 of the first chunk are not lost
    assert result.err == (
        "stopped: 512 documents are committed in indexes/default; "
        "the same command goes on from there\n"
    )
    unfinished = m3("query", "go", "-k", "1")
    assert "the build of indexes/default is not finished: 512 documents so far" in unfinished.err
    monkeypatch.setattr(LoadedEncoder, "before_encoding", staticmethod(lambda texts: None))
    done = m3("index", "long.jsonl")
    assert done.code == 0
    assert re.search(r"^kept from before +512$", done.out, re.M)
    assert re.search(r"^documents +700$", done.out, re.M)


def test_a_bug_keeps_its_traceback(
    indexed: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(texts: Sequence[str]) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(LoadedEncoder, "before_encoding", staticmethod(fail))
    with pytest.raises(ZeroDivisionError):
        main(["query", "late"])


def test_a_full_disk_is_no_bug(m3: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(texts: Sequence[str]) -> None:
        raise OSError(28, "No space left on device", "indexes/default/x")

    monkeypatch.setattr(LoadedEncoder, "before_encoding", staticmethod(fail))
    result = m3("index", "corpus.jsonl")
    assert result.code == 1
    assert "error: indexes/default/x: No space left on device" in result.err


# query


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
    tokens = "    multi   late→Late 1.00 · vector→vector 1.00 · </s>→</s> 1.00"
    assert tokens in shown.splitlines()
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


# delete, compact, info


def test_delete_reports_what_it_did_not_find(indexed: Callable[..., Result]) -> None:
    Path("ids.txt").write_text("茶\nno\n\nlate\n", encoding="utf-8")
    result = indexed("delete", "late", "nix", "--ids-from", "ids.txt", "--json")
    assert result.code == 0
    assert lines_of(result.out) == [
        {"index": "indexes/default", "deleted": 2, "unknown": ["nix", "no"], "documents": 1}
    ]
    again = indexed("delete", "late")
    assert (again.code, again.err) == (0, "unknown id: late\n")
    assert again.out == "0 deleted, 1 unknown, 1 documents left\n"
    many = indexed("delete", *[f"x{i}" for i in range(25)])
    assert many.err.splitlines()[-1] == "unknown id: 5 more"
    assert indexed("delete").code == 2


def test_compact_leaves_what_can_be_found(indexed: Callable[..., Result]) -> None:
    before = lines_of(indexed("query", "vector", "--json").out)
    indexed("index", "-", "--add", stdin='{"_id": "x", "text": "vector"}\n')
    indexed("delete", "x")
    result = indexed("compact", "--json")
    assert result.code == 0
    (summary,) = lines_of(result.out)
    assert (summary["documents"], summary["segments"]) == (3, 1)
    assert lines_of(indexed("query", "vector", "--json").out) == before
    assert indexed("compact").out.startswith("3 documents in 1 segment, ")


def test_info_of_an_index(indexed: Callable[..., Result], place: Path) -> None:
    (info,) = lines_of(indexed("info", "indexes/default", "--json").out)
    assert info["format"] == "m3search-index" and info["documents"] == 3
    assert info["model"]["name"] == "word-hash"
    shown = indexed("info", "indexes/default", "--verify")
    assert shown.code == 0
    assert re.search(r"^verified +sound$", shown.out, re.M)
    damaged = next((place / "indexes" / "default").rglob("sparse.weights.npy"))
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 0xFF
    damaged.write_bytes(bytes(content))
    assert indexed("info", "indexes/default").code == 0
    broken = indexed("info", "indexes/default", "--verify", "--json")
    assert broken.code == 1
    assert "sparse.weights.npy" in broken.err and broken.err.startswith("error: ")
    assert "sparse.weights.npy" in lines_of(broken.out)[0]["damages"][0]


def test_info_shows_every_damage_beside_the_manifest(
    indexed: Callable[..., Result], place: Path
) -> None:
    indexed("index", "-", "--add", stdin='{"_id": "x", "text": "vector"}\n')
    first, second = sorted((place / "indexes" / "default" / "segments").iterdir())
    (first / "multi.lmdb").unlink()
    (first / "sparse.rows.npy").write_bytes(b"short")
    (second / "documents.sqlite").unlink()
    changed = bytearray((second / "dense.faiss").read_bytes())
    changed[-1] ^= 0xFF
    (second / "dense.faiss").write_bytes(changed)
    for options, count in (([], 3), (["--verify"], 4)):
        broken = indexed("info", "indexes/default", "--json", *options)
        assert broken.code == 1
        (info,) = lines_of(broken.out)
        assert (info["format"], info["documents"]) == ("m3search-index", 4)
        assert len(info["damages"]) == count
        assert [line[7:] for line in broken.err.splitlines()] == info["damages"]
        for name in ("multi.lmdb: missing", "sparse.rows.npy: 5 bytes", "documents.sqlite: miss"):
            assert any(name in damage for damage in info["damages"])
        shown = indexed("info", "indexes/default", *options)
        assert shown.code == 1
        assert re.search(r"^verified +damaged$", shown.out, re.M)
        assert re.search(r"^documents +4$", shown.out, re.M)


# the program


COMMANDS = ["index", "query", "delete", "compact", "info", "eval", "train"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(m3: Callable[..., Result], command: str) -> None:
    result = m3(command, "--help")
    assert result.code == 0
    assert f"Example: m3search {command}" in " ".join(result.out.split())
    assert command in m3("--help").out


def test_short_descriptions_are_whole(m3: Callable[..., Result]) -> None:
    listed = m3("--help").out.split("Commands:")[1]
    assert all(line.rstrip().endswith(".") for line in listed.splitlines()[1:8])
    assert "..." not in listed


def test_version_and_usage_errors(m3: Callable[..., Result]) -> None:
    assert re.fullmatch(r"m3search \d+\.\d+\.\d+\S*\n", m3("--version").out)
    assert m3("--version").code == 0
    for wrong in (["indx"], ["index"], ["info"], ["train"], ["eval"], ["--nonsense"]):
        assert m3(*wrong).code == 2


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2 * 10**9, "2.0 GB"), (3 * 10**12, "3.0 TB")],
)
def test_sizes_for_people(size: int, shown: str) -> None:
    assert readable_bytes(size) == shown


def test_wide_characters_keep_columns_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["set", "nDCG@10"], [["日本語", "1.0"], ["en", "10.0"]])
    assert capsys.readouterr().out == "set     nDCG@10\n日本語      1.0\nen         10.0\n"


# training


def test_train_passes_its_options_on(
    m3: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []
    chosen = types.SimpleNamespace(optimiser=types.SimpleNamespace(steps=4))

    def read_recipe(path: Path, overrides: Sequence[str]) -> Any:
        if overrides == ["stepz=1"]:
            raise ConfigError.unknown("recipe", "stepz", ["steps"])
        asked.append((str(path), list(overrides)))
        return chosen

    def train(recipe: Any, out: Path, *, resume: bool, report: Callable[[Any], None]) -> Path:
        asked.append((recipe is chosen, str(out), resume))
        report({"step": 2.0, "loss": 1.5, "loss_dense": 1.25})
        report({"step": 4.0, "loss": 0.5})
        if out.name == "stopped":
            raise KeyboardInterrupt
        return out

    loop = types.ModuleType("m3search.training.loop")
    loop.read_recipe, loop.train = read_recipe, train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "m3search.training.loop", loop)
    result = m3("train", "recipes/mini.toml", "--set", "a=1", "--set", "b=2", "--resume", "--json")
    assert result.code == 0
    assert asked == [("recipes/mini.toml", ["a=1", "b=2"]), (True, "checkpoints/mini", True)]
    assert lines_of(result.out) == [{"checkpoint": "checkpoints/mini", "steps": 4}]
    assert "step 2  loss 1.5000  loss_dense 1.2500" in result.err
    assert "step 4  loss 0.5000" in result.err
    out = tmp_path / "stopped"
    early = m3("train", "mini.toml", "--out", str(out))
    assert (early.code, "before the first state was saved" in early.err) == (130, True)
    out.mkdir()
    (out / "training_state.pt").write_bytes(b"saved")
    stopped = m3("train", "mini.toml", "--out", str(out))
    assert stopped.code == 130
    assert f"go on with: m3search train mini.toml --out {out} --resume" in stopped.err
    wrong = m3("train", "mini.toml", "--set", "stepz=1")
    assert (wrong.code, "Did you mean 'steps'?" in wrong.err) == (1, True)


# evaluation


@pytest.fixture
def judged(place: Path) -> Path:
    folder = place / "tiny"
    (folder / "qrels").mkdir(parents=True)
    (place / "corpus.jsonl").rename(folder / "corpus.jsonl")
    queries = [{"_id": "q1", "text": "late token"}, {"_id": "q2", "text": "one vector text"}]
    (folder / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    judgements = "query-id\tcorpus-id\tscore\nq1\tlate\t1\nq2\tdense\t1\n"
    (folder / "qrels" / "test.tsv").write_text(judgements)
    return folder


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


def test_eval_prints_a_table_in_percent(m3: Callable[..., Result], judged: Path) -> None:
    options = ["--rows", "sparse,all", "--measures", "RR@10,R@5", "--weights", "0,1,0"]
    result = m3("eval", "tiny", *options)
    assert result.code == 0
    assert result.out == (
        "RR@10  sparse    all\ntiny    100.0  100.0\n\nR@5   sparse    all\ntiny   100.0  100.0\n"
    )
    assert result.err.endswith("report in eval/reports/tiny/report.md\n")
    assert LoadedEncoder.loads == ["None"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tinny"], 1, "tinny"),
        (["tiny", "--measures", "ndcg@10"], 1, "Did you mean 'nDCG@10'?"),
        (["tiny", "--rows", "dens"], 1, "Did you mean 'dense'?"),
        (["tiny", "--depth", "0"], 1, "error: options: expected settings in range"),
        (["tiny", "--weights", "1,2"], 1, "error: --weights: expected three numbers"),
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
