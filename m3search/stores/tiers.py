"""Few segments, however many were written: runs of small neighbours are merged into one.

Each open segment costs about six file descriptors, and each query looks into every segment. Where
there are more than `MOST_SEGMENTS`, the `MERGED_AT_ONCE` neighbours that have the fewest bytes
together become one, and again until there are few. Only neighbours are merged, so the order of rows
stays. There are no levels of size: of segments that come one by one and alike, a document is
rewritten about once for 300 of them, 2.4 times for 1,000, and from there in proportion to their
number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from m3search.stores.manifest import SEGMENTS, Manifest, SegmentEntry
from m3search.stores.sealing import read_deletes
from m3search.stores.segment import Segment, merge_segments

MOST_SEGMENTS = 64
MERGED_AT_ONCE = 16


def choose_run(segments: Sequence[SegmentEntry]) -> slice | None:
    """The neighbours to merge, those of the fewest bytes; None where there are few segments."""
    if len(segments) <= MOST_SEGMENTS:
        return None
    ends = np.cumsum([0] + [sum(file.size for file in segment.files) for segment in segments])
    start = int(np.argmin(ends[MERGED_AT_ONCE:] - ends[:-MERGED_AT_ONCE]))
    return slice(start, start + MERGED_AT_ONCE)


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
