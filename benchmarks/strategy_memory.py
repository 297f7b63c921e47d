"""Bytes of memory for each parameter under each strategy: at the start, in a step, and while a checkpoint is written.

python -m benchmarks.strategy_memory [--processes 2] [--strategies ddp fsdp …] [--precisions fp32 bf16]

Real `jemb train` under torchrun, on CPU processes, of two models that differ in the number of layers alone. Highest
resident memory of a process in each phase; what is shown is the difference of the two models over that of their
parameters, so libraries and texts (a few short ones) do not count. On CPU the start shows what a process has in main
memory on GPUs, the step what it has on its GPU. The checkpoint: of the process that writes it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import forget, highest

if TYPE_CHECKING:
    from lightning import Trainer
    from torch import Tensor

    from jemb.core.records import Batch
    from jemb.train.module import EmbeddingModule

STRATEGIES = ["ddp", "deepspeed_1", "deepspeed_2", "deepspeed_3", "fsdp"]
PHASES = ("start", "step", "checkpoint")
HIDDEN, LAYERS = 1024, (2, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    print(f"bytes a parameter and process, {arguments.processes} processes")
    print("| strategy | precision | start | step | checkpoint, rank 0 |")
    print("|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(Path(folder))
        for strategy in arguments.strategies:
            for precision in arguments.precisions:
                few, many = (
                    run(arguments.processes, layers, [f"strategy={strategy}", f"precision={precision}", shards], folder)
                    for layers in LAYERS
                )
                more = many["parameters"] - few["parameters"]
                shown = " | ".join(f"{(many[phase] - few[phase]) / more:.1f}" for phase in PHASES)
                print(f"| {strategy} | {precision} | {shown} |", flush=True)


def write_shards(folder: Path) -> str:
    from benchmarks.texts import write_shards

    write_shards(folder / "shards", ({"query": f"word {n}", "positive": f"another word {n}"} for n in range(64)))
    return f"shards={folder / 'shards'}"


def run(processes: int, layers: int, options: list[str], folder: str) -> dict[str, float]:
    """Peak bytes of each phase, of rank 0, and the number of parameters."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        model = [f"model.hidden_size={HIDDEN}", f"model.num_layers={layers}", "model.vocab_size=400", "max_length=16"]
        training = ["global_batch_size=8", "max_steps=4", "workers=0", f"output={output}/run", "device=cpu"]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [*torchrun, "-m", "benchmarks.strategy_memory", "--measure", *model, *training, *options]
        given_back = {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # freed tensors go to the system at once, and do not count
        environment = {**os.environ, **given_back, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(options: list[str]) -> None:
    """Train, and print what rank 0 found."""
    from jemb.app.cli import main as jemb
    from jemb.train.checkpoints import Checkpoints
    from jemb.train.module import EmbeddingModule

    found: dict[str, float] = {}
    begin, step, save = Checkpoints.on_fit_start, EmbeddingModule.training_step, Checkpoints.on_train_batch_end

    def measured_begin(callback: Checkpoints, trainer: Trainer, module: EmbeddingModule) -> None:
        found["start"] = highest()  # the model is there, AdamW's state not yet
        found["parameters"] = (callback.run.start / "model.safetensors").stat().st_size / 4
        begin(callback, trainer, module)

    def measured_step(module: EmbeddingModule, batch: Batch, number: int) -> Tensor:
        forget()
        return step(module, batch, number)

    def measured_save(callback: Checkpoints, trainer: Trainer, module: EmbeddingModule, *rest: Any) -> None:
        found["step"] = highest()  # the last one counts
        forget()
        save(callback, trainer, module, *rest)
        found["checkpoint"] = highest()

    Checkpoints.on_fit_start = measured_begin  # type: ignore[method-assign]
    EmbeddingModule.training_step = measured_step  # type: ignore[method-assign]
    Checkpoints.on_train_batch_end = measured_save  # type: ignore[method-assign]
    code = jemb(["train", *options])
    if "RANK" not in os.environ or os.environ["RANK"] == "0":
        print(json.dumps(found))
    sys.exit(code)


if __name__ == "__main__":
    main()
