"""Raw texts become title-body pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard
from trainer_scripts import Runner, read, script, write

title_body = script("title_body_pairs")
RawText, Pair = title_body.RawText, title_body.Pair


@pytest.fixture
def make(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(title_body, capsys)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (RawText("Body.", "A  title"), ("A title", "Body.", "title")),
        (RawText("A TITLE!\nBody.", "A title"), ("A title", "Body.", "title")),
        (RawText("# A title\n\nBody.", "A title", None, True), ("A title", "Body.", "title")),
        (RawText("# Head #\n\nBo\n## Two", "", None, True), ("Head", "Bo\n## Two", "heading")),
        (RawText("Intro\n\nHead\n===\nBody", "", None, True), ("Head", "Intro\n\nBody", "heading")),
        (RawText("```\n# no\n```\n## Yes\nBody", "", None, True),
         ("Yes", "```\n# no\n```\nBody", "heading")),
        (RawText("~~~~\n```\n# no\n~~~\n~~~~\n# Yes\nBody", "", None, True),
         ("Yes", "~~~~\n```\n# no\n~~~\n~~~~\nBody", "heading")),
        (RawText("---\ntitle: 'Front'\nx: 1\n---\nBody", "", None, True),
         ("Front", "Body", "title")),
        (RawText("---\ntitle: Front\n---\nBody", "Own", None, True), ("Own", "Body", "title")),
        (RawText("---\nx: 1\n---\n# Head\nBody", "", None, True), ("Head", "Body", "heading")),
        (RawText("# Not Markdown\nBody"), ("# Not Markdown", "Body", "sentence")),
        (RawText("#hash is no heading\nBody", "", None, True),
         ("#hash is no heading", "Body", "sentence")),
        (RawText("It is 3.5 m. Then more."), ("It is 3.5 m.", "Then more.", "sentence")),
        (RawText('He said "no." Then more.'), ('He said "no."', "Then more.", "sentence")),
        (RawText("茶は飲み物。水も。"), ("茶は飲み物。", "水も。", "sentence")),
        (RawText("यह है। वह है।"), ("यह है।", "वह है।", "sentence")),
        (RawText("Only words"), ("Only words", "", "sentence")),
        (RawText("  "), None),
    ],
)  # fmt: skip
def test_the_query_of_a_document(raw: object, expected: tuple[str, str, str] | None) -> None:
    assert title_body.make_pair(raw) == expected


def test_the_sources_can_be_chosen() -> None:
    raw = RawText("# Head\nOne. Two.", "Title", None, True)
    found = {s: title_body.make_pair(raw, [s]) for s in title_body.SOURCES}
    assert {s: pair.query for s, pair in found.items()} == {
        "title": "Title", "heading": "Head", "sentence": "# Head",
    }  # fmt: skip
    assert title_body.make_pair(RawText("One. Two."), ["title", "heading"]) is None


def test_cutting() -> None:
    assert title_body.cut_text("one two three", 13) == "one two three"
    assert title_body.cut_text("one two three", 12) == "one two"
    assert title_body.cut_text("one two three", 7) == "one two"
    assert title_body.cut_text("one two three", 6) == "one"
    assert title_body.cut_text("漢字漢字", 3) == "漢字漢"


def test_bounds_and_repeats() -> None:
    maker = title_body.Maker(title_body.Bounds(3, 10, 5, 8))
    rows = [
        ("abc", "12345", "en", "title"),
        ("ab", "body 1", "en", "short query"),
        ("abcdefghijk", "body 2", "en", "long query"),
        ("abcdefghij", "1234", "en", "short body"),
        ("ABC!", "body 3", "en", "repeated query"),
        ("ABC!", "body 3", "fr", "title"),
        ("other", "Body, 3", "en", "repeated body"),
        ("other", "body 4", None, "title"),
        ("long", "12345 6789", "en", "repeated body"),
        ("longer", "12346 6789", "en", "title"),
    ]
    for title, text, language, expected in rows:
        before = maker.counts.copy()
        made = maker.make(RawText(text, title, language))
        assert maker.counts - before == {expected: 1}, (title, text)
        assert (made is not None) == (expected == "title")
    two = title_body.Maker(title_body.Bounds(per_query=2, least_body=1))
    assert [bool(two.make(RawText(text, "Title", "en"))) for text in "aabc"] == [1, 0, 1, 0]
    assert two.counts == {"title": 2, "repeated body": 1, "repeated query": 1}
    assert made == {"query": "longer", "pos": ["12346"], "lang": "en"} and maker.cut == 1


def test_files_of_all_kinds(tmp_path: Path, make: Runner) -> None:
    body = "A body that is long enough to be kept, number {}."
    lines = write(tmp_path / "in" / "b.jsonl", [
        {"id": 1, "title": "One", "text": body.format(1), "lang": "de", "x": 1},
        {"title": "Two", "contents": body.format(2), "language": "fr"},
        {"title": None, "text": f"Three. {body.format(3)}"},
    ])  # fmt: skip
    lines.rename(tmp_path / "in" / "b.jsonl")
    packed = tmp_path / "in" / "c.jsonl.zst"
    packed.write_bytes(zstandard.compress(b'{"text": "short"}'))
    (tmp_path / "in" / "sub").mkdir()
    (tmp_path / "in" / "sub" / "d.md").write_text(f"# Four\n{body.format(4)}", encoding="utf-8-sig")
    (tmp_path / "in" / "e.txt").write_text(f"Five\n{body.format(5)}", encoding="utf-8")
    (tmp_path / "in" / "f.png").write_bytes(b"\x89")
    out = tmp_path / "out" / "pairs.jsonl.gz"
    options = ("--lang", "en", "--min-body", 20, "--report", tmp_path / "report.json")
    report = make(tmp_path / "in", "--out", out, *options)
    assert read(out) == [
        {"query": "One", "pos": [body.format(1)], "lang": "de"},
        {"query": "Two", "pos": [body.format(2)], "lang": "fr"},
        {"query": "Three.", "pos": [body.format(3)], "lang": "en"},
        {"query": "Five", "pos": [body.format(5)], "lang": "en"},
        {"query": "Four", "pos": [body.format(4)], "lang": "en"},
    ]
    by = {"heading": 1, "sentence": 2, "short body": 1, "title": 2}
    assert report == {"files": 4, "documents": 6, "pairs": 5, "bodies_cut": 0, "by": by,
                      "without_lines": []}  # fmt: skip
    assert '"pairs": 5' in (tmp_path / "report.json").read_text()
    first = out.read_bytes()
    assert first[4:8] == bytes(4)  # no time in it
    make(tmp_path / "in", "--out", out, *options)
    assert out.read_bytes() == first


def test_errors_leave_what_was_there(tmp_path: Path, make: Runner) -> None:
    out = write(tmp_path / "out.jsonl", [{"old": 1}])
    bad = write(tmp_path / "bad.jsonl", [{"text": "x" * 60, "title": "fine"}, {"text": 3}])
    assert make.fail(bad, "--out", out).startswith(f"error: {bad}, line 2: expected a string in")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    said = make.fail(tmp_path / "latin.txt", "--out", out)
    assert "latin.txt: expected UTF-8, found byte 0xe9 at byte 4" in said
    assert "nothing at this path" in make.fail(tmp_path / "none.txt", "--out", out)
    assert "zstd is read here, but not written" in make.fail(bad, "--out", "o.zst")
    assert "invalid choice: 'name'" in make.fail(bad, "--out", out, "--query", "name")
    assert read(out) == [{"old": 1}] and not list(tmp_path.glob(".*"))
    (tmp_path / "dir.jsonl").mkdir()
    good = write(tmp_path / "good.jsonl", [{"text": "x" * 60, "title": "fine"}])
    assert "dir.jsonl" in make.fail(good, "--out", tmp_path / "dir.jsonl")


def test_without_a_pair_there_is_no_file(tmp_path: Path, make: Runner) -> None:
    short = write(tmp_path / "short.jsonl", [{"text": "short"}])
    out = write(tmp_path / "out.jsonl", [{"old": 1}])
    report = make(short, "--out", out)
    assert report["pairs"] == 0 and report["without_lines"] == [str(out)]
    assert not out.exists()
