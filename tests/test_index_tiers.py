"""Many segments: how they are merged as they come, and how many files may be open."""

import resource
import subprocess
import sys
import textwrap

import pytest
from index_fakes import FakeEncoder

from m3search.cli.changing import compact_index
from m3search.index import Index
from m3search.records import MODES, Document
from m3search.stores import tiers
from m3search.stores.files import OTHER_FILES, SEGMENT_FILES
from m3search.stores.manifest import DeletesEntry, FileEntry, SegmentEntry, StoreEntry
from m3search.stores.tiers import MOST_SEGMENTS, choose_run, fewest_runs


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    """Hundreds of segments would wait for a disk."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def corpus(count, first=0):
    return [Document(f"d{i}", f"text {i}", "", {"n": i}) for i in range(first, first + count)]


def build(path, documents, **options) -> Index:
    options.setdefault("segment_documents", 1)
    return Index.build(path, documents, FakeEncoder(), **options)


def assert_same(index, expected):
    """All modes answer as an index of one segment does, by id and by the bits of the scores."""
    assert len(index) == len(expected)
    assert index.verify() == []
    queries = FakeEncoder().encode(["a b", "text 17", ""])
    for mode in MODES:
        hits, wanted = (one.retrieve(mode, queries, 20) for one in (index, expected))
        assert hits.scores.tobytes() == wanted.scores.tobytes()
        for line, other in zip(hits.rows, wanted.rows, strict=True):
            assert index.ids(line[line >= 0]) == expected.ids(other[other >= 0])


def segment(size, dead=0, rows=10):
    file = FileEntry("dense.faiss", size, "")
    deletes = DeletesEntry(FileEntry("deletes", 0, ""), dead) if dead else None
    return SegmentEntry("", rows, 0, {"dense": StoreEntry("flat", (file,))}, deletes)


def test_the_newest_are_chosen_up_to_one_that_is_much_larger():
    assert choose_run([segment(10)] * 8, 8) is None
    assert choose_run([segment(10)] * 9, 8) == slice(0, 9)
    sizes = [900, 100, 50, 41, 10, 10]
    assert choose_run([segment(size) for size in sizes], 5) == slice(4, 6)
    sizes = [900, 100, 50, 40, 10, 10]
    assert choose_run([segment(size) for size in sizes], 5) == slice(1, 6)
    few_left = [segment(900, dead=9), *(segment(size) for size in sizes[1:])]
    assert choose_run(few_left, 5) == slice(0, 6)


def test_none_grows_beyond_the_most_rows(monkeypatch):
    monkeypatch.setattr(tiers, "MOST_ROWS", 100)

    def sizes(*rows):
        return [segment(each, rows=each) for each in rows]

    assert choose_run(sizes(51, 60, 51), 2) is None
    assert choose_run(sizes(10, 10, 10, 51, 10, 10), 2) is None
    assert choose_run(sizes(10, 10, 10, 51, 10, 10, 10), 2) == slice(4, 7)
    assert choose_run(sizes(50, 40, 30, 20, 10), 4) == slice(1, 5)
    assert choose_run(sizes(50, 50, 50), 2) == slice(1, 3)
    segments: list[SegmentEntry] = []
    for _ in range(1000):
        segments.append(segment(1, rows=1))
        while run := choose_run(segments, 4):
            rows = sum(each.rows for each in segments[run])
            segments[run] = [segment(rows, rows=rows)]
            assert rows <= 100
    assert sum(each.rows for each in segments) == 1000
    assert len(segments) <= 4 + 2 * 1000 / 100


def test_what_is_mostly_deleted_is_chosen_where_there_are_few(monkeypatch):
    monkeypatch.setattr(tiers, "LEAST_DELETED", 6)
    few = [segment(10), segment(10, dead=5), segment(10, dead=6), segment(10, dead=9)]
    few_dead, half_dead = segment(10, rows=6, dead=5), segment(10, rows=12, dead=6)
    assert choose_run([few_dead, half_dead], 8) is None
    assert choose_run(few, 8) == slice(2, 3)
    assert choose_run(few, 3) == slice(0, 4)


def test_neighbours_are_compacted_up_to_the_most_rows(monkeypatch):
    monkeypatch.setattr(tiers, "MOST_ROWS", 100)

    def runs(*rows):
        found = fewest_runs([segment(1, rows=each, dead=dead) for each, dead in rows])
        return [(run.start, run.stop) for run in found]

    assert runs() == []
    assert runs((150, 0)) == [(0, 1)]
    assert runs((40, 0), (60, 0), (1, 0)) == [(0, 2), (2, 3)]
    assert runs((150, 50), (10, 0), (150, 80), (20, 0)) == [(0, 1), (1, 4)]


def test_a_delete_writes_anew_what_is_mostly_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(tiers, "LEAST_DELETED", 6)
    index = build(tmp_path / "many", corpus(20), segment_documents=10)
    assert [each.rows for each in index.manifest.segments] == [10, 10]
    index.delete([f"d{i}" for i in range(5)])
    assert [each.rows for each in index.manifest.segments] == [10, 10]
    index.delete(["d5"])
    assert [each.rows for each in index.manifest.segments] == [4, 10]
    assert index.manifest == Index.open(tmp_path / "many").manifest
    assert_same(index, build(tmp_path / "one", corpus(14, first=6), segment_documents=14))


def test_compacting_makes_segments_of_the_most_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tiers, "MOST_ROWS", 8)
    index = build(tmp_path / "many", corpus(20), segment_documents=3)
    index.delete(["d1", "d19"])
    index.compact()
    assert [each.rows for each in index.manifest.segments] == [8, 6, 4]
    assert sum(each.deletes is not None for each in index.manifest.segments) == 0
    held = index.manifest
    index.compact()
    assert index.manifest == held  # there was nothing to gain
    compact_index(tmp_path / "many")
    assert capsys.readouterr().out.startswith("18 documents in 3 segments, ")
    wanted = [each for each in corpus(20) if each.id not in ("d1", "d19")]
    assert_same(index, build(tmp_path / "one", wanted, segment_documents=18))


def test_how_often_a_document_is_rewritten():
    """Of 2,000 segments that come one by one, as the module says."""
    segments, rewritten = [], 0
    for _ in range(2000):
        segments.append(segment(1000))
        while run := choose_run(segments, MOST_SEGMENTS):
            size = sum(file.size for each in segments[run] for file in each.files)
            segments[run] = [segment(size)]
            rewritten += size
        assert len(segments) <= MOST_SEGMENTS
    assert rewritten / (2000 * 1000) < 5.5


def test_a_build_of_300_segments_keeps_few(tmp_path):
    index = build(tmp_path / "many", corpus(300))
    assert 0 < len(index.manifest.segments) <= MOST_SEGMENTS
    assert index.report.segments == len(index.manifest.segments)
    assert index.rows_of([f"d{i}" for i in range(300)]).tolist() == list(range(300))
    assert_same(index, build(tmp_path / "one", corpus(300), segment_documents=1000))
    folders = {folder.name for folder in (tmp_path / "many" / "segments").iterdir()}
    assert folders == {segment.name for segment in index.manifest.segments}


def test_adds_and_deletes_keep_few_segments(tmp_path, monkeypatch):
    monkeypatch.setattr(tiers, "MOST_SEGMENTS", 6)
    monkeypatch.setattr(tiers, "MOST_WHILE_BUILDING", 6)
    many, one = build(tmp_path / "many", corpus(9)), build(tmp_path / "one", corpus(9))
    for step in range(12):
        many.add(corpus(4, first=3 * step), segment_documents=2)
        many.delete([f"d{5 * step}"])
        assert len(many.manifest.segments) <= 6
        one.add(corpus(4, first=3 * step))
        one.delete([f"d{5 * step}"])
        one.compact()
        assert_same(many, one)
    assert many.manifest == Index.open(tmp_path / "many").manifest


def test_a_build_that_goes_on_over_merged_segments(tmp_path, monkeypatch):
    """Documents and rankings are those of one that was never stopped."""
    monkeypatch.setattr(tiers, "MOST_SEGMENTS", 6)
    monkeypatch.setattr(tiers, "MOST_WHILE_BUILDING", 6)

    def broken(count):
        yield from corpus(count)
        raise ValueError("stop")

    for count in (15, 40):
        with pytest.raises(ValueError, match="stop"):
            build(tmp_path / "many", broken(count))
        assert len(Index.open(tmp_path / "many")) == count
    wanted = [*corpus(20), *corpus(40, first=30)]
    index = build(tmp_path / "many", wanted)
    assert (index.report.unchanged, index.report.deleted) == (30, 10)
    assert len(index.manifest.segments) <= 6
    assert_same(index, build(tmp_path / "one", wanted, segment_documents=100))
    assert_same(index, build(tmp_path / "at once", wanted))


def test_no_room_to_merge_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tiers, "MOST_SEGMENTS", 6)
    monkeypatch.setattr(tiers, "MOST_WHILE_BUILDING", 6)
    merge = tiers.merge_segments

    def fail(folder, *rest):
        merge(folder, *rest)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tiers, "merge_segments", fail)
    index = build(tmp_path, corpus(12))
    assert (len(index), len(index.manifest.segments), index.verify()) == (12, 12, [])
    assert len(list((tmp_path / "segments").iterdir())) == 12
    monkeypatch.setattr(tiers, "merge_segments", merge)
    index.add(corpus(1, first=50))
    assert len(index.manifest.segments) <= 6
    assert (len(index), index.verify()) == (13, [])


def test_what_was_truncated_is_kept_by_merges(tmp_path, monkeypatch):
    monkeypatch.setattr(tiers, "MOST_SEGMENTS", 6)
    monkeypatch.setattr(tiers, "MOST_WHILE_BUILDING", 6)
    documents = [Document(f"d{i}", "x " * (150 if i % 3 else 1)) for i in range(30)]
    index = build(tmp_path, documents)
    assert (index.report.truncated, index.info()["truncated"]) == (20, 20)


def run_limited(script, soft):
    """What a process prints that may open `soft` files at first, and as many as here at most."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    head = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()


def test_an_index_of_120_segments_opens_where_the_system_lets_it(tmp_path, monkeypatch):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OTHER_FILES + 120 * SEGMENT_FILES:
        pytest.skip(f"at most {hard} open files")
    monkeypatch.setattr(tiers, "MOST_SEGMENTS", 1000)
    monkeypatch.setattr(tiers, "MOST_WHILE_BUILDING", 1000)
    build(tmp_path, corpus(120))
    script = f"""
        from m3search.index import Index
        index = Index.open({str(tmp_path)!r})
        print(len(index.manifest.segments), len(index.verify()))
        index.compact()
        print(len(index.manifest.segments), len(index))
    """
    assert run_limited(script, 100) == ["120", "0", "1", "120"]
