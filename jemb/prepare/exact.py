"""First stage: rows without content and exact duplicates, after folding white space and case (arXiv 2307.11224).

Before: `sources.py`. After: `near_duplicates.py`, which needs one row per text.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from jemb.prepare.stage import Drop, Outcome, by_key
from jemb.records import Sample


def normalise(text: str) -> str:
    """`text` as it is compared: white space folded to single spaces, none at the ends, case folded."""
    return " ".join(text.split()).casefold()


def keep_unique(rows: Sequence[Sample]) -> Outcome:
    """Of equal rows the one with the lowest key stays.

    Reasons: `empty` (a side has no text), `identical` (query = positive), `no_negative` (a triplet all of whose
    negatives are empty or equal its query or positive; single ones are taken out), `duplicate`. Triplets are equal when
    query, positive and the set of negatives are, so one pair may stay with several negatives.
    """
    outcome = Outcome()
    first: dict[bytes, str] = {}
    for row in sorted(rows, key=by_key):
        query, positive = normalise(row.query), normalise(row.positive)
        negatives = _useful(row.negatives, query, positive)
        digest = _digest(query, positive, *sorted(normalise(text) for text in negatives))
        if not query or not positive:
            outcome.dropped.append(Drop(row, "empty"))
        elif query == positive:
            outcome.dropped.append(Drop(row, "identical"))
        elif row.negatives and not negatives:
            outcome.dropped.append(Drop(row, "no_negative"))
        elif digest in first:
            outcome.dropped.append(Drop(row, "duplicate", f"of {first[digest]}"))
        else:
            first[digest] = row.key
            outcome.kept.append(dataclasses.replace(row, negatives=negatives))
    return outcome


def _useful(negatives: Sequence[str], query: str, positive: str) -> tuple[str, ...]:
    """The negatives that say something: not empty, not the query or positive, each once."""
    seen = {"", query, positive}
    useful = []
    for text in negatives:
        folded = normalise(text)
        if folded not in seen:
            seen.add(folded)
            useful.append(text)
    return tuple(useful)


def _digest(*texts: str) -> bytes:
    """128 bits: among 10^9 rows the chance that any two different ones agree is below 10^-20."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()
