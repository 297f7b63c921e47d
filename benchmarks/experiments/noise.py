"""Raw data of known dirt: real pairs, copies, near copies, other languages, and pairs that do not belong together."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from benchmarks.experiments.material import Row

SHARES = {"real": 0.18, "exact copy": 0.16, "near copy": 0.12, "other language": 0.24, "mismatched": 0.30}
"""Of the raw rows. After filters that make no mistake 18 % are left: under a fifth."""


def make_raw(
    rows: Sequence[Row], foreign: Sequence[Row], unrelated: Sequence[Row], *, size: int, draw: random.Random
) -> list[Row]:
    """About `size` rows in random order, or as many as the material gives, each with its `kind`.

    rows: real pairs. foreign: pairs in other languages; where there are none, that kind is left out. unrelated: pairs
    that people found not to belong together; without them positives of further real pairs change places.
    """
    shares = SHARES if foreign else {kind: share for kind, share in SHARES.items() if kind != "other language"}
    spent = shares["real"] + (0 if unrelated else shares["mismatched"])
    size = min(size, int(len(rows) / spent))
    for kind, there in (("other language", foreign), ("mismatched", unrelated)):
        if there and kind in shares:
            size = min(size, int(len(there) / shares[kind]))
    count = {kind: round(size * share) for kind, share in shares.items()}
    real, rest = rows[: count["real"]], rows[count["real"] :]
    made: Mapping[str, Sequence[Row]] = {
        "real": real,
        "exact copy": draw.choices(real, k=count["exact copy"]),
        "near copy": [near_copy(row, draw) for row in draw.choices(real, k=count["near copy"])],
        "other language": foreign[: count.get("other language", 0)],
        "mismatched": unrelated[: count["mismatched"]] if unrelated else mismatch(rest[: count["mismatched"]]),
    }
    out = [
        {"query": row["query"], "positive": row["positive"], "kind": kind}
        for kind, several in made.items()
        for row in several
    ]
    draw.shuffle(out)
    return out


def mismatch(rows: Sequence[Row]) -> list[Row]:
    """Each query with the positive of the row before it: fluent, of the same data set, and wrong."""
    return [{"query": row["query"], "positive": rows[i - 1]["positive"]} for i, row in enumerate(rows)]


def near_copy(row: Row, draw: random.Random) -> Row:
    """Both sides with a light edit, as pages copied from each other differ."""
    return {side: draw.choice(EDITS)(row[side], draw) for side in ("query", "positive")}


def _punctuate(text: str, draw: random.Random) -> str:
    return draw.choice(("{}!", "“{}”", "{} …", "- {}")).format(text.rstrip(".?! "))


def _capitals(text: str, draw: random.Random) -> str:
    return text.upper() if draw.random() < 0.3 else text.title()


def _typo(text: str, draw: random.Random) -> str:
    """Two letters in a row change places."""
    at = draw.randrange(max(1, len(text) - 1))
    return text[:at] + text[at : at + 2][::-1] + text[at + 2 :]


def _less(text: str, draw: random.Random) -> str:
    """A word is missing."""
    words = text.split()
    if len(words) > 3:
        words.pop(draw.randrange(len(words)))
    return " ".join(words)


EDITS = (_punctuate, _capitals, _typo, _less)
