"""Spearman and Pearson against numbers worked out by hand, and against scipy on plain cosines."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jemb.core.errors import Failure, InputError
from jemb.evaluate import load_task, score
from jemb.evaluate.measure import Correlation


def write(path: Path, rows: list[tuple[str, str, object]]) -> str:
    fields = [{"sentence1": a, "sentence2": b, "score": score, "genre": "news"} for a, b, score in rows]
    path.write_text("\n".join(map(json.dumps, fields)))
    return f"sts:{path}"


def at_angle(texts: Sequence[str]) -> np.ndarray:
    """A text is an angle in degrees; the rows' lengths differ and must not matter."""
    degrees = np.radians(np.array([float(text) for text in texts]))
    return np.stack([np.cos(degrees), np.sin(degrees)], axis=1) * (1 + np.arange(len(texts)))[:, None]


def test_spearman_with_ties_by_hand(tmp_path: Path) -> None:
    # Cosines fall with the angle: 80, 60, 40, 20 have ranks 1, 2, 3, 4. Scores 1, 3, 3, 2 have ranks 1, 3.5, 3.5, 2.
    # Deviations from 2.5: (-1.5, -0.5, 0.5, 1.5) and (-1.5, 1, 1, -0.5): products 2.25 - 0.5 + 0.5 - 0.75 = 1.5,
    # squares 5 and 4.5, so Spearman = 1.5 / sqrt(22.5).
    task = write(tmp_path / "a.jsonl", [("0", "80", 1), ("0", "60", 3.0), ("10", "50", "3"), ("0", "20", 2)])
    metrics = score(at_angle, task)
    assert metrics["spearman"] == pytest.approx(100 * 1.5 / math.sqrt(22.5), abs=1e-9)
    cosines = [math.cos(math.radians(angle)) for angle in (80, 60, 40, 20)]
    assert metrics["pearson"] == pytest.approx(100 * np.corrcoef(cosines, [1, 3, 3, 2])[0, 1], abs=1e-5)


def test_direction_and_scale_of_the_scores(tmp_path: Path) -> None:
    rows = [("0", str(angle), 5 - angle / 10) for angle in (5, 10, 20, 40)]
    assert score(at_angle, write(tmp_path / "a.jsonl", rows))["spearman"] == pytest.approx(100)
    rows = [(a, b, -1000 * score) for a, b, score in rows]
    assert score(at_angle, write(tmp_path / "b.jsonl", rows))["spearman"] == pytest.approx(-100)


def test_against_scipy_and_text_encoded_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [f"text {i}" for i in range(40)]
    table = dict(zip(texts, rng.normal(size=(40, 8)), strict=True))
    pairs = [(texts[rng.integers(40)], texts[rng.integers(40)], float(rng.integers(6))) for _ in range(20_000)]
    calls: list[list[str]] = []

    def encode(texts: Sequence[str]) -> np.ndarray:
        calls.append(list(texts))
        return np.stack([table[text] for text in texts])

    metrics = score(encode, write(tmp_path / "a.jsonl", pairs))
    a, b = (np.stack([table[pair[side]] for pair in pairs]) for side in (0, 1))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    scores = [pair[2] for pair in pairs]
    assert metrics["spearman"] == pytest.approx(100 * stats.spearmanr(cosines, scores).statistic, abs=1e-3)
    assert metrics["pearson"] == pytest.approx(100 * stats.pearsonr(cosines, scores).statistic, abs=1e-5)
    assert [sorted(call) for call in calls] == [sorted(texts)]


def test_equal_pairs_tie_exactly() -> None:
    assert Correlation(np.array([0.5, 0.5, 0.1]), np.array([2.0, 2.0, 1.0]), True).value == pytest.approx(100)


def test_what_has_no_correlation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"same\.jsonl: field 'score' is 3 in all 2 rows"):
        load_task(write(tmp_path / "same.jsonl", [("0", "1", 3), ("0", "2", 3.0)]))
    with pytest.raises(InputError, match="in all 1 rows"):
        load_task(write(tmp_path / "one.jsonl", [("0", "1", 3)]))
    task = write(tmp_path / "good.jsonl", [("0", "1", 3), ("0", "2", 4)])
    with pytest.raises(Failure, match="same cosine"):
        score(lambda texts: np.ones((len(texts), 2)), task)


def test_a_broken_model_is_named(tmp_path: Path) -> None:
    task = write(tmp_path / "good.jsonl", [("zero", "one", 3), ("zero", "two", 4)])

    def encode(texts: Sequence[str]) -> np.ndarray:
        return np.array([[1.0, math.nan if text == "one" else 1.0] for text in texts])

    with pytest.raises(Failure, match="NaN or infinite vectors for 1 of 3 texts, the first 'one'"):
        score(encode, task)
    with pytest.raises(ValueError, match="wanted"):
        score(lambda texts: np.ones((1, 2)), task)
