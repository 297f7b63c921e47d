"""Intervals: resampled statistics against scipy on the drawn items themselves, and against the normal approximation."""

import numpy as np
import pytest
from scipy import stats

from jemb.evaluate.measure import Bootstrap, Correlation, Mean, Part, Score

RANDOM = np.random.default_rng(0)
SCORES = RANDOM.integers(0, 4, 60).astype(float)  # many ties, as people's scores have
COSINES = np.round(SCORES / 4 + RANDOM.normal(size=60), 1)


@pytest.mark.parametrize(
    ("part", "reference"),
    [
        (Mean(COSINES), lambda rows: COSINES[rows].mean()),
        (Correlation(COSINES, SCORES, True), lambda rows: 100 * stats.spearmanr(COSINES[rows], SCORES[rows]).statistic),
        (Correlation(COSINES, SCORES, False), lambda rows: 100 * stats.pearsonr(COSINES[rows], SCORES[rows]).statistic),
    ],
    ids=["mean", "spearman", "pearson"],
)
def test_drawn_again_as_if_the_drawn_items_were_the_data(part: Part, reference: object) -> None:
    drawn = RANDOM.integers(60, size=(50, 60))
    assert callable(reference)
    assert part.again(drawn) == pytest.approx([reference(rows) for rows in drawn], abs=1e-9)
    assert part.again(np.arange(60)[None])[0] == pytest.approx(part.value, abs=1e-9)


def test_a_mean_has_the_interval_of_the_normal_approximation() -> None:
    values = RANDOM.normal(50, 10, 4000)
    interval = Bootstrap(samples=4000).interval(Score.of(Mean(values)))
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert interval == pytest.approx((values.mean() - error, values.mean() + error), abs=error / 10)
    wide = Bootstrap(samples=4000, level=0.99).interval(Score.of(Mean(values)))
    assert wide is not None
    assert wide[1] - wide[0] == pytest.approx(2 * error * 2.576 / 1.96, rel=0.1)


def test_differences_are_paired() -> None:
    """One model is always a little better on the same items: alone the intervals overlap, the difference is clear."""
    values = RANDOM.normal(50, 20, 300)
    worse, better = Score.of(Mean(values)), Score.of(Mean(values + RANDOM.normal(1, 0.5, 300)))
    bootstrap = Bootstrap()
    low, high = bootstrap.interval(worse), bootstrap.interval(better)
    assert low is not None
    assert high is not None
    assert low[1] > high[0]
    difference, interval = bootstrap.difference(better, worse)
    assert interval is not None
    assert 0.9 < interval[0] < difference < interval[1] < 1.2
    assert bootstrap.difference(worse, worse) == (0.0, (0.0, 0.0))


def test_the_seed_alone_decides() -> None:
    score = Score.of(Correlation(COSINES, SCORES, True))
    assert Bootstrap(seed=3).interval(score) == Bootstrap(seed=3).interval(score) != Bootstrap(seed=4).interval(score)


def test_a_mean_of_languages_draws_within_each() -> None:
    """Two languages of constant scores: whatever is drawn in each, the mean over both is the same."""
    score = Score.of(Mean(np.full(10, 20.0)), Mean(np.full(500, 60.0)))
    assert score.value == 40
    assert Bootstrap().interval(score) == (40, 40)


def test_no_interval_where_the_items_are_not_known() -> None:
    unknown, single = Score(50.0), Score.of(Mean(np.array([50.0])))
    assert Bootstrap().interval(unknown) is None
    assert Bootstrap().interval(single) is None
    assert Bootstrap(samples=0).interval(Score.of(Mean(COSINES))) is None
    assert Bootstrap().difference(unknown, single) == (0.0, None)
    other = Score.of(Mean(COSINES[:50]))
    assert Bootstrap().difference(Score.of(Mean(COSINES)), other)[1] is None, "not the same items"


def test_draws_without_a_correlation_do_not_count() -> None:
    """Of three pairs a draw is often one pair three times, which correlates with nothing."""
    score = Score.of(Correlation(np.array([1.0, 2, 4]), np.array([1.0, 2, 3]), True))
    assert Bootstrap().interval(score) == (pytest.approx(100), pytest.approx(100))
