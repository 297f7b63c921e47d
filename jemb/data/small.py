"""Data sets smaller than the global batch: batches of their own size, joined, or left out.

Before: the sources that `plan.py` is given. After: those it plans over, each with the size of its batches. Pure, as the
plan: the number of processes takes no part in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from jemb.core.errors import InputError

SmallDatasets = Literal["own_size", "join", "leave_out", "refuse"]
SMALLEST = 32
"""Rows that a data set must have to give batches of its own: every query has that many candidates but itself."""


@dataclass(frozen=True, slots=True)
class PlanSource:
    """A data set as the plan sees it. weight: quality factor s_i > 0; shard_sizes: samples of each shard, which only a
    plan with `shuffle_shards` needs; kind: small ones are joined with others of their kind alone.

    members: of joined data sets those that it consists of, whose rows follow each other; else empty.
    """

    name: str
    num_samples: int
    fingerprint: str
    weight: float = 1.0
    shard_sizes: tuple[int, ...] = ()
    kind: str = "pairs"
    members: tuple[PlanSource, ...] = ()


def settle_small(sources: Sequence[PlanSource], batch: int, how: SmallDatasets) -> tuple[list[PlanSource], list[str]]:
    """(sources to plan over, by name; in words, what was done with those that have fewer than `batch` rows).

    Raises InputError where they are to be refused, or nothing is left.
    """
    small = [source for source in sources if source.num_samples < batch]
    if small and how == "refuse":
        raise InputError(
            f"global_batch_size={batch} is larger than data set {_sizes(small)}: a batch holds one data set and no "
            f"sample twice. Use global_batch_size<={min(s.num_samples for s in small)}, small_datasets=own_size "
            "(batches of its own size), join or leave_out"
        )
    words = []
    found = [source for source in sources if source.num_samples >= batch]
    if how == "join":
        kinds = sorted({source.kind for source in small})
        joined = [_joined(kind, [source for source in small if source.kind == kind]) for kind in kinds]
        words += [f"{one.name} holds data set {_sizes(one.members)}" for one in joined if one.members]
        small = joined
    if how != "leave_out":
        found += [source for source in small if source.num_samples >= SMALLEST]
        small = [source for source in small if source.num_samples < SMALLEST]
    if small:
        least = f"the {SMALLEST} rows of a batch" if how != "leave_out" else f"global_batch_size={batch}"
        words.append(f"left out, having fewer than {least}: data set {_sizes(small)}")
    if not found:
        raise InputError(f"no data set is large enough to train on: {words[-1] if words else 'there is none'}")
    names = [source.name for source in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"small_datasets=join: there is a data set called {twice[0]} already; rename it")
    return sorted(found, key=lambda source: source.name), words


def own_batch(num_samples: int, batch: int) -> int:
    """The size of a data set's batches: the global one, or of a smaller set its own, rounded down so that numbers of
    processes that divide the global batch divide it too, as far as that costs little.

    It is a multiple of a divisor of the global batch that is at most 32 or an eighth of the data set, whichever is
    more: the largest power of two, times the largest odd factor. So 300 rows under 16,384 give batches of 288.
    """
    if num_samples >= batch:
        return batch
    limit = min(num_samples, max(SMALLEST, num_samples // 8))
    step = 1
    while batch % (2 * step) == 0 and 2 * step <= limit:
        step *= 2
    step *= max(odd for odd in range(1, limit // step + 1, 2) if batch % (step * odd) == 0)
    return num_samples // step * step


def _joined(kind: str, members: Sequence[PlanSource]) -> PlanSource:
    """One that has the rows of all; a single one stays as it is. Its weight is the mean over the rows."""
    if len(members) == 1:
        return members[0]
    members = sorted(members, key=lambda source: source.name)
    size = sum(source.num_samples for source in members)
    content = json.dumps([[source.name, source.num_samples, source.fingerprint] for source in members])
    return PlanSource(
        name=f"joined-{kind}",
        num_samples=size,
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        weight=float(sum(Fraction(str(source.weight)) * source.num_samples for source in members) / size),
        shard_sizes=tuple(number for source in members for number in source.shard_sizes),
        kind=kind,
        members=tuple(replace(source, members=()) for source in members),
    )


def _sizes(sources: Sequence[PlanSource]) -> str:
    return ", ".join(f"{source.name} ({source.num_samples})" for source in sources)
