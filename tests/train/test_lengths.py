"""How long a run is: in steps, or in passes over the samples."""

from __future__ import annotations

from typing import Any

import pytest

from jemb.config import TrainConfig
from jemb.core.errors import InputError
from jemb.data import BatchPlan, PlanSource
from jemb.train.build import count_steps


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, 10), ({"max_epochs": 1}, 10), ({"max_epochs": 3}, 30), ({"max_epochs": 0.25}, 3), ({"max_steps": 7}, 7)],
)
def test_steps_of_a_run(options: dict[str, Any], steps: int) -> None:
    plan = BatchPlan([PlanSource("a", 60, "f"), PlanSource("b", 40, "f")], seed=0, global_batch_size=10)
    assert count_steps(TrainConfig(shards="s", output="o", **options), plan) == steps


def test_one_length_alone() -> None:
    with pytest.raises(InputError, match="got max_steps=3 and max_epochs=2: set one of them to null"):
        TrainConfig(shards="s", output="o", max_steps=3, max_epochs=2)
