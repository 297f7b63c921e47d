"""The law of distributed training: parameter gradients on W processes are those of one process with all rows.

The training module as it stands, under DistributedDataParallel, on 2 and 4 gloo processes; dropout off. Then every
known way to get it wrong is put in, and must be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import on_ranks
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import jemb.distributed.gather as gather
import jemb.train.module as module_file
from jemb.config import ModelConfig, TrainConfig
from jemb.data import Collate
from jemb.model import make_tiny
from jemb.records import Batch, Sample
from jemb.train.module import EmbeddingModule

ROWS = 8
WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron"]
# Texts that come twice, within a process and across processes: the masks have something to hide.
SAMPLES = [
    Sample(
        key=f"{i}",
        query=("AMBER  twice" if i == 6 else "amber twice") if i in (1, 6) else f"{WORDS[i]} asked" + " long" * i,
        positive=f"{WORDS[i % 5]} found",
        negatives=(f"{WORDS[(i + 1) % 5]} found", f"{WORDS[i % 5]} Found", f"{WORDS[i]} wrong" + " more" * (i % 3)),
    )
    for i in range(ROWS)
]
CASES: dict[str, dict[str, Any]] = {
    "pairs": {"objective": "pairs"},
    "pairs, no mask": {"objective": "pairs", "mask_equal_texts": False},
    "pairs, cached": {"objective": "pairs", "micro_batch_size": 1},
    "triplets": {"objective": "triplets", "num_negatives": 1},
    "triplets, 3 negatives": {"objective": "triplets", "num_negatives": 3},
    "triplets, 3 negatives, cached": {"objective": "triplets", "num_negatives": 3, "micro_batch_size": 2},
}
FAULTS = [
    "remote rows detached",
    "multiplied by the world size",
    "divided by the world size",
    "slice of another rank",
    "not summed over ranks",
    "targets without offset",
]


def make_module(options: dict[str, Any]) -> tuple[EmbeddingModule, Collate]:
    config = TrainConfig(shards="", output="", margin=0.5, temperature=0.2, **options)
    texts = [text for sample in SAMPLES for text in (sample.query, sample.positive, *sample.negatives)]
    size = ModelConfig(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2)
    encoder = make_tiny(texts, size, seed=1, max_length=24)
    negatives = config.num_negatives if config.objective == "triplets" else 0
    collate = Collate(tokenize=encoder.tokenize, num_negatives=negatives, seed=0)
    module = EmbeddingModule(encoder, config, max_steps=1, wants_to_stop=lambda: False)
    module.trainer = TRAINER
    return module, collate


class Trainer:
    """All that a step wants of a trainer: the optimiser whose rate it sets."""

    optimizers = (SimpleNamespace(param_groups=()),)


TRAINER: Any = Trainer()  # kept here, for the module keeps a weak reference


class Step(torch.nn.Module):
    """`training_step` as a forward, as Lightning calls it through DistributedDataParallel."""

    def __init__(self, module: EmbeddingModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> Tensor:
        return self.module.training_step(batch, 0)


def gradients(options: dict[str, Any], rank: int, world_size: int) -> dict[str, Any]:
    """Loss, hidden candidates and the gradient of every parameter, of this rank's share of the rows."""
    module, collate = make_module(options)
    size = ROWS // world_size
    mine = SAMPLES[rank * size : (rank + 1) * size]
    batch = collate(0, "data", mine, [sample.key for sample in mine])
    step: torch.nn.Module = Step(module)
    if world_size > 1:
        step = DistributedDataParallel(step)
    step(batch).backward()
    assert module.facts is not None
    found = {name: p.grad for name, p in module.encoder.named_parameters() if p.grad is not None}
    return {"loss": module.facts.loss, "hidden": module.facts.hidden_candidates, "grads": found}


def inject(fault: str, patch: Any) -> None:
    backward = gather._GatherRows.backward
    if fault == "remote rows detached":
        patch.setattr(module_file, "gather_rows", _with_own_gradient_only)
    elif fault == "multiplied by the world size":
        patch.setattr(gather._GatherRows, "backward", lambda ctx, *g: backward(ctx, *g) * dist.get_world_size())
    elif fault == "divided by the world size":
        patch.setattr(gather._GatherRows, "backward", lambda ctx, *g: backward(ctx, *g) / dist.get_world_size())
    elif fault == "slice of another rank":
        patch.setattr(gather, "rank", lambda: (dist.get_rank() + 1) % dist.get_world_size())
    elif fault == "not summed over ranks":
        patch.setattr(gather._GatherRows, "backward", _own_part_of_own_gradient)
    elif fault == "targets without offset":
        patch.setattr(module_file, "rank", lambda: 0)


def _with_own_gradient_only(x: Tensor) -> Tensor:
    """What several peers do: gather without gradient, then put this rank's own rows back in."""
    rows = list(gather.gather_values(x).split(len(x)))
    rows[dist.get_rank()] = x
    return torch.cat(rows)


def _own_part_of_own_gradient(ctx: Any, grad: Tensor) -> Tensor:
    start = dist.get_rank() * ctx.rows
    return grad[start : start + ctx.rows].contiguous()


def all_cases() -> dict[str, Any]:
    """The work of one rank: every case, then two cases under every fault."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    found: dict[str, Any] = {name: gradients(options, rank, world_size) for name, options in CASES.items()}
    for fault in FAULTS:
        for case in ("pairs", "triplets, 3 negatives"):
            with pytest.MonkeyPatch.context() as patch:
                inject(fault, patch)
                try:
                    found[f"{fault}: {case}"] = gradients(CASES[case], rank, world_size)
                except ValueError as error:  # a wrong offset may hide a row's own candidate, which the loss refuses
                    found[f"{fault}: {case}"] = str(error)
    return found


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(tmp_path_factory.mktemp("gradients"), request.param, all_cases)


@pytest.fixture(scope="module")
def alone() -> Callable[[str], dict[str, Any]]:
    """The same case in one process that holds all rows."""
    known: dict[str, dict[str, Any]] = {}

    def compute(case: str) -> dict[str, Any]:
        if case not in known:
            known[case] = gradients(CASES[case], 0, 1)
        return known[case]

    return compute


def distance(grads: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference of two gradients, relative to the second's norm."""
    assert grads.keys() == expected.keys()
    one, other = (torch.cat([g.double().flatten() for g in gs.values()]) for gs in (grads, expected))
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(ranks: list[dict[str, Any]], alone: Any, case: str) -> None:
    expected = alone(case)
    assert len(expected["grads"]) > 15
    for seen in ranks:
        assert seen[case]["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert seen[case]["hidden"] == expected["hidden"]
        assert distance(seen[case]["grads"], expected["grads"]) < 1e-5
        for name, grad in expected["grads"].items():
            torch.testing.assert_close(
                seen[case]["grads"][name], grad, rtol=1e-4, atol=1e-6 * float(grad.abs().max() + 1)
            )


def test_the_masks_take_part(alone: Any) -> None:
    assert alone("pairs")["hidden"] > 0
    assert alone("triplets, 3 negatives")["hidden"] > alone("pairs")["hidden"]
    assert distance(alone("pairs")["grads"], alone("pairs, no mask")["grads"]) > 1e-2


@pytest.mark.parametrize("case", ["pairs", "triplets, 3 negatives"])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_seen(ranks: list[dict[str, Any]], alone: Any, fault: str, case: str) -> None:
    """With the fault in, `test_gradients_are_those_of_one_process` would fail, and by far."""
    seen = ranks[0][f"{fault}: {case}"]
    if isinstance(seen, str):
        assert "own candidate is hidden" in seen
    else:
        assert distance(seen["grads"], alone(case)["grads"]) > 0.02
