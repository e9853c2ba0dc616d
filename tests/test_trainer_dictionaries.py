"""Dictionaries out of their packages, and word lists out of dictionaries."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from trainer_scripts import script, write

from m3search.errors import DataError

dictionaries, fetching = script("dictionaries"), script("fetch_dictionaries")
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def base64(number: int) -> str:
    digits = DIGITS[number % 64]
    return (base64(number // 64) if number >= 64 else "") + digits


def pack_tar(files: Mapping[str, bytes], mode: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./usr/share/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def pack_deb(files: Mapping[str, bytes]) -> bytes:
    """A Debian package: an ar archive of a version, a control archive and the files."""
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": b"odd",
        "data.tar.xz": pack_tar(files, "w:xz"),
    }
    packed = b"!<arch>\n"
    for name, content in parts.items():
        packed += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        packed += content + b"\n" * (len(content) % 2)
    return packed


def pack_dictionary(*entries: str) -> bytes:
    """A dictd dictionary of entries, the first of them under two words."""
    texts, index = b"about this file\n", [f"00databaseinfo\tA\t{base64(16)}"]
    for number, entry in enumerate(entries):
        place = f"{base64(len(texts))}\t{base64(len(entry.encode()))}"
        index += [f"word{number}\t{place}"] * (2 if number == 0 else 1)
        texts += entry.encode()
    return pack_deb({"x.index": "\n".join(index).encode(), "x.dict.dz": gzip.compress(texts)})


def test_every_entry_of_a_package_is_read_once() -> None:
    entries = ("Haus /haʊs/\nhouse\n", "Straße\nstreet\n" + " see: {Weg}\n" * 40, "ja\nyes\n")
    packed = pack_dictionary(*entries)
    assert list(dictionaries.dictd_texts(dictionaries.unpack_deb(packed))) == list(entries)
    for broken in (b"no package", b"!<arch>\n"):
        with pytest.raises(ValueError, match="Debian package"):
            dictionaries.unpack_deb(broken)


@pytest.mark.parametrize(
    ("text", "word", "translations"),
    [
        ("diğer bir /dijˈɛr/\nother, another, else\n", "diğer bir", ["other", "another"]),
        ("körül /k/\n1. aneurism\n2. aneurysm\n", "körül", ["aneurism"]),
        ("Haus <neut, n> [arch.]\nhouse <n>; building {pl}\n", "Haus", ["house", "building"]),
        ("complete //kəm// <v>\nmenyelesaikan, merampungkan 2.\nto finish\n", "complete",
         ["menyelesaikan", "merampungkan"]),
        ("chuma <n> (pl: {vyuma})\n\niron, metal\n", "chuma", ["iron", "metal"]),
        ("current\n1. cereyan. current of events olay\n", "current", ["cereyan"]),
        ("empty /e/\n\n", "empty", []),
        ("word\n see: {other}\nnever\n", "word", []),
    ],
)  # fmt: skip
def test_an_entry_of_freedict(text: str, word: str, translations: list[str]) -> None:
    assert dictionaries.read_freedict(text) == (word, translations)


@pytest.mark.parametrize(
    ("text", "word", "translations"),
    [
        ("steamboat\n   [↗sti:mbɜʊt] _n. пароход\n", "steamboat", ["пароход"]),
        ("suffix\n   [x] _грам.\n   1. _n. суффикс\n   2. _v. прибавлять (суффикс)\n", "suffix",
         ["суффикс", "прибавлять"]),
        ("mail-coach\n   [x] = mail-cart 1\n", "mail-coach", []),
    ],
)  # fmt: skip
def test_an_entry_of_mueller(text: str, word: str, translations: list[str]) -> None:
    assert dictionaries.read_mueller(text) == (word, translations)


CEDICT = [
    {
        "simplified": "汉语",
        "traditional": "漢語",
        "english": ["Chinese language", "CL:門|门[men2]"],
    },
    {"simplified": "看", "traditional": "看", "english": ["to see; to look at", "to consider"]},
    {"simplified": "王", "traditional": "王", "english": ["surname Wang"]},
]


def test_entries_of_cedict() -> None:
    found = list(dictionaries.read_cedict(json.dumps(CEDICT).encode(), "traditional"))
    assert found == [("漢語", ["Chinese language"]), ("看", ["to see", "to consider"]), ("王", [])]


def test_what_makes_a_pair() -> None:
    kept = [("evi", "house"), ("gitmek", "to go"), ("şey", "the thing")]
    left = [
        ("Radio", "radio"), ("kelime", "çare"), ("x" * 41, "long"), ("uzun", "b c d e f g"),
        ("123", "number"), ("boş", ""),
    ]  # fmt: skip
    found = list(fetching.clean(kept + left))
    assert found == [("evi", "house"), ("gitmek", "go"), ("şey", "thing")]


def test_the_most_frequent_english_comes_first() -> None:
    texts = ["the House and the river"] * 5 + ["a house"] * 2 + ["rare river"]
    known = fetching.count_english(texts)
    assert (known["house"], known["river"], known["the"], known["rare"]) == (7, 6, 5, 1)
    pairs = [("nehir", "river"), ("ev", "house"), ("nehir evi", "River house"), ("az", "rare")]
    chosen = [("ev", "house"), ("nehir", "river"), ("nehir evi", "River house")]
    assert fetching.choose(pairs, known, 9) == chosen
    assert fetching.choose(pairs, known, 1) == chosen[:1]


def test_every_dictionary_goes_into_the_file_of_its_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turkish = [d for d in fetching.DICTIONARIES if d.language == "tr"]
    assert [each.from_english for each in turkish] == [True, False]
    rest = [
        each
        for each in fetching.DICTIONARIES
        if each.url in (fetching.MUELLER, fetching.CEDICT) or each.language == "la"
    ]
    content = {
        turkish[0].url: pack_dictionary("house\nev, hane\n"),
        turkish[1].url: pack_dictionary("ev /e/\nhouse\n", "su\nwater\n"),
        fetching.MUELLER: pack_dictionary("water\n  [x] _n. вода\n"),
        fetching.CEDICT: pack_tar({"cedict.json": json.dumps(CEDICT).encode()}, "w:gz"),
    } | {each.url: pack_dictionary("aqua\nunknown\n") for each in rest if each.language == "la"}
    monkeypatch.setattr(fetching, "DICTIONARIES", [*turkish, *rest])
    monkeypatch.setattr(fetching, "download", content.__getitem__)
    line = {"text": "see the house, the water and the Chinese language", "lang": "en"}
    lines = [line | {"text": f"{line['text']} {number}"} for number in range(5)]
    data = write(tmp_path / "data" / "a.jsonl", lines)
    out = tmp_path / "out"
    fetching.main([str(data.parent), "--out", str(out)])
    found = {
        path.name.split(".")[1]: gzip.decompress(path.read_bytes()).decode()
        for path in out.iterdir()
    }
    assert found == {
        "tr-en": "ev\thouse\nhane\thouse\nsu\twater\n", "ru-en": "вода\twater\n",
        "zh-en": "汉语\tChinese language\n看\tsee\n",
        "zh-Hant-en": "漢語\tChinese language\n看\tsee\n",
    }  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert report["tr"] == {"found": 3, "written": 3}
    assert report["la"]["written"] == 0


def test_a_place_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.deb: expected a file.* Go online"):
        fetching.download((tmp_path / "nothing.deb").as_uri())
