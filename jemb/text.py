"""How two texts are compared, wherever it matters whether they are the same one."""

from __future__ import annotations

import hashlib


def normalise(text: str) -> str:
    """`text` as it is compared: white space folded to single spaces, none at the ends, case folded."""
    return " ".join(text.split()).casefold()


def content_hash(text: str) -> int:
    """Signed 64-bit hash of the normalised text; equal on every machine."""
    digest = hashlib.blake2b(normalise(text).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
