"""Ids that were seen before, against a dictionary, and the bytes that each takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from m3search.corpus.seen_ids import SeenIds


@given(st.lists(st.text(max_size=2), max_size=60))
def test_seen_ids_are_those_of_a_dict(ids: list[str]) -> None:
    seen, slow = SeenIds(), {}
    for line, name in enumerate(ids, start=1):
        assert seen.add(name, line) == slow.get(name, 0)
        slow.setdefault(name, line)


def test_seen_ids_grow() -> None:
    seen = SeenIds()
    assert not any(seen.add(f"id{i}", i + 1) for i in range(20_000))
    assert all(seen.add(f"id{i}", 1) == i + 1 for i in range(20_000))
    bytes_an_id = (seen._hashes.itemsize + seen._lines.itemsize) * len(seen._lines) / 20_000
    assert 18 <= bytes_an_id <= 36
