"""fp16: the loss is scaled, a step too large for it is left out, and a run goes on with the scale it had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jemb.core.files import read_json
from jemb.run_folder import POSITION, RunFolder
from tests.helpers.training_runs import Training, losses, read_lines, slowly
from tests.train.test_resume import assert_undisturbed

Start = Callable[..., Training]
EXPONENT = 22


def scaled_too_much() -> None:
    make = torch.amp.GradScaler
    torch.amp.GradScaler = lambda device, init_scale: make(device, init_scale=2.0**EXPONENT)  # type: ignore[misc,assignment]


def scaled_too_much_and_slowly() -> None:
    scaled_too_much()
    slowly()


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_scale_and_the_steps_it_left_out(
    tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder
) -> None:
    options = [*pair_options, "precision=fp16", "checkpoint_every=4"]
    whole = start(tmp_path / "whole", options, prelude=scaled_too_much).succeed()
    training = start(tmp_path / "run", options, prelude=scaled_too_much_and_slowly)
    training.wait_for_step(6)
    training.kill()
    again = start(tmp_path / "run", options).succeed()
    assert_undisturbed(again, whole)
    position = read_json(again.checkpoints()[-1][1] / POSITION)
    left_out = [line["step"] for line in read_lines(whole.metrics) if line["grad_norm"] is None]
    assert left_out[0] == 1
    assert 2 <= position["skipped"] == len(left_out) < 10
    assert position["scaler"]["scale"] == 2.0 ** (EXPONENT - len(left_out))
    # In fp32 it goes on as well, with as many of AdamW's steps as were done.
    other = start(tmp_path / "run", [*options, "precision=fp32", "max_steps=22"]).succeed()
    position = read_json(other.checkpoints()[-1][1] / POSITION)
    assert (position["skipped"], "scaler" in position) == (len(left_out), False)


@pytest.mark.slow
def test_near_fp32(tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder) -> None:
    """On one process and on two, of which each has gradients twice as large before they are averaged; and what two
    have left is taken up by one with a factor twice as high."""
    options = [*pair_options, "precision=fp16"]
    for processes in (1, 2):
        run = start(tmp_path / f"{processes}", options, processes).succeed()
        assert all(line["grad_norm"] for line in read_lines(run.metrics)), "none is left out"
        assert losses(run) != losses(pair_run)
        assert losses(run) == pytest.approx(losses(pair_run), rel=1e-3)
        assert read_json(run.checkpoints()[-1][1] / POSITION)["scaler"]["scale"] == 2.0**16 / processes
    again = start(tmp_path / "2", [*options, "max_steps=21"]).succeed()
    assert read_json(again.checkpoints()[-1][1] / POSITION)["scaler"]["scale"] == 2.0**16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["precision=fp16", "strategy=fsdp"], "precision=fp16 with strategy=fsdp: use strategy=ddp"),
        pytest.param(
            ["device=mps"],
            "device=mps: no MPS device here; use device=cpu",
            marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is one"),
        ),
    ],
)
def test_what_cannot_be_done_is_said(
    tmp_path: Path, start: Start, pair_options: list[str], options: list[str], message: str
) -> None:
    training = start(tmp_path / "run", [*pair_options, *options])
    assert training.wait() == [2]
    assert message in training.output
