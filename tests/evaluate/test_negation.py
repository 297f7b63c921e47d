"""EasyNegation and HardNegation on vectors worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from jemb.core.errors import InputError
from jemb.evaluate import score
from tests.helpers.made_tasks import at_angle

# Angles in degrees of anchor, entailment, negative; a smaller difference is a higher cosine.
ROWS = [
    (0, 10, 40),  # a-e 10 < a-n 40: easy; a-e 10 < e-n 30: hard
    (0, 20, 30),  # a-e 20 < a-n 30: easy; e-n 10: not hard
    (0, 30, -10),  # a-n 10: not easy; e-n 40: hard
    (0, 50, 20),  # a-n 20: not easy; e-n 30: not hard
    (0, 10, 10),  # e and n the same text: a-e = a-n is not easy; e-n 0: not hard
    (0, 25, 0),  # a and n the same text: a-e = e-n is not hard; a-n 0: not easy
    (0, 20, 35),  # a-e 20 < a-n 35: easy; e-n 15: not hard
    (7, 7, 60),  # a and e the same text: both
]


def write(path: Path, names: tuple[str, str, str]) -> str:
    path.write_text("\n".join(json.dumps(dict(zip(names, map(str, row), strict=True))) for row in ROWS))
    return f"negation:{path}"


def test_by_hand(tmp_path: Path) -> None:
    metrics = score(at_angle, write(tmp_path / "a.jsonl", ("anchor", "entailment", "negative")))
    assert metrics == {"easy_negation": 100 * 4 / 8, "hard_negation": 100 * 3 / 8}


def test_equal_cosines_never_win(tmp_path: Path) -> None:
    task = write(tmp_path / "a.jsonl", ("anchor", "entailment", "negative"))
    assert score(lambda texts: np.ones((len(texts), 3)) / 3, task) == {"easy_negation": 0, "hard_negation": 0}
    assert score(lambda texts: np.zeros((len(texts), 3)), task) == {"easy_negation": 0, "hard_negation": 0}


def test_equal_texts_tie_to_the_last_bit(tmp_path: Path) -> None:
    """In high dimensions rounding would decide ties, were the same products not summed in the same order."""
    rng = np.random.default_rng(1)
    lines = [{"anchor": f"{i}", "entailment": f"e{i}", "negative": f"e{i}" if i % 2 else f"{i}"} for i in range(500)]
    path = tmp_path / "ties.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    metrics = score(lambda texts: rng.normal(size=(len(texts), 384)), f"negation:{path}")
    # Odd rows: s(a,e) = s(a,n) exactly. Even rows: n = a, so s(a,e) < s(a,n) = 1 and s(a,e) = s(e,n) exactly.
    # Hard is won by none: on odd rows s(e,n) = 1.
    assert metrics == {"easy_negation": 0, "hard_negation": 0}


def test_names_of_triplet_files(tmp_path: Path) -> None:
    usual = score(at_angle, write(tmp_path / "a.jsonl", ("anchor", "entailment", "negative")))
    assert score(at_angle, write(tmp_path / "b.jsonl", ("query", "positive", "negative"))) == usual
    with pytest.raises(InputError, match="line 1: no field 'entailment'"):
        score(at_angle, write(tmp_path / "c.jsonl", ("anchor", "positive", "negative")))
    with pytest.raises(InputError, match="line 1: no field 'anchor'"):
        score(at_angle, write(tmp_path / "d.jsonl", ("premise", "positive", "negative")))
