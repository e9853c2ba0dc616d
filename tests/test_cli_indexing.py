"""`m3search index`: its summary, its options, wrong lines, interruptions and pipes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from running_commands import (  # noqa: F401
    DOCUMENTS,
    Result,
    command_line,
    command_line_with_index,
    folder_of_a_test,
    lines_of,
)
from searching import LoadedEncoder

from m3search.cli.reading import count_lines


def interrupt(texts: Sequence[str]) -> None:
    """What Ctrl-C does while some texts are encoded."""
    if any("stop here" in text for text in texts):
        raise KeyboardInterrupt


def test_index_prints_what_programs_rely_on(m3: Callable[..., Result]) -> None:
    result = m3("index", "corpus.jsonl", "--index", "one/two", "--json")
    assert result.code == 0
    (summary,) = lines_of(result.out)
    keys = ["index", "documents", "skipped", "truncated", "segments", "seconds", "bytes", "deleted"]
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


def test_documents_are_computed_by_the_backend_that_is_asked_for(
    m3: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m3search.model.backend.find_spec", lambda name: object())
    assert m3("index", "corpus.jsonl", "--backend", "openvino").code == 0
    assert m3("index", "corpus.jsonl", "--backend", "openvino", "--add").code == 0
    assert LoadedEncoder.loads == ["None by openvino", "word-hash by openvino"]
    monkeypatch.setattr("m3search.model.backend.find_spec", lambda name: None)
    missing = m3("index", "corpus.jsonl", "--backend", "openvino", "--add")
    assert missing.code == 1
    assert missing.err.startswith("error: backend: expected the package openvino")
    assert "pip install 'm3search[openvino]'" in missing.err
    assert "Did you mean 'torch'" in m3("index", "corpus.jsonl", "--backend", "torc").err


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
    assert count_lines("corpus.jsonl") == len(DOCUMENTS)
    assert count_lines("-") is None
    reader, writer = os.pipe()
    os.write(writer, b'{"_id": "a", "text": "b"}\n')
    os.close(writer)
    assert count_lines(f"/dev/fd/{reader}") is None
    assert os.read(reader, 100) == b'{"_id": "a", "text": "b"}\n'
    os.close(reader)


def test_title_template_reads_escapes_as_typed_in_a_shell(m3: Callable[..., Result]) -> None:
    m3("index", "corpus.jsonl", "--title-template", r"{title}\n\n{text}")
    (info,) = lines_of(m3("info", "indexes/default", "--json").out)
    assert info["title_template"] == "{title}\n\n{text}"


def test_ctrl_c_says_what_is_committed(
    m3: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
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
    shown = m3("info", "indexes/default").out
    assert re.search(r"^complete +no: the build was interrupted$", shown, re.M)
    monkeypatch.setattr(LoadedEncoder, "before_encoding", staticmethod(lambda texts: None))
    done = m3("index", "long.jsonl")
    assert done.code == 0
    assert re.search(r"^kept from before +512$", done.out, re.M)
    assert re.search(r"^documents +700$", done.out, re.M)


def test_resume_goes_on_begins_and_leaves_what_is_finished(
    m3: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"_id": str(i), "text": "stop here" if i == 600 else f"{i} on"} for i in range(700)]
    Path("long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(LoadedEncoder, "before_encoding", staticmethod(interrupt))
    assert m3("index", "long.jsonl", "--index", "killed", "--resume").code == 130
    monkeypatch.setattr(LoadedEncoder, "before_encoding", staticmethod(lambda texts: None))
    for index in ("killed", "whole"):
        done = m3("index", "long.jsonl", "--index", index, "--resume", "--json")
        assert (done.code, lines_of(done.out)[0]["documents"]) == (0, 700)
    asked = ("query", "8 on", "-k", "20", "--json", "--index")
    assert m3(*asked, "killed").out == m3(*asked, "whole").out
    LoadedEncoder.loads.clear()
    again = m3("index", "long.jsonl", "--index", "killed", "--resume")
    assert (again.code, LoadedEncoder.loads) == (0, [])
    assert again.err == "the build of killed is finished: nothing was done\n"
    assert m3("index", "corpus.jsonl", "--index", "killed", "--resume").code == 1
    assert m3("index", "long.jsonl", "--index", "killed", "--resume", "--add").code == 2


def test_a_build_of_a_stream_goes_on_only_where_that_is_said(
    m3: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be told whether it is the same stream, and what it lacks would be deleted."""

    def lines(first: int, last: int) -> str:
        rows = [{"_id": str(i), "text": "stop here" if i == 600 else f"{i} on"} for i in
                range(first, last)]  # fmt: skip
        return "".join(json.dumps(row) + "\n" for row in rows)

    monkeypatch.setattr(LoadedEncoder, "before_encoding", staticmethod(interrupt))
    stopped = m3("index", "-", "--index", "own", stdin=lines(0, 700))
    assert stopped.code == 130 and "the same command with --resume goes on" in stopped.err
    monkeypatch.setattr(LoadedEncoder, "before_encoding", staticmethod(lambda texts: None))
    other = m3("index", "-", "--index", "own", stdin=lines(500, 520))
    assert other.code == 1 and "own: expected --resume" in other.err
    assert json.loads(m3("info", "own", "--json").out)["documents"] == 512
    whole = m3("index", "-", "--index", "own", "--resume", "--json", stdin=lines(10, 700))
    summary = json.loads(whole.out)
    assert (whole.code, summary["documents"], summary["deleted"]) == (0, 690, 10)
    again = m3("index", "-", "--index", "own", "--resume", stdin=lines(0, 3))
    assert again.err == "the build of own is finished: nothing was done, and nothing read\n"


def test_chunks_are_found_and_shown(m3: Callable[..., Result]) -> None:
    long = "tea and rice " * 40 + "a lighthouse stands here " + "cats sleep late " * 40
    rows = [{"_id": "long", "text": long}, {"_id": "short", "text": "a light house"}]
    Path("long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    built = m3("index", "long.jsonl", "--chunk", "20:4")
    assert re.search(r"^documents +2$", built.out, re.M)
    (hit,) = lines_of(m3("query", "lighthouse", "--json", "--modes", "sparse").out)
    start, end = hit["passage"]["start"], hit["passage"]["end"]
    assert hit["text"] == long and "lighthouse" in long[start:end] and end - start < 200
    assert "**lighthouse**" in m3("query", "lighthouse", "--modes", "sparse", "--explain").out
    shown = m3("info", "indexes/default").out
    assert re.search(r"^passages +\d+ of at most 20 tokens, 4 shared$", shown, re.M)
    assert re.search(r"^deleted rows +0$", shown, re.M)
    assert re.search(r"^stored +dense fp32, sparse fp32, multi int4$", shown, re.M)
    assert "complete" not in shown
    assert m3("index", "corpus.jsonl", "--add", "--chunk", "30").code == 1
    Path("q.tsv").write_text("q\ttea\n")
    assert m3("query", "--queries", "q.tsv", "--run", "-").out.count("long") == 1
    for wrong in ("x", "20:", "20:x", "20:10", "-5"):
        assert m3("index", "long.jsonl", "--index", "w", f"--chunk={wrong}").code in (1, 2), wrong


def test_options_of_a_build_that_committed_nothing_are_forgotten(m3: Callable[..., Result]) -> None:
    Path("bad.jsonl").write_text("no json\n")
    assert m3("index", "bad.jsonl", "--chunk", "8", "--multi-codec", "fp16").code == 1
    assert m3("index", "corpus.jsonl").code == 0
    (info,) = lines_of(m3("info", "indexes/default", "--json").out)
    assert (info["chunk"], info["multi_codec"]) == (0, "int4")


def test_resume_of_a_finished_index_checks_what_is_asked(m3: Callable[..., Result]) -> None:
    assert m3("index", "corpus.jsonl", "--max-length", "4", "--chunk", "0").code == 0
    same = m3("index", "corpus.jsonl", "--resume", "--json")
    assert (same.code, lines_of(same.out)[0]["truncated"]) == (0, 3)
    for option, expected in (
        ("--chunk=64", "--chunk: expected 0, as the index was made with, found 64"),
        ("--multi-codec=fp16", "--multi-codec: expected 'int4'"),
        ("--max-length=9", "--max-length: expected 4"),
    ):
        other = m3("index", "corpus.jsonl", "--resume", option)
        assert other.code == 1 and expected in other.err
    assert m3("index", "nowhere.jsonl", "--resume").code == 1


def test_resume_compares_the_model(
    m3: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a finished index as of one that was interrupted."""
    assert m3("index", "corpus.jsonl").code == 0
    assert m3("index", "corpus.jsonl", "--resume", "--model", "word-hash").code == 0
    other = m3("index", "corpus.jsonl", "--resume", "--model", "other")
    assert (other.code, other.out) == (1, "")
    assert "error: encoder other: expected the model that made the index, word-hash (" in other.err
    assert "found other (000000000000, cls pooling). Load that model, or build" in other.err

    rows = [{"_id": str(i), "text": "stop here" if i == 600 else "go on"} for i in range(700)]
    Path("long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(LoadedEncoder, "before_encoding", staticmethod(interrupt))
    assert m3("index", "long.jsonl", "--index", "half").code == 130
    monkeypatch.setattr(LoadedEncoder, "before_encoding", staticmethod(lambda texts: None))
    other = m3("index", "long.jsonl", "--index", "half", "--resume", "--model", "other")
    assert (other.code, other.out) == (1, "")
    assert "error: half: expected the model of the index, word-hash (fingerprint" in other.err
    assert "found other (fingerprint 000000000000). Use the same model" in other.err
    done = m3("index", "long.jsonl", "--index", "half", "--resume", "--json")
    assert (done.code, lines_of(done.out)[0]["documents"]) == (0, 700)


def test_what_there_is_to_say_of_a_corpus_is_said(m3: Callable[..., Result]) -> None:
    rows = [
        {"_id": "a b", "text": "tea"},
        {"_id": "c", "text": " "},
        {"_id": "d", "title": "T", "text": ""},
    ]
    Path("odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = m3("index", "odd.jsonl", "--index", "odd").err
    assert "white space in one id, 'a b'" in told
    assert "no text in one document, 'c': where" in told
    Path("bad.jsonl").write_text('{"text": "no id"}\n')
    assert (
        "no document was read\n"
        in m3("index", "bad.jsonl", "--on-error", "skip", "--index", "b").err
    )
