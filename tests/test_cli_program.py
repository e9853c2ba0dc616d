"""The program as a whole: help, version, usage errors, and which errors are one line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

import pytest
from running_commands import Result, command_line, command_line_with_index, folder_of_a_test  # noqa: F401
from searching import LoadedEncoder

from m3search.cli import main

COMMANDS = ["index", "query", "delete", "compact", "info", "eval", "train"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(m3: Callable[..., Result], command: str) -> None:
    result = m3(command, "--help")
    assert result.code == 0
    assert f"Example: m3search {command}" in " ".join(result.out.split())
    assert command in m3("--help").out


def test_short_descriptions_are_whole(m3: Callable[..., Result]) -> None:
    listed = m3("--help").out.split("Commands:")[1]
    assert all(line.rstrip().endswith(".") for line in listed.splitlines()[1:9])
    assert "..." not in listed


def test_version_and_usage_errors(m3: Callable[..., Result]) -> None:
    assert re.fullmatch(r"m3search \d+\.\d+\.\d+\S*\n", m3("--version").out)
    assert m3("--version").code == 0
    for wrong in (["indx"], ["index"], ["info"], ["train"], ["eval"], ["--nonsense"]):
        assert m3(*wrong).code == 2


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


@pytest.mark.parametrize(
    ("name", "default", "other"),
    [("OMP_WAIT_POLICY", "PASSIVE", "ACTIVE"), ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384", "9")],
)
def test_torch_is_told_how_to_compute_unless_the_user_has_told_it(
    m3: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, name: str, default: str, other: str
) -> None:
    for given, expected in ((None, default), (other, other)):
        monkeypatch.delenv(name, raising=False)
        if given is not None:
            monkeypatch.setenv(name, given)
        assert m3("--version").code == 0
        assert os.environ[name] == expected
