"""What the command line says where something is amiss: the matter itself, and a way on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from running_commands import Result, command_line, folder_of_a_test  # noqa: F401
from searching import LoadedEncoder

from m3search.stores.commit import WriteLock


@pytest.fixture(autouse=True)
def small_corpus(place: Path) -> None:
    write("corpus.jsonl", [{"_id": "a", "text": "tea"}, {"_id": "b c", "text": "late tea"}])


def write(name: str, rows: list[dict[str, object]]) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_set() -> None:
    write("set/corpus.jsonl", [{"_id": "a", "text": "tea"}])
    write("set/queries.jsonl", [{"_id": "1", "text": "tea"}])
    Path("set/qrels").mkdir()
    Path("set/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n")


def test_adding_with_a_model_that_has_moved_says_where_to_name_it(
    m3: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert m3("index", "corpus.jsonl")[0] == 0

    def load(cls: type, name: str | None = None, **_: object) -> object:
        raise_unknown(str(name))

    with monkeypatch.context() as patch:
        patch.setattr(LoadedEncoder, "load", classmethod(load))
        for command in (("index", "corpus.jsonl", "--add"), ("query", "tea")):
            code, _, err = m3(*command)
            assert code == 1
            assert "error: model word-hash: expected the model that made the index" in err
            assert "--model FOLDER" in err
    assert m3("index", "corpus.jsonl", "--add", "--model", "word-hash")[0] == 0


def raise_unknown(name: str) -> None:
    from m3search.errors import ConfigError

    raise ConfigError("model", expected="a folder", found=repr(name), remedy="Check it.")


def test_a_build_beside_another_is_told_of_it_and_not_of_an_interruption(
    m3: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(texts: list[str]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LoadedEncoder, "before_encoding", staticmethod(stop))
        assert m3("index", "corpus.jsonl")[0] == 130
    write("other.jsonl", [{"_id": "x", "text": "y"}])
    lock = WriteLock(Path("indexes/default"))  # as the first build would hold it
    code, _, err = m3("index", "other.jsonl")
    lock.release()
    assert (code, "one writer at a time" in err) == (1, True)
    assert m3("index", "other.jsonl")[0] == 0


def test_ids_that_no_run_can_hold_are_told_when_they_are_indexed(m3: Callable[..., Result]) -> None:
    code, _, err = m3("index", "corpus.jsonl")
    assert code == 0
    assert "white space in one id, 'b c': query" in err
    write("queries.jsonl", [{"_id": "q 1", "text": "tea"}])
    searched: list[str] = []
    LoadedEncoder.before_encoding = staticmethod(searched.extend)
    try:
        code, _, err = m3("query", "--queries", "queries.jsonl", "--run", "run.trec")
    finally:
        LoadedEncoder.before_encoding = staticmethod(lambda texts: None)
    assert (code, "a query id without white space" in err, searched) == (1, True, [])


def test_a_blank_query_is_answered_with_a_note(m3: Callable[..., Result]) -> None:
    m3("index", "corpus.jsonl")
    code, out, err = m3("query", " ", "--json")
    assert (code, len(out.splitlines())) == (0, 2)
    assert "a blank query" in err
    assert "blank" not in m3("query", "tea", "--json")[2]


def test_no_modes_at_all_is_answered_with_an_example(m3: Callable[..., Result]) -> None:
    m3("index", "corpus.jsonl")
    code, _, err = m3("query", "tea", "--modes", "")
    assert (code, "--modes dense,sparse" in err) == (1, True)


def test_judgements_of_unknown_documents_can_be_kept_for_a_folder(
    m3: Callable[..., Result],
) -> None:
    write("set/corpus.jsonl", [{"_id": "a", "text": "tea"}, {"_id": "b", "text": "late"}])
    write("set/queries.jsonl", [{"_id": "1", "text": "tea"}])
    Path("set/qrels").mkdir()
    Path("set/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n1\tgone\t1\n")
    code, _, err = m3("eval", "set", "--rows", "dense")
    assert (code, "--set unknown_documents=keep" in err) == (1, True)
    kept = ("--set", "unknown_documents=keep", "--rows", "dense", "--out", "report", "--json")
    code, out, err = m3("eval", "set", *kept)
    assert code == 0, err
    assert json.loads(out)["sets"]["set"]["rows"]["dense"]["R@100"] == 0.5
    assert "unknown_documents=keep" in Path("report/report.md").read_text()


def test_a_null_text_is_called_null(m3: Callable[..., Result]) -> None:
    write("null.jsonl", [{"_id": "a", "text": None}])
    code, _, err = m3("index", "null.jsonl", "--index", "other")
    assert (code, 'found null in "text"' in err) == (1, True)


def test_a_first_build_that_failed_leaves_nothing_in_the_way(m3: Callable[..., Result]) -> None:
    Path("array.json").write_text('[{"_id": "a", "text": "tea"}]\n')
    failed = m3("index", "array.json")
    assert (failed.code, "nothing is committed yet" in failed.err) == (1, True)
    done = m3("index", "corpus.jsonl", "--json", "--title-template", "{title} {text}")
    assert (done.code, json.loads(done.out)["documents"]) == (0, 2)
    assert json.loads(m3("info", "indexes/default", "--json").out)["source"].endswith(
        "corpus.jsonl"
    )


def test_words_that_the_model_does_not_know_are_answered_with_a_note(
    m3: Callable[..., Result],
) -> None:
    m3("index", "corpus.jsonl")
    note = "no word of the query is known to the model"
    assert note in m3("query", "unknown unknown", "--json").err
    assert note not in m3("query", "unknown tea", "--json").err


def test_filters_given_twice_must_both_hold(m3: Callable[..., Result]) -> None:
    write("two.jsonl", [{"_id": "a", "text": "tea", "x": 1}, {"_id": "b", "text": "tea", "x": 2}])
    m3("index", "two.jsonl")
    found = m3("query", "tea", "--json", "--filter", "x>=1", "--filter", "x<2")
    assert [json.loads(line)["id"] for line in found.out.splitlines()] == ["a"]


def test_a_filter_on_a_field_that_no_document_has_says_so(m3: Callable[..., Result]) -> None:
    write("two.jsonl", [{"_id": "a", "text": "tea", "lang": "en"}])
    m3("index", "two.jsonl")
    missed = m3("query", "tea", "--filter", "langg=en,lang=en").err
    assert missed == "no hits\nno document has the field 'langg'\n"
    assert m3("query", "tea", "--filter", "lang=de").err == "no hits\n"


def test_a_run_can_go_to_standard_output(m3: Callable[..., Result]) -> None:
    m3("index", "corpus.jsonl")
    m3("delete", "b c")
    write("queries.jsonl", [{"_id": "q", "text": "tea"}])
    result = m3("query", "--queries", "queries.jsonl", "--run", "-")
    assert result.out.split()[:4] == ["q", "Q0", "a", "1"]
    assert not Path("-").exists()


def test_a_full_disk_behind_standard_output_is_no_bug(
    m3: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    m3("index", "corpus.jsonl")
    moved: list[tuple[int, int]] = []
    monkeypatch.setattr("os.dup2", lambda *fds: moved.append(fds))
    monkeypatch.setattr("sys.stdout.fileno", lambda: 1, raising=False)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("m3search.cli.querying.print_json", full)
    result = m3("query", "tea", "--json")
    assert (result.code, len(moved)) == (1, 1)
    assert "error: standard output: No space left on device" in result.err


def test_a_place_without_a_set_or_suite_is_named(m3: Callable[..., Result]) -> None:
    result = m3("eval", "nope")
    assert (result.code, "expected the folder of a set, a suite in TOML" in result.err) == (1, 1)


@pytest.mark.parametrize("command", ["eval", "tune"])
@pytest.mark.parametrize(
    ("given", "found"), [("corpus.jsonl", "a file"), ("gone", "nothing at this path")]
)
def test_scores_come_from_the_folder_of_a_report(
    m3: Callable[..., Result], command: str, given: str, found: str
) -> None:
    write_set()
    result = m3(command, "set", "--from-scores", given)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"error: {given}: expected the folder of a report, found {found}. "
        "Give the folder with report.json in it, as m3search eval --out leaves one.\n"
    )


@pytest.mark.parametrize("wanted", ["corpus.jsonl", "corpus.jsonl/x", "corpus.jsonl/x/y"])
def test_an_index_at_or_below_a_file_is_told_before_a_model_is_loaded(
    m3: Callable[..., Result], wanted: str
) -> None:
    result = m3("index", "corpus.jsonl", "--index", wanted)
    assert (result.code, result.out, LoadedEncoder.loads) == (1, "", [])
    assert result.err == (
        f"error: corpus.jsonl: expected a folder, as {wanted} is to be an index, found a file. "
        "Give another path.\n"
    )


def test_a_report_below_a_file_is_told_before_anything_is_encoded(
    m3: Callable[..., Result],
) -> None:
    write_set()
    result = m3("eval", "set", "--out", "corpus.jsonl/report")
    assert (result.code, result.out, LoadedEncoder.loads) == (1, "", [])
    assert "error: corpus.jsonl/report: expected a folder for the report" in result.err
