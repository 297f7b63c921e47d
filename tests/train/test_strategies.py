"""One law for all strategies: on W processes the weights change as in one process with the joined batch.

Three steps of plain SGD, which shows the scale of a gradient where AdamW hides it, by the trainer as `jemb train` makes
it, on real processes. Then every known way to get it wrong is put in, and must be seen: docs/faults.md.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import jemb.distributed.gather as gather
import jemb.train.module as module_file
from jemb.app.cli import run_command
from jemb.config import LossWeights, ModelConfig
from jemb.distributed import rank, world_size
from jemb.loss import Pairs, Texts
from jemb.model import together
from jemb.train.strategies import deepspeed
from jemb.train.strategies.choice import FSDP_ON_CPU
from tests.helpers.ranks import on_ranks
from tests.helpers.strategy_ranks import Outcome, distance, run_cases

pytestmark = pytest.mark.xdist_group("strategies")  # `alone` is made in one worker

STRATEGIES = ["ddp", "deepspeed_1", "deepspeed_2", "deepspeed_3", *(["fsdp"] if FSDP_ON_CPU else [])]
OBJECTIVES: dict[str, dict[str, Any]] = {
    "pairs": {},
    "pairs, no mask": {"mask_equal_texts": False},
    "triplets": {"objective": "triplets", "num_negatives": 1},
    "triplets, 3 negatives": {"objective": "triplets", "num_negatives": 3},
}
BEYOND_THE_PAPER: dict[str, Any] = {
    "objective": "triplets",
    "num_negatives": 2,
    "extra_negatives": ["query_query", "positive_positive", "positive_negative"],
    "mask_margin": 0.05,
    "matryoshka_widths": [4, 8],
    "loss_weights": LossWeights(joint=0.5, positive_margin=2.0),
}
SUPERVISED: dict[str, dict[str, Any]] = {
    "two positives": {"objective": "triplets", "num_positives": 2},
    "scored": {"objective": "scored"},
    "labelled": {"objective": "labelled"},
    "distill": {"objective": "distill", "num_negatives": 3},
    "distill_margin": {"objective": "distill_margin", "num_negatives": 2},
    "weights of its own": {"objective": "tests.helpers.users_losses:Learned", "objective_options": {"width": 16}},
    "weights of its own, and pairs": {
        "objective": "tests.helpers.users_losses:Learned",
        "objective_options": {"width": 16},
        "objectives": {"other": "pairs"},
    },
    "teach": {"objective": "teach"},
    "teach, two positives and contrast": {
        "objective": "teach",
        "num_positives": 2,
        "objective_options": {"contrastive": 0.5},
    },
    "teach, and pairs": {"objective": "teach", "objectives": {"other": "pairs"}},
    "spread_out": {"loss_weights": LossWeights(spread_out=3.0)},
}
"""By what is said of the samples, or with several of their right answers."""
CLIP = 5.0
"""Below most gradient norms of these cases: between 3 and 50."""
TOLERANCE = 1e-4


def matrix(strategy: str) -> dict[str, dict[str, Any]]:
    """Each objective, plain and cached, with and without clipping, and cached by tokens."""
    cases = {
        objective + how + clipped: {**options, **more, "gradient_clip": clip, "strategy": strategy}
        for objective, options in OBJECTIVES.items()
        for how, more in (("", {}), (", cached", {"micro_batch_size": 3}))
        for clipped, clip in (("", None), (", clipped", CLIP))
    }
    cases["pairs, cached by tokens"] = {"micro_batch_tokens": 40, "strategy": strategy}
    cases["beyond the paper"] = {**BEYOND_THE_PAPER, "strategy": strategy}
    cases["beyond the paper, cached"] = {**BEYOND_THE_PAPER, "micro_batch_size": 3, "strategy": strategy}
    for name, options in SUPERVISED.items():
        cases[name] = {**options, "strategy": strategy}
        cases[f"{name}, cached"] = {**options, "strategy": strategy, "micro_batch_size": 3}
    packed = {"strategy": strategy, "model": ModelConfig(packing="on")}
    cases |= {f"{name}, packed": {**cases[name], **packed} for name in PACKED}
    cases["pairs, bf16"] = {"precision": "bf16", "strategy": strategy}
    # Parts of 32 texts either way, which draw the same: only what is computed again may differ.
    dropout = {"strategy": strategy, "model": ModelConfig(dropout=0.3)}
    return cases | {"dropout": dropout, "dropout, cached": {**dropout, "micro_batch_size": together.ROWS["cpu"]}}


PACKED = ("pairs, cached by tokens", "triplets, 3 negatives")
"""Also run without padding, for the same result."""
FEW = (*PACKED, "beyond the paper, cached", *(f"{name}, packed" for name in PACKED))
"""Run on one and on four processes: masks and negatives of all processes, and batches cut by rows and by tokens."""


def pairwise(strategy: str, size: int) -> dict[str, dict[str, Any]]:
    """On two processes the half of the matrix in which every two of objective, caching and clipping still meet; on
    other numbers of processes a few cases."""
    every = matrix(strategy)
    left_out = {
        objective + how + clipped
        for number, objective in enumerate(OBJECTIVES)
        for how in ("", ", cached")
        for clipped in ("", ", clipped")
        if (number + (how != "") + (clipped != "")) % 2
    }
    kept = every.keys() - left_out if size == 2 else FEW
    return {name: options for name, options in every.items() if name in kept}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Every case in one process that holds all rows."""
    return on_ranks(tmp_path_factory.mktemp("alone"), 1, run_cases, matrix("single"))[0]


def assert_near(seen: Outcome, expected: Outcome) -> None:
    """As near as bf16 lets two orders of summing come."""
    assert distance(seen, expected) < 10 * TOLERANCE
    assert seen.norms == pytest.approx(expected.norms, rel=100 * TOLERANCE)


def assert_same(seen: Outcome, expected: Outcome) -> None:
    assert distance(seen, expected) < TOLERANCE
    largest = float(expected.all_changes.abs().max())
    for name, change in expected.changes.items():
        torch.testing.assert_close(seen.changes[name], change, rtol=TOLERANCE, atol=1e-5 * largest)
    assert seen.losses == pytest.approx(expected.losses, rel=TOLERANCE)
    assert seen.norms == pytest.approx(expected.norms, rel=TOLERANCE), "the norm is the global one, before clipping"
    assert seen.hidden == expected.hidden


@pytest.mark.parametrize("size", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_change_as_in_one_process(tmp_path: Path, alone: dict[str, Outcome], strategy: str, size: int) -> None:
    found = on_ranks(tmp_path, size, run_cases, pairwise(strategy, size))
    total = sum(change.numel() for change in alone["pairs"].changes.values())
    for number, outcomes in enumerate(found):
        for case, seen in outcomes.items():
            print("rank", number, case)
            expected = outcomes["dropout"] if case == "dropout, cached" else alone[case.removesuffix(", packed")]
            if case == "pairs, bf16":
                assert_near(seen, expected)
            elif case != "dropout":  # drawn by each process for its own rows
                assert_same(seen, expected)
            shared = strategy in ("deepspeed_3", "fsdp")
            assert max(seen.held) <= (1.1 * total / size + 200 if shared else total), "between steps, only its share"
    if size == 2:
        assert distance(found[0]["dropout"], alone["dropout"]) > 0.01, "dropout acts"


FEW_NUMBERS = 100


@contextmanager
def some_kept_whole(case: str) -> Iterator[None]:
    """Biases and norms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(deepspeed.KEPT_WHOLE, "cpu", FEW_NUMBERS)
        yield


def test_stage_3_leaves_small_weights_whole_as_it_does_on_gpus(tmp_path: Path, alone: dict[str, Outcome]) -> None:
    cases = {
        name: matrix("deepspeed_3")[name] for name in ("pairs, cached by tokens", "teach, two positives and contrast")
    }
    found = on_ranks(tmp_path, 2, run_cases, cases, some_kept_whole)
    for outcomes in found:
        for case, seen in outcomes.items():
            assert_same(seen, alone[case])
    numbers = [change.numel() for change in alone["pairs"].changes.values()]
    whole = sum(number for number in numbers if number < FEW_NUMBERS)
    assert 200 < whole < sum(numbers) / 4
    assert max(found[0]["pairs, cached by tokens"].held) == pytest.approx(sum(numbers) / 2 + whole, abs=20)


def test_the_cases_are_what_they_are_named(alone: dict[str, Outcome]) -> None:
    """Masks hide something, clipping clips, negatives count: none of the parities is empty."""
    assert min(alone["pairs"].hidden) > 0
    assert max(alone["pairs, no mask"].hidden) == 0
    assert min(alone["triplets, 3 negatives"].hidden) > max(alone["triplets"].hidden) > max(alone["pairs"].hidden)
    for objective in OBJECTIVES:
        assert distance(alone[f"{objective}, clipped"], alone[objective]) > 0.1
        assert alone[f"{objective}, clipped"].norms[0] > CLIP
        assert alone[objective].changes.keys() == alone["pairs"].changes.keys()
    assert len(alone["pairs"].changes) > 15
    assert min(alone["beyond the paper"].hidden) > max(alone["triplets, 3 negatives"].hidden), "the margin hides more"
    assert distance(alone["beyond the paper"], alone["triplets"]) > 0.1
    assert distance(alone["pairs, bf16"], alone["pairs"]) > 1e-5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_are_reduced_once_however_the_batch_is_cut(tmp_path: Path, strategy: str) -> None:
    cases = {f"parts of {size}": {"strategy": strategy, "micro_batch_size": size} for size in (None, 1)}
    whole, parts = (outcome.calls for outcome in on_ranks(tmp_path, 2, run_cases, cases, None, True)[0].values())
    assert sum(count for name, count in whole.items() if "reduce" in name) > 0
    assert {name: n for name, n in parts.items() if "gather" not in name} == {
        name: n for name, n in whole.items() if "gather" not in name
    }
    name = "c10d::_allgather_base_"
    if strategy in ("deepspeed_3", "fsdp"):
        assert parts[name] > 2 * whole[name], "weights are put together for each part, and again for its backward"
    else:
        assert parts[name] == whole[name]


@contextmanager
def faulty(fault: str) -> Iterator[None]:
    """One known fault in the code of this process."""
    with pytest.MonkeyPatch.context() as patch:
        FAULTS[fault][1](patch)
        yield


def _scale(patch: Any, factor: Any) -> None:
    backward = gather._GatherRows.backward
    patch.setattr(gather._GatherRows, "backward", lambda ctx, *g: backward(ctx, *g) * factor())


def _scale_loss(patch: Any) -> None:
    step = module_file.EmbeddingModule.training_step
    patch.setattr(module_file.EmbeddingModule, "training_step", lambda *a: step(*a) * world_size())


def _detach(patch: Any) -> None:
    def gather_rows(x: Tensor) -> Tensor:
        rows = list(gather.gather_values(x).split(len(x)))
        rows[rank()] = x
        return torch.cat(rows)

    patch.setattr(module_file, "gather_rows", gather_rows)


def _do_not_sum(patch: Any) -> None:
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows].contiguous()

    patch.setattr(gather._GatherRows, "backward", backward)


def _take_the_rows_of_another(patch: Any) -> None:
    patch.setattr(gather, "rank", lambda: (rank() + 1) % world_size())


def _do_not_average(patch: Any) -> None:
    forward = DistributedDataParallel.forward

    def alone(self: DistributedDataParallel, *arguments: Any, **options: Any) -> Any:
        with self.no_sync():
            return forward(self, *arguments, **options)

    patch.setattr(DistributedDataParallel, "forward", alone)


def _change_loss(patch: Any, change: Any) -> None:
    loss = Pairs.__call__
    patch.setattr(Pairs, "__call__", lambda self, texts: loss(*change(self, texts)))


def _with_offset(value: Any) -> Any:
    return lambda patch: _change_loss(patch, lambda pairs, texts: (pairs, replace(texts, offset=value(texts.offset))))


def _with(**options: Any) -> Any:
    return lambda patch: _change_loss(patch, lambda pairs, texts: (replace(pairs, **options), texts))


def _drop_a_negative(pairs: Pairs, texts: Texts) -> Any:
    negatives = texts.negatives
    assert negatives is not None
    fewer = replace(negatives, all_ND=negatives.all_ND[:-1], hash_N=negatives.hash_N[:-1])
    return pairs, replace(texts, negatives=fewer)


def _forget_dropout_state(patch: Any) -> None:
    def checkpoint(*arguments: Any, **options: Any) -> Any:
        return torch.utils.checkpoint.checkpoint(*arguments, **options, preserve_rng_state=False)

    patch.setattr(together, "checkpoint", checkpoint)


T3 = {"strategy": "ddp", "objective": "triplets", "num_negatives": 3}
DROPOUT = {"strategy": "ddp", "model": ModelConfig(dropout=0.3), "micro_batch_size": together.ROWS["cpu"]}
FAULTS: dict[str, tuple[dict[str, Any], Any]] = {
    "gathered gradients times W": (T3, lambda patch: _scale(patch, world_size)),
    "gathered gradients divided by W": (T3, lambda patch: _scale(patch, lambda: 1 / world_size())),
    "loss times W": (T3, _scale_loss),
    "rows of other processes detached": (T3, _detach),
    "gathered gradients not summed over processes": (T3, _do_not_sum),
    "gathered gradients of another process's rows": (T3, _take_the_rows_of_another),
    "weights' gradients not averaged over processes": (T3, _do_not_average),
    "labels without offset": (T3, _with_offset(lambda offset: 0)),
    "labels shifted by one": (T3, _with_offset(lambda offset: offset - rank())),
    "no temperature": (T3, _with(temperature=1.0)),
    "one hard negative dropped": (T3, lambda patch: _change_loss(patch, _drop_a_negative)),
    "no mask": (T3, _with(mask_equal_texts=False)),
    "dropout drawn anew when computing again": (DROPOUT, _forget_dropout_state),
}


@pytest.mark.slow
def test_each_fault_is_seen(tmp_path: Path, alone: dict[str, Outcome]) -> None:
    """With any of them the tests above would fail, and by far. `pytest -s` shows the table of docs/faults.md."""
    cases = {name: options for name, (options, _) in FAULTS.items()}
    sound = {"without": T3, "dropout": {**DROPOUT, "micro_batch_size": None}}
    outcomes = on_ranks(tmp_path / "faulty", 2, run_cases, cases, faulty)[0]
    references = on_ranks(tmp_path / "sound", 2, run_cases, sound)[0]
    assert_same(references["without"], alone["triplets, 3 negatives"])
    for name, seen in outcomes.items():
        expected = references["dropout"] if cases[name] is DROPOUT else alone["triplets, 3 negatives"]
        print(f"| {name} | {distance(seen, expected):.2f} |")
        assert distance(seen, expected) > 100 * TOLERANCE, name


def runs_one_after_the_other(folder: Path, options: list[str], strategies: list[str]) -> list[int]:
    runs = [[f"output={folder / str(number)}", f"strategy={name}"] for number, name in enumerate(strategies)]
    return [run_command("train", [*options, *run]) for run in runs]


def test_runs_one_after_the_other_in_one_process(tmp_path: Path, pair_options: list[str]) -> None:
    """DeepSpeed keeps process groups of its own, which must not outlive a run."""
    options = [*pair_options, "max_steps=2"]
    strategies = ["deepspeed_2", "deepspeed_3", "ddp", "single", "deepspeed_1"]
    (codes,) = on_ranks(tmp_path / "ranks", 1, runs_one_after_the_other, tmp_path, options, strategies)
    assert codes == [0] * len(strategies)


def test_deepspeed_is_missing(
    tmp_path: Path, pair_options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else find(name))
    assert run_command("train", [f"output={tmp_path / 'run'}", *pair_options, "strategy=deepspeed_2"]) == 2
    assert "strategy=deepspeed_2 needs DeepSpeed" in (message := capsys.readouterr().err)
    assert "pip install 'jemb[deepspeed]'" in message
    assert not (tmp_path / "run").exists()
