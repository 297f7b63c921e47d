"""What a prepare stage is: a function from rows to the rows it keeps and the rows it drops, each with a reason.

Before: `sources.py` reads the rows. After: `run.py` runs the stages in order and counts. A stage knows no files, and
its result does not depend on the order of its rows: ties are settled by key, and both lists come back in key order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from jemb.records import Sample
from jemb.shards import StageCount

T = TypeVar("T")
R = TypeVar("R")

by_key = attrgetter("key")


class Mapper(Protocol):
    """`map`, perhaps over several processes: results in the order of `items`. `function` must be picklable."""

    def __call__(self, function: Callable[[T], R], items: Sequence[T], /) -> Iterable[R]: ...


@dataclass(frozen=True, slots=True)
class Drop:
    """A row that is left out. reason: what is counted; note: what a reader of the dropped rows wants to know beside."""

    sample: Sample
    reason: str
    note: str = ""


@dataclass(slots=True)
class Outcome:
    """What a stage did with its rows: each is in exactly one of the lists."""

    kept: list[Sample] = field(default_factory=list)
    dropped: list[Drop] = field(default_factory=list)

    def reasons(self) -> dict[str, int]:
        """Dropped rows by reason, the most frequent first (equal counts by name)."""
        counts = Counter(drop.reason for drop in self.dropped)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True, slots=True)
class Stage:
    """A filter with its settings bound. settings: those that decide what it keeps, for the manifest."""

    name: str
    run: Callable[[Sequence[Sample]], Outcome]
    settings: Mapping[str, Any]

    def count(self, outcome: Outcome) -> StageCount:
        """The manifest's entry for this stage."""
        return StageCount(self.name, len(outcome.kept), outcome.reasons(), self.settings)


def in_process(function: Callable[[T], R], items: Sequence[T], /) -> Iterable[R]:
    """The plain `Mapper`."""
    return map(function, items)


def chunked(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """`items` in pieces of `size`, the last one shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]
