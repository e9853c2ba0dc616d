"""Which piece of a WordPiece vocabulary says the same as a piece of m3-mini's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from text_splitting import SPACE

from m3search.corpus.scripts import is_spaceless

CONTINUING = "##"
"""what WordPiece puts before a piece that does not begin a word"""


def old_names(piece: str) -> tuple[str, ...]:
    """What WordPiece calls a piece, the likelier name first.

    >>> old_names("▁word"), old_names("ing"), old_names("中")
    (('word',), ('##ing',), ('中', '##中'))
    """
    if piece.startswith(SPACE) and len(piece) > 1:
        return (piece[1:],)
    if piece and is_spaceless(ord(piece[0])):
        return piece, f"{CONTINUING}{piece}"
    return (f"{CONTINUING}{piece}",)


def equal_pieces(
    pieces: Sequence[str], old: Mapping[str, int], special: Collection[str]
) -> dict[int, int]:
    """The old id of each new id whose piece is in the old vocabulary; `special` by their names."""
    found: dict[int, int] = {}
    for number, piece in enumerate(pieces):
        names = (piece,) if piece in special else old_names(piece)
        name = next((name for name in names if name in old), None)
        if name is not None:
            found[number] = old[name]
    return found
