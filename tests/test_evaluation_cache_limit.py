"""Which entries of the cache go, in which order, and what else is at work in it."""

from __future__ import annotations

import gzip
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_fakes import TEXTS, WORDS, WordEncoder, evaluate, make_set

from m3search.errors import ArtifactError
from m3search.evaluation import EvaluationSet, evaluate_sets
from m3search.evaluation.cache import Cache, default_cache
from m3search.stores.commit import WriteLock


def make_entry(cache: Cache, key: str, size: int) -> Path:
    with cache.entry(key * 64, "set") as folder:
        (folder / "content").write_bytes(bytes(size))
        lock = folder / "write.lock"
    os.utime(lock, ns=(0, lock.stat().st_mtime_ns - 10**9))  # so that times differ on any disk
    return folder


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=2500)
    one, two = make_entry(cache, "1", 1000), make_entry(cache, "2", 1000)
    assert one.exists() and two.exists()
    make_entry(cache, "1", 1000)  # used again
    three = make_entry(cache, "3", 1000)
    assert (one.exists(), two.exists(), three.exists()) == (True, False, True)
    four = make_entry(cache, "4", 9000)  # more than all may take, but it is in use
    assert four.exists() and one.exists()  # to remove the others would make no room for it
    five = make_entry(cache, "5", 10)
    assert not four.exists()
    assert make_entry(Cache(tmp_path), "6", 9000).exists() and five.exists()  # no limit


def test_encodings_go_before_what_was_found_with_them(tmp_path: Path) -> None:
    """So an evaluation of many sets that was killed does not begin anew."""
    told: list[str] = []
    first, second = (EvaluationSet(make_set(tmp_path / name), depth=2) for name in ("a", "b"))
    (second.path / "corpus.jsonl.gz").write_bytes(
        gzip.compress(gzip.decompress((first.path / "corpus.jsonl.gz").read_bytes()) + b"\n")
    )
    before, _ = evaluate(first, Cache(tmp_path / "cache"))
    size = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*"))
    limit = size * 5 // 4  # room for one, and for what was found in both
    cache = Cache(tmp_path / "cache", limit, told.append)
    [folder] = [each for each in cache.folder.glob("a.*") if (each / "index").exists()]
    evaluate(second, cache)
    assert not (folder / "index").exists() and not (folder / "queries").exists()
    assert any((folder / "searches").iterdir())
    assert told == [
        f"the encodings of {folder.name} went from the cache, which holds {limit / 1e9:g} GB"
    ]
    after, encoded = evaluate(first, cache)
    assert not encoded and after.details["search_reused"] and after.report == before.report
    again, encoded = evaluate(replace(first, depth=150), cache)  # needs the index
    assert {*TEXTS.values()} <= {*encoded} and again.report == before.report


def test_what_was_found_goes_where_encodings_are_not_enough(tmp_path: Path) -> None:
    told: list[str] = []
    cache = Cache(tmp_path, limit=150_000, report=told.append)
    one = make_entry(cache, "1", 20_000)
    (one / "index").mkdir()
    (one / "index" / "vectors").write_bytes(bytes(90_000))
    make_entry(cache, "2", 100_000)
    assert (one / "content").exists() and not (one / "index").exists()
    make_entry(cache, "2", 140_000)
    assert not one.exists()
    assert [line.split(" set")[0] for line in told] == ["the encodings of", "what was found with"]


def test_what_another_process_is_at_work_on_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=1500)
    one = make_entry(cache, "1", 1000)
    lock = WriteLock(one)
    two = make_entry(cache, "2", 1000)
    assert one.exists()
    lock.release()
    make_entry(cache, "2", 1000)
    assert not one.exists() and two.exists()


def test_a_removal_that_was_killed_is_finished(tmp_path: Path) -> None:
    (tmp_path / ".removed-12").mkdir()
    (tmp_path / ".removed-12" / "content").write_bytes(bytes(10))
    make_entry(Cache(tmp_path, limit=1000), "1", 10)
    assert not (tmp_path / ".removed-12").exists()


def test_an_entry_that_was_removed_while_it_was_waited_for_is_made_anew(tmp_path: Path) -> None:
    told: list[str] = []

    def remove(message: str) -> None:
        told.append(message)
        shutil.rmtree(one)
        lock.release()

    one = make_entry(Cache(tmp_path), "1", 10)
    lock = WriteLock(one)
    with Cache(tmp_path, report=remove).entry("1" * 64, "set") as folder:
        assert [path.name for path in folder.iterdir()] == ["write.lock"]
        assert len(told) == 1
        with pytest.raises(ArtifactError, match="one writer at a time"):
            WriteLock(folder)


def test_an_index_that_is_removed_while_it_is_searched_is_searched_to_the_end(
    tmp_path: Path,
) -> None:
    wanted, cache = EvaluationSet(make_set(tmp_path / "s"), depth=2), Cache(tmp_path / "cache")
    expected, _ = evaluate(wanted, None)
    gone: list[bool] = []

    def remove(stage: str, *_: int) -> None:
        if "scoring" in stage and not gone:
            shutil.rmtree(cache.folder)
            gone.append(True)

    encoder = WordEncoder(WORDS)
    [found] = evaluate_sets([wanted], lambda _: encoder, cache=cache, progress=remove).sets
    assert gone and found.report == expected.report


def test_the_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = default_cache()
    assert found is not None and found.limit == 10_000_000_000
    assert found.folder == tmp_path / "m3search" / "evaluation"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    told: list[str] = []
    assert default_cache(told.append) is None
    assert told == [f"nothing is kept for the next evaluation: {tmp_path}/file/m3search/evaluation "
                    "cannot be written to"]  # fmt: skip
    monkeypatch.setattr("m3search.evaluation.cache.user_cache", lambda: None)
    assert default_cache() is None


def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            pytest.raises(ArtifactError, match=r"file.*: expected a folder to keep encodings in"),
            Cache(place).entry("0" * 64, "set"),
        ):
            pass
