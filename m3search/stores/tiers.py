"""Few segments, however many were written: the newest are merged into one, again and again.

Each open segment costs six to ten file descriptors, and each query looks into every segment.
Where there are more than a number of them, the newest become one: the last two, and on towards
older ones while the next is at most twice as large as all newer together. Only neighbours are
merged, so the order of rows stays. Of segments that come one by one and alike, with at most 8 kept,
a document is rewritten 3.3 times for 300 of them, 4.4 times for 1,000 and 6.9 times for 10,000.

No segment of more than MOST_ROWS live rows comes of it, and one that has more than half of these
is left alone with all that are older: neither the memory that writing takes nor the time of the
longest merge grows with the index. A segment with 1,024 deleted rows or more, and more than half of
its rows, is written anew by itself: what is deleted takes no more room and time than what is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from m3search.stores.manifest import SEGMENTS, Manifest, SegmentEntry
from m3search.stores.sealing import read_deletes
from m3search.stores.segment import Segment, merge_segments

MOST_SEGMENTS = 8
"""of an index that nobody is writing to"""
MOST_WHILE_BUILDING = 64
"""until the end of a build or an add, so that less is rewritten on the way"""
MOST_ROWS = 1 << 20
LEAST_DELETED = 1024
"""rows of a segment that is written anew for them; fewer cost no query anything"""
RATIO = 2


def choose_run(segments: Sequence[SegmentEntry], most: int) -> slice | None:
    """The newest segments, to be merged, where more than `most` can be; else one that is mostly
    deleted, if there is any."""
    return _newest(segments, most) or _mostly_deleted(segments)


def fewest_runs(segments: Sequence[SegmentEntry]) -> list[slice]:
    """Neighbours that become one each, so that all together are the fewest without any of more than
    MOST_ROWS live rows but for one that is so large already."""
    runs: list[slice] = []
    rows = 0
    for number, segment in enumerate(segments):
        rows += segment.live_rows
        if runs and rows <= MOST_ROWS:
            runs[-1] = slice(runs[-1].start, number + 1)
        else:
            runs.append(slice(number, number + 1))
            rows = segment.live_rows
    return runs


def _mostly_deleted(segments: Sequence[SegmentEntry]) -> slice | None:
    for number, segment in enumerate(segments):
        dead = segment.rows - segment.live_rows
        if dead >= LEAST_DELETED and dead > segment.live_rows:
            return slice(number, number + 1)
    return None


def _newest(segments: Sequence[SegmentEntry], most: int) -> slice | None:
    full = [number for number, each in enumerate(segments) if 2 * each.live_rows > MOST_ROWS]
    oldest = full[-1] + 1 if full else 0
    if len(segments) - oldest <= most:
        return None
    sizes = [_live_bytes(segment) for segment in segments]
    start = len(segments)
    newer, rows = 0.0, 0
    while start > oldest:
        fits = rows + segments[start - 1].live_rows <= MOST_ROWS
        if start < len(segments) - 1 and not (fits and sizes[start - 1] <= RATIO * newer):
            break
        start -= 1
        newer += sizes[start]
        rows += segments[start].live_rows
    return slice(start, len(segments))


def _live_bytes(segment: SegmentEntry) -> float:
    """About the bytes of what is not deleted."""
    size = sum(file.size for file in segment.files)
    return size * segment.live_rows / max(segment.rows, 1)


def merge_run(path: Path, manifest: Manifest, run: slice) -> Manifest:
    """The next manifest, with the segments of a run replaced by one that holds their live rows."""
    parts = []
    for entry in manifest.segments[run]:
        folder = path / SEGMENTS / entry.name
        live = ~read_deletes(folder, entry)
        parts.append((Segment.open(folder, entry, manifest.model), live))
    folder = path / SEGMENTS / f"{manifest.next_segment:08d}"
    merged = merge_segments(folder, parts, manifest.model, manifest.layout)
    return replace(
        manifest,
        commit=manifest.commit + 1,
        segments=(*manifest.segments[: run.start], merged, *manifest.segments[run.stop :]),
        next_segment=manifest.next_segment + 1,
    )
