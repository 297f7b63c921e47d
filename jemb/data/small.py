"""Data sets smaller than the global batch: batches of their own size, or left out.

Before: the sources that `plan.py` is given. After: those it plans over, each with the size of its batches. Pure, as the
plan: the number of processes takes no part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jemb.core.errors import InputError

SmallDatasets = Literal["own_size", "leave_out"]
SMALLEST = 32
"""Rows that a data set must have to give batches of its own: every query has that many candidates but itself."""


@dataclass(frozen=True, slots=True)
class PlanSource:
    """A data set as the plan sees it. weight: quality factor s_i > 0; shard_sizes: samples of each shard, which only a
    plan with `shuffle_shards` needs."""

    name: str
    num_samples: int
    fingerprint: str
    weight: float = 1.0
    shard_sizes: tuple[int, ...] = ()


def settle_small(sources: Sequence[PlanSource], batch: int, how: SmallDatasets) -> tuple[list[PlanSource], str]:
    """(sources to plan over, by name; in words, which were left out, if any).

    Raises InputError where nothing is left.
    """
    least = min(SMALLEST, batch) if how == "own_size" else batch
    found = sorted((source for source in sources if source.num_samples >= least), key=lambda source: source.name)
    small = ", ".join(f"{one.name} ({one.num_samples})" for one in sources if one.num_samples < least)
    words = f"global_batch_size={batch}" if least == batch else f"the {SMALLEST} rows of a batch"
    note = f"left out, having fewer than {words}: data set {small}" if small else ""
    if not found:
        raise InputError(f"no data set is large enough to train on: {note or 'there is none'}")
    return found, note


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
