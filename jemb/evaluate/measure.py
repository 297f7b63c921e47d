"""What a task gives back: scores that remember what they were computed from, and the intervals of such scores.

Before: the tasks. After: `comparison.py` puts the scores of several models side by side.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from jemb.core.errors import Failure
from jemb.evaluate.vectors import Encode

BLOCK = 2_000_000
"""Drawn items in memory at once."""

Interval = tuple[float, float]
"""(low, high) in percent."""


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of N values, each in percent."""

    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    @property
    def value(self) -> float:
        return float(self.values.mean())

    def again(self, drawn_RN: np.ndarray) -> np.ndarray:
        """float64 [R]: the number once more for R rows of N items, drawn with replacement and given by index."""
        return self.values[drawn_RN].mean(axis=1)


@dataclass(frozen=True, slots=True)
class Correlation:
    """100 x the correlation of two [N]. ranks: Spearman's, ties sharing their mean rank, else Pearson's."""

    left: np.ndarray
    right: np.ndarray
    ranks: bool

    def __len__(self) -> int:
        return len(self.left)

    @property
    def value(self) -> float:
        correlate = stats.spearmanr if self.ranks else stats.pearsonr
        return 100 * float(correlate(self.left, self.right).statistic)

    def again(self, drawn_RN: np.ndarray) -> np.ndarray:
        """As that of `Mean`; NaN where a row of items has no correlation, as one whose scores are all alike."""
        both_2RN = np.stack([self.left, self.right])[:, drawn_RN]
        both_2RN = stats.rankdata(both_2RN, axis=2) if self.ranks else both_2RN
        left, right = both_2RN - both_2RN.mean(axis=2, keepdims=True)
        spread = np.sqrt((left**2).sum(1) * (right**2).sum(1))
        return np.asarray(100 * (left * right).sum(1) / np.where(spread > 0, spread, np.nan))


Part = Mean | Correlation
"""One number in percent of N items, queries or pairs."""


@dataclass(frozen=True, slots=True)
class Score:
    """A metric in percent. parts: those whose mean it is (a task of several languages has several); none: not known,
    and then there is no interval."""

    value: float
    parts: tuple[Part, ...] = field(default=(), repr=False)
    drawn: dict[Bootstrap, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    """Each drawn once: a first model's are compared with every other's."""

    @classmethod
    def of(cls, *parts: Part) -> Score:
        """The mean of the parts."""
        return cls(float(np.mean([part.value for part in parts])), parts)


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Percentile intervals (Efron 1979; of differences of two models on the same items Koehn 2004).

    `samples` times as many items as there are, drawn with replacement; the middle `level` of what the metric then is.
    samples 0: no intervals.
    """

    samples: int = 1000
    level: float = 0.95
    seed: int = 0

    def interval(self, score: Score) -> Interval | None:
        """None where the score does not know its items, or has fewer than two."""
        return self._middle(self._draws(score))

    def difference(self, score: Score, baseline: Score) -> tuple[float, Interval | None]:
        """(score - baseline, its interval). Paired: both scores see the same draws of the same items."""
        draws, others = self._draws(score), self._draws(baseline)
        paired = [len(part) for part in score.parts] == [len(part) for part in baseline.parts]
        drawn = draws - others if draws is not None and others is not None and paired else None
        return score.value - baseline.value, self._middle(drawn)

    def _draws(self, score: Score) -> np.ndarray | None:
        if not self.samples or not score.parts or min(map(len, score.parts)) < 2:
            return None
        if self not in score.drawn:
            random = np.random.default_rng(self.seed)
            score.drawn[self] = np.mean([self._part(part, random) for part in score.parts], axis=0)
        return score.drawn[self]

    def _part(self, part: Part, random: np.random.Generator) -> np.ndarray:
        block = max(1, BLOCK // len(part))
        rows = [min(block, self.samples - start) for start in range(0, self.samples, block)]
        return np.concatenate([part.again(random.integers(len(part), size=(size, len(part)))) for size in rows])

    def _middle(self, draws: np.ndarray | None) -> Interval | None:
        if draws is None or not np.isfinite(draws).any():
            return None
        tail = 50 * (1 - self.level)
        low, high = np.nanpercentile(draws, [tail, 100 - tail])
        return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Measured:
    """All that one model got on one task. record: mteb's own `TaskResult` as JSON values, for an mteb task."""

    scores: Mapping[str, Score]
    record: Mapping[str, Any] | None = None


class Task(ABC):
    """A task whose data has been read. It is measured any number of times and not changed by it."""

    __slots__ = ()
    name: str
    """The task as the user wrote it: its key in the results."""
    main: str
    """The metric that stands for the task where there is room for one."""
    ranks: bool = False
    """Whether it asks for an order of texts, so that BM25 can do it."""
    quantizes: bool = True
    """Whether it compares quantised vectors where the encode function asks for them."""

    @abstractmethod
    def measure(self, encode: Encode) -> Measured:
        """Every metric, from vectors of the task's texts."""

    def measure_bm25(self) -> Measured:
        """The same for BM25 in place of an encoder. Only where the task `ranks`."""
        raise NotImplementedError

    def score(self, encode: Encode) -> dict[str, float]:
        """{metric: percent}, all finite. `Failure` where one is not."""
        return values(self.name, self.measure(encode))


def values(task: str, measured: Measured) -> dict[str, float]:
    """{metric: percent}; `Failure` where one is not finite."""
    for metric, score in measured.scores.items():
        if not math.isfinite(score.value):
            raise Failure(f"{task}: {metric} is {score.value}; wanted a finite number")
    return {metric: score.value for metric, score in measured.scores.items()}
