"""A disk that runs full in the middle of a change: nothing is lost, and the rest is done later."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from index_fakes import FakeEncoder
from killing import fail_at_call
from small_indexes import build, contents, corpus, names

from m3search.errors import ArtifactError
from m3search.index import Index
from m3search.stores import tiers

CHANGES = {
    "add": lambda index: index.add(corpus(6, first=7, words="new"), FakeEncoder()),
    "delete": lambda index: index.delete(["d1", "d8"]),
    "compact": lambda index: index.compact(),
}


@pytest.mark.parametrize(
    ("kind", "number"),
    [("add", errno.ENOSPC), ("delete", errno.EIO), ("compact", errno.EDQUOT)],
)
def test_a_disk_that_is_full_at_any_call(memory_folder, monkeypatch, kind, number):
    """Of an add with a merge, a delete and a compaction: each call that writes fails once."""
    safe, path = memory_folder / "safe", memory_folder / "index"
    build(safe, corpus(10), segment_documents=4).delete(["d2"])  # tombstones of an older commit
    monkeypatch.setattr(tiers, "MOST_SEGMENTS", 2)
    before = contents(Index.open(safe))
    after = contents(changed(shutil.copytree(safe, memory_folder / "after"), kind))
    met = set()
    for call in range(1, 500):
        shutil.copytree(safe, path)
        with fail_at_call(call, number) as failed:
            try:
                changed(path, kind)
            except ArtifactError as error:
                met.add(str(error.found).split("; ")[1])
        index = Index.open(path)
        assert index.verify() == []
        assert contents(index) in (before, after), f"call {call}"
        held = {each.name for each in index.manifest.segments}
        assert set(names(path / "segments")) == held, f"call {call}"  # nothing fills the disk
        assert contents(changed(path, kind)) == after
        index = changed(path, "compact")
        assert names(path / "segments") == [each.name for each in index.manifest.segments]
        assert (contents(index), index.verify()) == (after, [])
        shutil.rmtree(path)
        if not failed:
            break
    assert call > {"add": 60, "delete": 8, "compact": 30}[kind]
    assert "9 documents are committed and safe" in met
    assert not failed


def changed(path: Path, kind: str) -> Index:
    index = Index.open(path)
    CHANGES[kind](index)
    return index


SCRIPT = """
    import shutil
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from index_fakes import FakeEncoder
    from small_indexes import contents
    from m3search.errors import ArtifactError
    from m3search.index import Index
    from m3search.records import Document
    from m3search.stores import tiers

    disk = Path({disk!r})
    ballast, path = disk / "ballast", disk / "index"

    def corpus(first, count):
        return [Document(f"d{{i}}", f"{{i}} " + "x" * 4000) for i in range(first, first + count)]

    def leave(megabytes):
        "So much room, as far as there is any."
        ballast.unlink(missing_ok=True)
        free = shutil.disk_usage(disk).free
        ballast.write_bytes(bytes(max(0, free - int(megabytes * 1e6))))

    def told(change):
        try:
            change()
        except ArtifactError as error:
            print(error)

    def state(*more):
        index = Index.open(path)
        print(len(index), len(index.manifest.segments), index.verify(), *more)

    index = Index.build(path, corpus(0, 1200), FakeEncoder(), segment_documents=600)
    tiers.MOST_SEGMENTS = 3
    leave(1)
    told(lambda: index.add(corpus(1200, 600)))  # not the segment itself
    state()
    leave(3.2)
    told(lambda: index.add(corpus(1200, 500), segment_documents=250))  # but not its merge
    state()
    told(index.compact)
    state(sorted(each.name for each in (path / "segments").iterdir()))
    leave(0)
    told(lambda: index.delete(["d7"]))
    state()
    told(lambda: Index.build(disk / "other", corpus(0, 100), FakeEncoder()))
    leave(20)
    index = Index.open(path)
    index.add(corpus(1700, 1), FakeEncoder())
    state()
    index.delete(["d7"])
    index.compact()
    state()
    print(contents(index) == {{each.id: each for each in corpus(0, 1701) if each.id != "d7"}})
"""


def run_on_small_disk(disk: Path, script: str, size: str) -> list[str]:
    """What a script prints that has a disk of that size at `disk`; skips where it may not."""
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size={size} tmpfs '{disk}'"
    if (
        not shutil.which("unshare")
        or subprocess.run([*own, mount], capture_output=True, check=False).returncode
    ):
        pytest.skip("a file system of its own cannot be mounted here")
    command = [*own, f"{mount} && exec '{sys.executable}' -c \"$1\"", "sh", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_full_disk(tmp_path):
    """A file system of 24 MB, an index of 6 to 9 MB in several segments."""
    script = SCRIPT.format(tests=str(Path(__file__).parent), disk=str(tmp_path))
    lines = run_on_small_disk(tmp_path, script, "24m")
    errors = [line for line in lines if line.startswith(str(tmp_path))]
    committed = [1200, 1700, 1700, 0]
    assert len(errors) == len(committed)
    for error, count in zip(errors, committed, strict=True):
        assert f"{count} documents are committed and safe. Make room" in error
        assert "full" in error or "No space left on device" in error
    assert [line for line in lines if line not in errors] == [
        "1200 2 []",  # nothing of the add
        "1700 4 []",  # all of it, not merged
        "1700 4 [] ['00000001', '00000002', '00000003', '00000004']",  # no half of a segment
        "1700 4 []",
        "1701 1 []",  # merged, as there is room
        "1700 1 []",
        "True",
    ]
