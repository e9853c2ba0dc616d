"""What makes two texts the same text for training."""

from __future__ import annotations

import hashlib
import unicodedata


def text_key(text: str) -> bytes:
    """16 bytes that texts share if and only if they differ in nothing but form.

    Form is what NFKC, case folding and the collapsing of white space take away.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.blake2b(plain.encode(), digest_size=16, person=b"text").digest()


def id_key(name: str) -> bytes:
    """16 bytes that stand for a document id, and for no text."""
    return hashlib.blake2b(name.encode(), digest_size=16, person=b"id").digest()
