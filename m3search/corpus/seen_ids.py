"""Which ids were seen before, and where, in few bytes."""

from __future__ import annotations

from array import array


class SeenIds:
    """The line on which each id was first seen, in 18 to 36 bytes an id however long it is.

    An id counts as its 64-bit hash. That two of n ids share one has probability n * n / 2**65:
    3e-6 for ten million.
    """

    def __init__(self) -> None:
        self._count = 0
        self._allocate(1024)

    def add(self, name: str, line: int) -> int:
        """0 if the id is new, else the line (from 1) on which it was first seen."""
        if 3 * self._count >= 2 * len(self._lines):
            self._grow()
        value = hash(name) & 0xFFFFFFFFFFFFFFFF
        slot = self._slot(value)
        if self._lines[slot]:
            return self._lines[slot]
        self._hashes[slot], self._lines[slot] = value, line
        self._count += 1
        return 0

    def _allocate(self, slots: int) -> None:
        """Open addressing: a power of two of slots, line 0 marking an empty one."""
        self._hashes = array("Q", bytes(8 * slots))
        self._lines = array("I", bytes(4 * slots))

    def _slot(self, value: int) -> int:
        mask = len(self._lines) - 1
        slot = value & mask
        while self._lines[slot] and self._hashes[slot] != value:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        hashes, lines = self._hashes, self._lines
        self._allocate(2 * len(lines))
        for value, line in zip(hashes, lines, strict=True):
            if line:
                slot = self._slot(value)
                self._hashes[slot], self._lines[slot] = value, line
