"""Checkpoints: whole or absent, the newest few and the best kept, and written when the process is asked to stop.

A checkpoint is a folder `step-NNNNNNNN` that does not know which strategy wrote it, nor on how many processes:
`weights.safetensors` is the encoder's state dict, `objectives.safetensors` that of objectives with weights, where there
are some, `optimizer.safetensors` AdamW's two moments of each parameter by its name, all whole and in fp32, and
`position.json` has the step and the plan's fingerprint, which together are the whole data position, and size and
checksum of the others; in fp16 also the scale of the loss, and how many steps were left out for gradients too large.
The learning rate and the dropout follow from the step.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jemb.config import TrainConfig
from jemb.core.errors import InputError
from jemb.core.files import read_json, write_json, writing
from jemb.core.folders import whole_folder
from jemb.data.module import PairData
from jemb.distributed import mean_over_ranks, rank
from jemb.distributed.ranks import on_rank_zero
from jemb.model import Encoder, load_weights
from jemb.run_folder import HEADS, OPTIMIZER, POSITION, WEIGHTS, RunFolder, describe_file
from jemb.train.module import EmbeddingModule, as_embedding, last_step
from jemb.train.optim import MOMENTS
from jemb.train.strategies.choice import TorchState, state_of
from jemb.train.strategies.deepspeed import ZeroState

log = logging.getLogger(__name__)

HEAD = "objectives."
"""Stands before the names of the objectives' weights among the moments."""


class Checkpoints(lightning.Callback):
    """Saves every `every` steps, where `wanted`, and at the end of a fit, however that comes; keeps the newest `keep`
    and the `best`. A fit goes on from the newest one in `folder`, exactly, under any strategy and number of processes.

        trainer = lightning.Trainer(max_steps=1000, callbacks=[jemb.Checkpoints("mine")])
        trainer.fit(jemb.EmbeddingModule("google-t5/t5-small"), jemb.PairData("shards"))  # and again, to go on

    `max_steps` and `max_epochs` of the Trainer count from the first step of all, not from where a fit goes on.
    start: what to go on from, where that is decided already, and the weights are in the encoder; None: to be found.
    wanted: step -> whether there must be a checkpoint of it. best: the step whose checkpoint is kept as well, as it is
    known to rank 0 at the time. `steps` is that of the newest checkpoint; `saved` is called on rank 0 after each.
    No checkpoint is written before `PairData` has verified what the steps up to it have read.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: int = 500,
        keep: int = 2,
        start: tuple[int, Path | None] | None = None,
    ) -> None:
        TrainConfig(shards="-", output="-", checkpoint_every=every, keep_checkpoints=keep)  # checks them
        self.run, self.every, self.keep, self.given = RunFolder(Path(folder)), every, keep, start
        self.wanted: Callable[[int], bool] = lambda step: False
        self.best: Callable[[], int | None] = lambda: None
        self.saved: Callable[[], None] = lambda: None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        module = as_embedding(pl_module)
        if trainer.ckpt_path or trainer.accumulate_grad_batches > 1 or trainer.global_step:
            raise InputError(
                "Checkpoints goes on from its own folder, in steps of one batch: leave out ckpt_path, use "
                "micro_batch_size in place of accumulate_grad_batches, and make a new Trainer to go on"
            )
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.data = data if isinstance(data, PairData) else None
        self.plan = self.data.plan.fingerprint if self.data else ""
        found: tuple[int, Path | None] = self.given or on_rank_zero(self._find)
        self.steps, folder = found
        self.folder = folder and self.run.checkpoint_folder / folder.name  # on this machine
        if self.given is None:
            module.first_step, module.facts = self.steps, None
            if self.folder and self.data is None:
                raise InputError("Checkpoints: wanted PairData as the data module, which goes on with the next sample")
            if self.folder:
                load_weights(module.encoder, self.folder)
        if self.folder and module.heads:
            load_heads(self.folder, module)

    def _find(self) -> tuple[int, Path | None]:
        remove_leftovers(self.run)
        return find_start(self.run, self.plan)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        state, module = state_of(trainer.strategy), as_embedding(pl_module)
        position = read_json(self.folder / POSITION) if self.folder else {}
        module.skipped = position.get("skipped", 0)
        state.start(self.steps - module.skipped)
        if self.folder is not None:
            load_moments(self.folder, module, state)
        if (scaler := scaler_of(trainer)) and "scaler" in position:
            stored = position["scaler"]  # as `make_scaling` has it: lower by the number of processes
            scale = stored["scale"] * position["world_size"] / trainer.world_size
            scaler.load_state_dict({**stored, "scale": scale})

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.should_stop |= self.steps >= last_step(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        step = as_embedding(pl_module).step
        if step % self.every == 0 or self.wanted(step):
            self._save(trainer, as_embedding(pl_module), step)
        trainer.should_stop |= step >= last_step(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if (step := as_embedding(pl_module).step) > self.steps:
            self._save(trainer, as_embedding(pl_module), step)

    def _save(self, trainer: lightning.Trainer, module: EmbeddingModule, step: int) -> None:
        # A collective each time: none waits in the next one for longer than its timeout. After it every rank has
        # ended the step: with gradients that another has lost there would be none to save.
        while mean_over_ranks(torch.tensor([float(self.data is None or self.data.verified(step))])) < 1:
            pass
        state, keep = state_of(trainer.strategy), rank() == 0
        weights, moments = gather_state(module.encoder, state, keep=keep)
        heads, more = gather_state(module.heads, state, keep=keep)
        moments |= {f"{HEAD}{name}": value for name, value in more.items()}
        position = {"step": step, "plan": self.plan, "world_size": trainer.world_size}
        if module.skipped:
            position["skipped"] = module.skipped
        if scaler := scaler_of(trainer):
            position["scaler"] = scaler.state_dict()
        files = {WEIGHTS: weights, OPTIMIZER: moments, **({HEADS: heads} if heads else {})}
        on_rank_zero(lambda: self._write(position, files))
        self.steps = step

    def _write(self, position: Mapping[str, Any], tensors: Mapping[str, dict[str, Tensor]]) -> None:
        final = self.run.checkpoint_folder / f"step-{position['step']:08d}"
        before = self.run.checkpoints()
        told = f"the last good one is that of step {before[-1][0]}" if before else "it is the first"
        with writing(final, told), whole_folder(final) as folder:
            for name, values in tensors.items():
                save_file(values, folder / name)
            # It counts on the log lines of its steps: after a power cut they are there if it is.
            for path in (self.run.metrics, self.run.samples, self.run.evaluations):
                with suppress(FileNotFoundError), path.open("rb") as file:
                    os.fsync(file.fileno())
            files = {name: describe_file(folder / name) for name in tensors}
            write_json(folder / POSITION, {**position, "files": files})
        self.prune()
        self.saved()

    def prune(self) -> None:
        """Remove the checkpoints that need not be kept."""
        best = self.best()
        for step, old in self.run.checkpoints()[: -self.keep]:
            if step != best:
                # Renamed first: a half-removed folder must not look like a checkpoint.
                shutil.rmtree(old.rename(old.with_name(f".{old.name}.partial")), ignore_errors=True)


def scaler_of(trainer: lightning.Trainer) -> torch.amp.GradScaler | None:
    """What scales the loss, in fp16."""
    return getattr(trainer.precision_plugin, "scaler", None)


def gather_state(
    model: nn.Module, state: TorchState | ZeroState, *, keep: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(state dict, moments as `NAME.exp_avg`, `NAME.exp_avg_sq`), whole and on the CPU; both empty without `keep`.

    Every rank takes part. A GPU holds one whole parameter at a time. Tied weights are copied under each of their
    names; their moments stand under the first.
    """
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    seen: dict[int, str] = {}
    adapters = isinstance(model, Encoder) and model.lora
    for name, value in model.state_dict(keep_vars=True).items():
        if adapters and isinstance(value, nn.Parameter) and not value.requires_grad:
            continue  # it stays as it is in `start/`
        if (first := seen.setdefault(id(value), name)) != name:
            if keep:
                weights[name] = weights[first].clone()
            continue
        whole = state.weight(value) if isinstance(value, nn.Parameter) else value.detach()
        if keep:
            weights[name] = whole.cpu().contiguous()
        if not (isinstance(value, nn.Parameter) and value.requires_grad):
            continue
        for moment in MOMENTS:
            whole = state.moment(value, moment)
            if keep:
                moments[f"{name}.{moment}"] = whole.cpu().contiguous()
    return weights, moments


def load_heads(folder: Path, module: EmbeddingModule) -> None:
    """Put the weights of a checkpoint into the objectives. Raises InputError where they are those of others."""
    try:
        module.heads.load_state_dict(load_file(folder / HEADS))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{folder / HEADS}: not the weights of these objectives ({error})") from None


def load_moments(folder: Path, module: EmbeddingModule, state: TorchState | ZeroState) -> None:
    """Put the moments of a checkpoint into the started `state`. Every rank reads the file and takes what is its own."""
    with safe_open(folder / OPTIMIZER, framework="pt") as file:
        heads = ((f"{HEAD}{name}", p) for name, p in module.heads.named_parameters())
        for name, p in (*module.encoder.named_parameters(), *heads):
            if p.requires_grad:
                for moment in MOMENTS:
                    state.set_moment(p, moment, file.get_tensor(f"{name}.{moment}").to(p.device))


def remove_leftovers(run: RunFolder) -> None:
    """Delete what a killed process left of the checkpoints and folders it was writing or removing."""
    for pattern in ("checkpoints/.*", ".start.*", ".model.*"):
        for path in run.path.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def find_start(run: RunFolder, plan: str) -> tuple[int, Path | None]:
    """(steps done, folder) of the newest readable checkpoint; (0, None) where there is none.

    A damaged one is put aside as `damaged-step-…`, and the one before it is taken. Raises InputError when the
    checkpoint was made with another batch plan: other data, seed, weights or batch size.
    """
    found = run.newest_checkpoint(put_aside=True)
    if found is None:
        return 0, None
    folder, position = found
    if position["plan"] != plan:
        raise InputError(
            f"{folder}: made with batch plan {position['plan'][:16]}…, but these shards, seed, weights and "
            f"global_batch_size give {plan[:16]}…. Restore them, or start anew with another output"
        )
    return int(folder.name.removeprefix("step-")), folder
