"""What the command line says where something is amiss: the matter itself, and a way on."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from searching import LoadedEncoder

from m3search.cli import main
from m3search.stores.commit import WriteLock

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in = types.ModuleType("m3search.encoder")
    stand_in.Encoder = LoadedEncoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "m3search.encoder", stand_in)
    monkeypatch.setattr(LoadedEncoder, "loads", [])
    monkeypatch.chdir(tmp_path)
    write("corpus.jsonl", [{"_id": "a", "text": "tea"}, {"_id": "b c", "text": "late tea"}])
    return tmp_path


@pytest.fixture
def m3(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def write(name: str, rows: list[dict[str, object]]) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_adding_with_a_model_that_has_moved_says_where_to_name_it(
    m3: Command, monkeypatch: pytest.MonkeyPatch
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
    m3: Command, monkeypatch: pytest.MonkeyPatch
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
    code, _, err = m3("index", "other.jsonl")
    assert (code, "of which the build was interrupted" in err) == (1, True)


def test_ids_that_no_run_can_hold_are_told_when_they_are_indexed(m3: Command) -> None:
    code, _, err = m3("index", "corpus.jsonl")
    assert code == 0
    assert "1 ids hold white space, 'b c' for one" in err
    write("queries.jsonl", [{"_id": "q 1", "text": "tea"}])
    searched: list[str] = []
    LoadedEncoder.before_encoding = staticmethod(searched.extend)
    try:
        code, _, err = m3("query", "--queries", "queries.jsonl", "--run", "run.trec")
    finally:
        LoadedEncoder.before_encoding = staticmethod(lambda texts: None)
    assert (code, "a query id without white space" in err, searched) == (1, True, [])


def test_a_blank_query_is_answered_with_a_note(m3: Command) -> None:
    m3("index", "corpus.jsonl")
    code, out, err = m3("query", " ", "--json")
    assert (code, len(out.splitlines())) == (0, 2)
    assert "the query is blank" in err
    assert "blank" not in m3("query", "tea", "--json")[2]


def test_no_modes_at_all_is_answered_with_an_example(m3: Command) -> None:
    m3("index", "corpus.jsonl")
    code, _, err = m3("query", "tea", "--modes", "")
    assert (code, "--modes dense,sparse" in err) == (1, True)


def test_judgements_of_unknown_documents_can_be_kept_for_a_folder(m3: Command) -> None:
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


def test_a_null_text_is_called_null(m3: Command) -> None:
    write("null.jsonl", [{"_id": "a", "text": None}])
    code, _, err = m3("index", "null.jsonl", "--index", "other")
    assert (code, 'found null in "text"' in err) == (1, True)
