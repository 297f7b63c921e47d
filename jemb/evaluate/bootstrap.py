"""Percentile bootstrap intervals of scores, and of differences of two models on the same items (Efron 1979; for paired
systems Koehn 2004).

Before: `measure.py`. After: `comparison.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jemb.evaluate.measure import Part, Score

BLOCK = 2_000_000
"""Drawn items in memory at once."""

Interval = tuple[float, float]
"""(low, high) in percent."""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are made: `samples` times as many items as there are, drawn with replacement; the middle `level` of
    what the metric then is. samples 0: no intervals."""

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
        random = np.random.default_rng(self.seed)
        return np.mean([self._part(part, random) for part in score.parts], axis=0)

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
