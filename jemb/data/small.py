"""Data sets smaller than the global batch: batches of their own size, joined, or left out.

Before: the sources that `plan.py` is given. After: those it plans over, each with the size of its batches. Pure, as the
plan: the number of processes takes no part in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeVar

from jemb.core.errors import InputError

SmallDatasets = Literal["own_size", "join", "leave_out", "refuse"]
T = TypeVar("T")
SMALLEST = 32
"""Rows that a data set must have to give batches of its own: every query has that many candidates but itself."""


@dataclass(frozen=True, slots=True)
class PlanSource:
    """A data set as the plan sees it. weight: quality factor s_i > 0; shard_sizes: samples of each shard, which only a
    plan with `shuffle_shards` needs; kind: small ones are joined with others of their kind alone. members: of joined
    data sets those that it consists of, whose rows follow each other; else empty."""

    name: str
    num_samples: int
    fingerprint: str
    weight: float = 1.0
    shard_sizes: tuple[int, ...] = ()
    kind: str = "pairs"
    members: tuple[PlanSource, ...] = ()


def settle_small(sources: Sequence[PlanSource], batch: int, how: SmallDatasets) -> tuple[list[PlanSource], str]:
    """(sources to plan over, by name; in words, which were joined and which left out, if any).

    Raises InputError where small ones are to be refused, or nothing is left.
    """
    notes, small = [], [source for source in sources if source.num_samples < batch]
    if small and how == "refuse":
        raise InputError(
            f"global_batch_size={batch} is larger than data set {_sizes(small)}: a batch holds one data set and no "
            f"sample twice. Use global_batch_size<={min(one.num_samples for one in small)}, small_datasets=own_size "
            "(batches of its own size), join or leave_out"
        )
    if how == "join":
        joined = [_joined(kind, small) for kind in sorted({source.kind for source in small})]
        notes = [f"{one.name} holds data set {_sizes(one.members)}" for one in joined if one.members]
        sources = [*(source for source in sources if source.num_samples >= batch), *joined]
        names = [source.name for source in sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"small_datasets=join: there is a data set called {twice[0]} already; rename it")
    least = batch if how == "leave_out" else min(SMALLEST, batch)
    found = sorted((source for source in sources if source.num_samples >= least), key=lambda source: source.name)
    if small := [source for source in sources if source.num_samples < least]:
        words = f"global_batch_size={batch}" if least == batch else f"the {SMALLEST} rows of a batch"
        notes.append(f"left out, having fewer than {words}: data set {_sizes(small)}")
    if not found:
        raise InputError(f"no data set is large enough to train on: {notes[-1] if notes else 'there is none'}")
    return found, "; ".join(notes)


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


def by_source(sources: Sequence[PlanSource], found: Mapping[str, T], join: Callable[[Sequence[T]], T]) -> dict[str, T]:
    """What is found of the data sets, by source, joined where it has several; a source without any is left out."""
    parts = {
        source.name: [found[member.name] for member in source.members or (source,) if member.name in found]
        for source in sources
    }
    return {name: join(some) if some[1:] else some[0] for name, some in parts.items() if some}


def _joined(kind: str, sources: Sequence[PlanSource]) -> PlanSource:
    """One that has the rows of all of this kind; a single one stays as it is. Its weight is the mean over the rows."""
    members = sorted((source for source in sources if source.kind == kind), key=lambda source: source.name)
    if len(members) == 1:
        return members[0]
    size = sum(one.num_samples for one in members)
    content = json.dumps([[one.name, one.num_samples, one.fingerprint] for one in members])
    return PlanSource(
        name=f"joined-{kind}",
        num_samples=size,
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        weight=float(sum(Fraction(str(one.weight)) * one.num_samples for one in members) / size),
        shard_sizes=tuple(number for one in members for number in one.shard_sizes),
        kind=kind,
        members=tuple(members),
    )


def _sizes(sources: Sequence[PlanSource]) -> str:
    return ", ".join(f"{source.name} ({source.num_samples})" for source in sources)
