"""The cross-encoder's rule on hand-worked scores."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pytest

from jemb.core.errors import Failure
from jemb.prepare.engine.table import Rows, Verdict
from jemb.prepare.stages import cross_encoder as module
from jemb.prepare.stages.cross_encoder import CrossEncoderConfig, cross_encoder, load_scorer
from tests.helpers.prepare_tools import inputs

LOADED: list[str] = []


@dataclass(frozen=True)
class Fake:
    """A factory whose score of a pair is the number at the end of the passage."""

    asked: list[int] = field(default_factory=list, compare=False)

    def __call__(self, model: str) -> Fake.Score:
        LOADED.append(model)
        return Fake.Score(self)

    @dataclass(frozen=True)
    class Score:
        fake: Fake

        def __call__(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
            self.fake.asked.append(len(pairs))
            assert all(query.startswith("q") for query, _ in pairs)
            return np.array([float(text.split()[-1]) for _, text in pairs], np.float32)


def table(*rows: tuple[str, ...]) -> Rows:
    """Rows of (positive, negatives…)."""
    ids = np.arange(len(rows))
    queries, further = [f"q{row}" for row in ids], [()] * len(rows)
    return Rows(ids, queries, [row[0] for row in rows], [tuple(row[1:]) for row in rows], more_positives=further)


def run(rows: Rows, **options: object) -> Verdict:
    return cross_encoder(rows, CrossEncoderConfig(**options), inputs(make=Fake()))  # type: ignore[arg-type]


def test_hand_worked_logits() -> None:
    verdict = run(
        table(
            ("p 3.0", "n 2.75", "n 2.9", "n 3.5"),  # 0.25 stays, 0.1 and -0.5 do not
            ("p 1.0", "n 0.9"),  # none stays
            ("p 1.0",),  # a pair
            ("p 1.0", "n -2", "n 0"),
            ("p 1.0", "n 1.0", "n 0.875"),  # the larger margin is 0.125
        )
    )
    assert verdict.negatives == [("n 2.75",), (), (), ("n -2", "n 0"), ()]
    assert verdict.dropped == {1: ("cross_encoder", "margin 0.100"), 4: ("cross_encoder", "margin 0.125")}
    assert verdict.statistics["negatives"] == {"kept": 3, "removed": 5}
    assert verdict.statistics["pairs"] == 1
    histogram = verdict.statistics["margin"]
    # Bins of half a logit from -20 on: [-0.5, 0) is the 40th, [0, 0.5) the 41st, [1, 1.5) the 43rd, [3, 3.5) the 47th.
    assert {bin: count for bin, count in enumerate(histogram["counts"]) if count} == {39: 1, 40: 5, 42: 1, 46: 1}
    assert (histogram["from"], histogram["to"], len(histogram["counts"])) == (-20.0, 20.0, 80)


def test_kappa_itself_does_not_pass() -> None:
    rows = table(("p 1.0", "n 0.75"), ("p 1.0", "n 0.5"))
    assert run(rows, kappa=0.25).negatives == [(), ("n 0.5",)]
    assert run(rows, kappa=0.2).negatives is None  # nothing is taken out
    assert run(rows, kappa=-1.0).dropped == {}


def test_least_score_of_a_positive() -> None:
    rows = replace(
        table(("p 1",), ("p 0.5", "n 0"), ("p 0.25", "n 0"), ("p -3",), ("p 2", "n 1.9")),
        more_positives=[("r 0.75", "r 0.25"), (), ("r 9",), (), ("r 0.5",)],
    )
    verdict = run(rows, min_score=0.5)
    assert verdict.dropped == {
        2: ("low_score", "score 0.250"),
        3: ("low_score", "score -3.000"),
        4: ("cross_encoder", "margin 0.100"),
    }
    assert verdict.more_positives == [("r 0.75",), (), ("r 9",), (), ("r 0.5",)]
    assert verdict.statistics["further_positives"] == {"kept": 3, "removed": 1}
    # Bins of half a logit from -20 on: -3 is in the 35th, 0.25 in the 41st, 0.5 in the 42nd, 1 in the 43rd, 2 in the
    # 45th.
    counts = verdict.statistics["positive"]["counts"]
    assert {bin: count for bin, count in enumerate(counts) if count} == {34: 1, 40: 1, 41: 1, 42: 1, 44: 1}
    assert verdict.scores is None
    assert run(rows, min_score=-5, kappa=None).dropped == {}


def test_scores_are_written_of_what_is_left() -> None:
    rows = replace(table(("p 3.0", "n 2.9", "n 1"), ("p 1",), ("p 1", "n 2")), more_positives=[("r 2",), ("r -1",), ()])
    verdict = run(rows, write_scores=True)
    assert verdict.negatives == [("n 1",), (), ()]
    assert verdict.scores == [(3, 2, 1), (1, -1), (1,)]
    assert list(verdict.dropped) == [2]
    verdict = run(rows, write_scores=True, kappa=None)
    assert (verdict.negatives, verdict.dropped) == (None, {})
    assert verdict.scores == [(3, 2, np.float32(2.9), 1), (1, -1), (1, 2)]
    assert run(rows, write_scores=True, min_score=0.0).scores == [(3, 2, 1), (1,), (1,)]
    with pytest.raises(ValueError, match=r"kappa=null leaves nothing to do; wanted .*write_scores=true"):
        CrossEncoderConfig(kappa=None)


def test_pairs_pass_and_load_no_model() -> None:
    LOADED.clear()
    load_scorer.cache_clear()
    verdict = run(table(("p 1",), ("p 2",)))
    assert (verdict.dropped, verdict.negatives, LOADED) == ({}, None, [])
    assert verdict.statistics["pairs"] == 2


def test_long_pieces_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    rows = table(
        *((f"p {draw.random():.3f}", *(f"n {draw.random():.3f}" for _ in range(draw.randint(0, 4)))) for _ in range(99))
    )
    whole = run(rows)
    monkeypatch.setattr(module, "ROWS", 10)
    load_scorer.cache_clear()  # or the scorer that is loaded would be asked
    fake = Fake()
    parts = cross_encoder(rows, CrossEncoderConfig(), inputs(make=fake))
    assert parts.dropped == whole.dropped
    assert parts.negatives == whole.negatives
    assert parts.statistics == whole.statistics
    assert len(fake.asked) == 10
    kept = [
        tuple(n for n in negatives if np.float32(p.split()[-1]) - np.float32(n.split()[-1]) > 0.2)
        for p, negatives in zip(rows.positive, rows.negatives, strict=True)
    ]
    assert whole.negatives == kept
    assert whole.dropped.keys() == {
        row for row, (old, new) in enumerate(zip(rows.negatives, kept, strict=True)) if old and not new
    }


def test_a_process_loads_the_model_once() -> None:
    LOADED.clear()
    load_scorer.cache_clear()
    rows = table(("p 1", "n 0"))
    for _ in range(3):
        # As a worker gets it: a fresh copy with every task.
        cross_encoder(rows, CrossEncoderConfig(), inputs(make=pickle.loads(pickle.dumps(Fake()))))
    assert LOADED == ["cross-encoder/ms-marco-MiniLM-L-6-v2"]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros(3, np.float32), r"gave \(3,\) for 2 pairs"),
        (np.zeros((2, 1), np.float32), r"gave \(2, 1\) for 2 pairs"),
        (np.array([1, np.nan], np.float32), "no finite number for 'q0' with 'n 0'"),
    ],
)
def test_bad_scores_stop_the_work(scores: npt.NDArray[np.float32], message: str) -> None:
    load_scorer.cache_clear()
    with pytest.raises(Failure, match=message):
        cross_encoder(table(("p 1", "n 0")), CrossEncoderConfig(), inputs(make=lambda model: lambda pairs: scores))
