"""What a task gives back: scores that remember what they were computed from, so that they can be drawn again.

Before: the tasks. After: `bootstrap.py` makes intervals of scores, `run.py` keeps their values.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from scipy import stats

from jemb.core.errors import Failure
from jemb.evaluate.vectors import Encode


class Part(Protocol):
    """One number in percent of N items, queries or pairs."""

    def __len__(self) -> int: ...

    @property
    def value(self) -> float: ...

    def again(self, drawn_RN: np.ndarray) -> np.ndarray:
        """float64 [R]: the number once more for R rows of N items, drawn with replacement and given by index.

        NaN where a row of items has no such number, as one whose scores are all alike.
        """
        ...


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
        times_RN = _times(drawn_RN, len(self))
        left = _ranks(self.left, times_RN) if self.ranks else self.left[None]
        right = _ranks(self.right, times_RN) if self.ranks else self.right[None]
        left = left - _mean(left, times_RN)
        right = right - _mean(right, times_RN)
        spread = np.sqrt((times_RN * left**2).sum(1) * (times_RN * right**2).sum(1))
        with np.errstate(invalid="ignore"):
            return 100 * (times_RN * left * right).sum(1) / np.where(spread > 0, spread, np.nan)


@dataclass(frozen=True, slots=True)
class Score:
    """A metric in percent. parts: those whose mean it is (a task of several languages has several); none: not known,
    and then there is no interval."""

    value: float
    parts: tuple[Part, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, *parts: Part) -> Score:
        """The mean of the parts."""
        return cls(float(np.mean([part.value for part in parts])), parts)


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

    @abstractmethod
    def measure(self, encode: Encode) -> Measured:
        """Every metric, from vectors of the task's texts."""

    def score(self, encode: Encode) -> dict[str, float]:
        """{metric: percent}, all finite. `Failure` where one is not."""
        return values(self.name, self.measure(encode))


def values(task: str, measured: Measured) -> dict[str, float]:
    """{metric: percent}; `Failure` where one is not finite."""
    for metric, score in measured.scores.items():
        if not math.isfinite(score.value):
            raise Failure(f"{task}: {metric} is {score.value}; wanted a finite number")
    return {metric: score.value for metric, score in measured.scores.items()}


def _times(drawn_RN: np.ndarray, num_items: int) -> np.ndarray:
    """float64 [R, N]: how often each item was drawn in each row."""
    rows = len(drawn_RN)
    flat = drawn_RN + num_items * np.arange(rows)[:, None]
    return np.bincount(flat.ravel(), minlength=rows * num_items).reshape(rows, num_items).astype(np.float64)


def _ranks(values_N: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """[R, N]: the mean rank that each value has among the drawn ones. Nothing is sorted but the values, once."""
    order = np.argsort(values_N, kind="stable")
    ordered = values_N[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    size_RG = np.add.reduceat(times_RN[:, order], starts, axis=1)
    rank_RG = np.cumsum(size_RG, axis=1) - (size_RG - 1) / 2
    group = np.empty(len(values_N), np.int64)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(values_N))))
    return rank_RG[:, group]


def _mean(values_RN: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    return (times_RN * values_RN).sum(1, keepdims=True) / times_RN.sum(1, keepdims=True)
