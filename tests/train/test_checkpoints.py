"""A checkpoint knows neither strategy nor number of processes: any continues what any other has begun."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jemb.app.cli import run_command
from jemb.core.errors import InputError
from jemb.core.records import Batch
from jemb.model import load_encoder
from jemb.run_folder import OPTIMIZER, WEIGHTS, RunFolder, read_position
from jemb.train.module import EmbeddingModule
from jemb.train.strategies.choice import FSDP_ON_CPU
from tests.helpers.training_runs import Training, losses, read_lines, weights

Start = Callable[..., Training]

SHARDED = "fsdp" if FSDP_ON_CPU else "deepspeed_3"
CHAIN = [
    ("single", 1), ("deepspeed_3", 4), ("ddp", 2), (SHARDED, 4), ("deepspeed_1", 2), ("deepspeed_2", 4), ("single", 1),
    (SHARDED, 2), ("deepspeed_3", 2), ("deepspeed_2", 2), ("ddp", 4), ("deepspeed_1", 1), (SHARDED, 1),
]  # fmt: skip
SHORT = 7
"""Links in which each strategy has gone on from another's checkpoint of another number of processes, and another from
its own. A checkpoint holds the same whoever wrote it; the rest are other numbers of processes."""


@pytest.fixture(scope="module")
def options(pair_options: list[str]) -> list[str]:
    """As many steps as the chain has, two for each link; a weight decay that shows where it should not be."""
    steps = f"max_steps={2 * len(CHAIN)}"
    return [*pair_options, steps, "learning_rate=1e-3", "weight_decay=0.5", "keep_checkpoints=100"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, options: list[str]) -> RunFolder:
    """One process, with a checkpoint of every second step."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return Training(folder, [*options, "checkpoint_every=2"]).succeed()


def stop_after_two_steps() -> None:
    """A prelude: the process is asked to stop while it does its second step."""
    step = EmbeddingModule.training_step
    done: list[int] = []

    def counted(self: EmbeddingModule, batch: Batch, batch_idx: int) -> Any:
        done.append(batch.step)
        if len(done) == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, batch_idx)

    EmbeddingModule.training_step = counted


def assert_near(folder: Path, expected: Path, start: Path) -> None:
    """Weights and moments of two checkpoints, relative to what training has done to them since `start`."""
    first = load_encoder(str(start)).state_dict()
    for seen, wanted in (
        ({k: v - first[k] for k, v in load_file(f / WEIGHTS).items()} for f in (folder, expected)),
        ({k: v for k, v in load_file(f / OPTIMIZER).items() if k.endswith("exp_avg")} for f in (folder, expected)),
        ({k: v for k, v in load_file(f / OPTIMIZER).items() if k.endswith("exp_avg_sq")} for f in (folder, expected)),
    ):
        assert seen.keys() == wanted.keys()
        one, other = (torch.cat([v.double().flatten() for v in values.values()]) for values in (seen, wanted))
        assert float((one - other).norm() / other.norm()) < 1e-3


@pytest.mark.parametrize(
    "links", [pytest.param(SHORT, marks=pytest.mark.slow), pytest.param(len(CHAIN), marks=pytest.mark.soak)]
)
def test_a_run_that_changes_strategy_and_processes_all_the_time(
    tmp_path: Path, start: Start, options: list[str], undisturbed: RunFolder, links: int
) -> None:
    """Two steps each: every strategy reads what another has written on another number of processes."""
    for number, (strategy, processes) in enumerate(CHAIN[:links]):
        last = number == len(CHAIN) - 1
        prelude = None if last else stop_after_two_steps
        run = start(tmp_path / "run", [*options, f"strategy={strategy}"], processes, prelude=prelude).succeed()
        folder = run.checkpoints()[-1][1]
        print(strategy, processes, folder.name)
        assert folder.name == f"step-{2 * number + 2:08d}"
        assert losses(run) == pytest.approx(losses(undisturbed)[: 2 * number + 2], abs=1e-5)
        assert_near(folder, undisturbed.checkpoint_folder / folder.name, run.start)
    samples, expected = (folder.samples.read_text().splitlines() for folder in (run, undisturbed))
    assert samples == expected[: 2 * links]
    assert [entry["world_size"] for entry in run.read_record()["starts"]] == [size for _, size in CHAIN[:links]]
    assert [entry["strategy"] for entry in run.read_record()["starts"]] == [name for name, _ in CHAIN[:links]]
    for one, other in zip(read_lines(run.metrics), read_lines(undisturbed.metrics)[: 2 * links], strict=True):
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_1", "deepspeed_2", "deepspeed_3", SHARDED])
def test_a_stopped_run_goes_on_to_the_bit(tmp_path: Path, start: Start, pair_options: list[str], strategy: str) -> None:
    """On as many processes, with gradient caching and dropout; and what it leaves can be exported."""
    options = [*pair_options, f"strategy={strategy}", "max_steps=5", "model.dropout=0.1", "micro_batch_size=3"]
    whole = start(tmp_path / "whole", options, 2).succeed()
    start(tmp_path / "cut", options, 2, prelude=stop_after_two_steps).succeed()
    assert run_command("export", [f"run={tmp_path / 'cut'}", f"output={tmp_path / 'exported'}"]) == 0
    exported = load_encoder(str(tmp_path / "exported")).state_dict()
    run = start(tmp_path / "cut", options, 2).succeed()
    assert [entry["step"] for entry in run.read_record()["starts"]] == [0, 2]
    assert losses(run) == losses(whole)
    assert weights(run) == weights(whole)
    for name in ("weights.safetensors", "optimizer.safetensors"):
        one, other = (folder.checkpoints()[-1][1] / name for folder in (run, whole))
        assert one.read_bytes() == other.read_bytes()
    assert not all(
        torch.equal(value, exported[k]) for k, value in load_file(run.checkpoints()[-1][1] / WEIGHTS).items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["deepspeed_2", "deepspeed_3", SHARDED])
def test_weights_that_are_no_numbers_are_not_saved(
    tmp_path: Path, start: Start, pair_options: list[str], strategy: str
) -> None:
    """Huge steps; ddp is in test_failures.py. DeepSpeed would skip such steps without a word."""
    options = [*pair_options, "learning_rate=1e18", "checkpoint_every=1", "warmup_steps=0", f"strategy={strategy}"]
    training = start(tmp_path / "run", options, 2)
    assert training.wait() == [1, 1]
    (step,) = re.findall(r"the (?:loss|gradient norm) of step (\d+) is (?:nan|inf)", training.output)
    last, folder = training.run.checkpoints()[-1]
    assert last == int(step) - 1
    assert all(value.isfinite().all() for value in load_file(folder / WEIGHTS).values())


def test_what_is_in_a_checkpoint(undisturbed: RunFolder) -> None:
    _, folder = undisturbed.checkpoints()[-1]
    assert sorted(path.name for path in folder.iterdir()) == [
        "optimizer.safetensors", "position.json", "weights.safetensors"
    ]  # fmt: skip
    encoder = load_encoder(str(undisturbed.path))
    state = load_file(folder / WEIGHTS)
    assert all(torch.equal(state[name], value) for name, value in encoder.state_dict().items())
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    moments = load_file(folder / OPTIMIZER)
    assert set(moments) == {f"{name}.{moment}" for name in trained for moment in ("exp_avg", "exp_avg_sq")}
    assert all(
        value.dtype == torch.float32 for value in (*state.values(), *moments.values()) if value.is_floating_point()
    )
    position = read_position(folder)
    assert (position["step"], position["world_size"]) == (2 * len(CHAIN), 1)
    assert position["plan"] == undisturbed.read_record()["plan_fingerprint"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", flip),
        ("optimizer.safetensors", flip),
        ("optimizer.safetensors", Path.unlink),
        ("weights.safetensors", lambda path: os.truncate(path, 1000)),
        ("position.json", lambda path: path.write_text("{}")),
        ("position.json", lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "files": 3}))),
        ("position.json", Path.unlink),
    ],
)
def test_damage_is_found(tmp_path: Path, undisturbed: RunFolder, name: str, damage: Callable[[Path], Any]) -> None:
    folder = shutil.copytree(undisturbed.checkpoints()[-1][1], tmp_path / "checkpoint")
    read_position(folder)
    damage(folder / name)
    with pytest.raises(InputError, match=name):
        read_position(folder)


def no_room_from_the_third_step_on() -> None:
    """A prelude: from then on, no file of this process can grow over 20 kB, which fails as a full disk does."""
    step = EmbeddingModule.training_step

    def limited(self: EmbeddingModule, batch: Batch, batch_idx: int) -> Any:
        if batch.step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        return step(self, batch, batch_idx)

    EmbeddingModule.training_step = limited


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk(tmp_path: Path, start: Start, pair_options: list[str], processes: int) -> None:
    """The message names the path, the last checkpoint stays, and the same command goes on when there is room."""
    options = [*pair_options, "max_steps=5", "checkpoint_every=2"]
    training = start(tmp_path / "run", options, processes, prelude=no_room_from_the_third_step_on)
    assert training.wait() == [1] * processes
    assert len(re.findall(r"step-00000004: cannot be written \(.*File too large", training.output)) == 1
    assert "the last good one is that of step 2" in training.output
    assert "Traceback" not in training.output
    assert [path.name for path in training.run.checkpoint_folder.iterdir()] == ["step-00000002"]
    assert start(tmp_path / "run", options, processes).succeed().read_record()["status"] == "finished"


def no_room_for_the_model() -> None:
    import jemb.train.resume as resume_file

    write = resume_file._write_model

    def limited(run: RunFolder, checkpoint: Path, **more: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        write(run, checkpoint, **more)

    resume_file._write_model = limited


def test_a_disk_too_full_for_the_model(tmp_path: Path, start: Start, pair_options: list[str]) -> None:
    options = [*pair_options, "max_steps=2"]
    training = start(tmp_path / "run", options, prelude=no_room_for_the_model)
    assert training.wait() == [1]
    assert f"{training.run.model}: cannot be written" in training.output
    assert training.run.read_record()["status"] == "failed"
    assert "Traceback" not in training.output
    assert not training.run.model.exists()
    assert start(tmp_path / "run", options).succeed().model.is_dir()


@pytest.mark.slow
def test_tied_weights(tmp_path: Path, start: Start, triplet_options: list[str], t5_folder: Path) -> None:
    """T5 has its embeddings under two names; sharded and back."""
    kept = [option for option in triplet_options if not option.startswith("model.")]
    options = [*kept, f"model.path={t5_folder}", "learning_rate=1e-3", "max_steps=6"]
    whole = start(tmp_path / "whole", options).succeed()
    for strategy, processes in ((SHARDED, 2), ("deepspeed_3", 2), ("ddp", 2)):
        prelude = None if strategy == "ddp" else stop_after_two_steps
        run = start(tmp_path / "cut", [*options, f"strategy={strategy}"], processes, prelude=prelude).succeed()
        assert losses(run) == pytest.approx(losses(whole)[: len(losses(run))], abs=1e-5)
    state = load_file(run.checkpoints()[-1][1] / WEIGHTS)
    assert torch.equal(state["model.0.model.shared.weight"], state["model.0.model.encoder.embed_tokens.weight"])
