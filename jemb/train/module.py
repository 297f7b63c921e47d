"""An encoder with the loss it is trained by, as a LightningModule: `jemb train` fits it, and so may any Trainer.

Before: a data module or loader gives each rank its rows of a global batch. After: the Trainer's strategy averages the
gradients over the ranks and takes the step. The gather between, and its law, are in the step itself.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from jemb.config import TrainConfig
from jemb.core.errors import Failure, InputError
from jemb.core.records import Batch
from jemb.data.module import PairData
from jemb.data.permutation import mix
from jemb.distributed import gather_rows, gather_values, mean_over_ranks, rank, world_size
from jemb.launch import find_ranks
from jemb.loss import Loss, Objective, Objectives, Rows, Texts
from jemb.loss.products import in_full_from_here
from jemb.model import Encoder, encode_together, load_encoder
from jemb.train.optim import Schedule, clip_gradients, make_optimizer
from jemb.train.strategies.choice import shard
from jemb.train.strategies.deepspeed import keep_whole, last_norm

log = logging.getLogger(__name__)

BATCHES = "jemb.batches"
"""In a checkpoint of Lightning: the number of batches that its weights have learned."""


class EmbeddingModule(lightning.LightningModule):
    """Encoder and objective, for any `lightning.Trainer` on any number of processes.

        trainer = lightning.Trainer(devices=2, strategy="ddp", max_steps=1000, gradient_clip_val=1.0)
        trainer.fit(EmbeddingModule("google-t5/t5-small", objective="pairs"), PairData("shards", global_batch_size=256))

    The rows of all ranks are gathered in the step, so that the weights change as in one process with the whole batch,
    under `ddp`, DeepSpeed stages 1 to 3 and FSDP2 (`ModelParallelStrategy`). Clipping, precision and accumulation are
    the Trainer's; accumulated batches do not add negatives, `micro_batch_size` does.

    encoder: one, or the name or folder to load it from, then with `dropout`. objective: by name, as
    PACKAGE.MODULE:NAME, or any callable of `jemb.loss.Texts`; the weights of one that is a module are trained, too, and
    lie in `heads`. max_steps: where the schedule ends; None: the Trainer's. first_step: of a run that goes on outside
    the Trainer. bf16: compute the encoder in bf16 whatever the Trainer's precision is. options: those of the objective
    (`temperature=0.05`, …). All others are those of `jemb train`. Raises InputError for what does not exist or fit.

    In each step it logs the loss and its terms. `facts` holds the latest step's measurements over the global batch,
    those of metrics.jsonl (docs/architecture.md) and the `keys` of its samples; `loss_terms` the parts of its loss,
    `batches` how many batches the weights have learned, `grad_norm` the norm of its gradient before clipping, `skipped`
    the number of steps left out because gradients were too large for fp16, of a Trainer that scales the loss.
    """

    def __init__(
        self,
        encoder: Encoder | str | os.PathLike[str],
        *,
        objective: str | Objective | Objectives = "pairs",
        objectives: Mapping[str, str | Objective] | None = None,
        learning_rate: float = 2e-4,
        warmup_steps: int | None = None,
        schedule: str = "linear",
        max_steps: int | None = None,
        first_step: int = 0,
        weight_decay: float = 0.01,
        micro_batch_size: int | None = None,
        micro_batch_tokens: int | None = None,
        dropout: float | None = 0.0,
        seed: int = 0,
        bf16: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.encoder = encoder if isinstance(encoder, Encoder) else load_encoder(os.fspath(encoder), dropout=dropout)
        self.encoder.train()
        made = (
            objective
            if isinstance(objective, Objectives)
            else Objectives(objective, objectives, options, seed, student_width=self.encoder.dim)
        )
        self.objectives, self.heads = made, nn.ModuleDict(made.heads)
        self.schedule = Schedule(schedule, learning_rate, warmup_steps, max_steps)
        self.first_step, self.weight_decay, self.seed, self.bf16 = first_step, weight_decay, seed, bf16
        TrainConfig(  # checks them
            shards="-", output="-", learning_rate=learning_rate, warmup_steps=warmup_steps, max_steps=max_steps,
            weight_decay=weight_decay, micro_batch_size=micro_batch_size, micro_batch_tokens=micro_batch_tokens,
            seed=seed,
        )  # fmt: skip
        self.micro_batch_size, self.micro_batch_tokens = micro_batch_size, micro_batch_tokens
        self.facts: SimpleNamespace | None = None
        self.batches = first_step
        self._unmeasured: tuple[Batch, Loss, int] | None = None
        self.loss_terms: Mapping[str, float] = {}
        self.grad_norm = math.nan
        self.skipped = 0

    @property
    def step(self) -> int:
        """Steps done, those before this fit included."""
        return self.facts.step if self.facts else self.first_step

    def on_fit_start(self) -> None:
        trained, launched = self.trainer.world_size, find_ranks().world_size
        if launched > 1 and trained != launched:
            raise InputError(
                f"the Trainer has {trained} processes, but {launched} were started: each would train by itself. "
                'Give Trainer(devices=…, num_nodes=…, strategy="ddp") what the launcher was given'
            )
        if self.trainer.accumulate_grad_batches > 1:
            log.warning(
                "accumulate_grad_batches=%d averages over batches and adds no negatives; a larger global_batch_size "
                "with micro_batch_size does, in the same memory",
                self.trainer.accumulate_grad_batches,
            )
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            keep_whole(self.trainer.strategy, self.heads.parameters())
        self.encoder.train()  # Lightning leaves a module as it was given

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Dropout depends on (seed, step, rank) alone, so a resumed run draws what the undisturbed one drew.
        torch.manual_seed(mix("dropout", self.seed, batch.step, rank()))
        # Here and not in a strategy, so that bf16 means the same under each: fp32 weights and gradients, fp32 loss.
        kind = self.device.type
        dtype = torch.bfloat16 if self.bf16 else torch.get_autocast_dtype(kind)
        with torch.autocast(kind, dtype=dtype, enabled=self.bf16 or torch.is_autocast_enabled(kind)):
            vectors, slots = encode_together(
                self.encoder, batch.texts, self.micro_batch_size, self.micro_batch_tokens, agree=self.agree
            )
        with torch.autocast(self.device.type, enabled=False):
            loss = self.loss_of(batch, in_full_from_here(vectors))
        self._unmeasured = batch, replace(loss, total=loss.total.detach()), slots
        return loss.total

    def on_after_backward(self) -> None:
        if self._unmeasured:  # only now: while its loss is waited for, a GPU would have nothing to do
            self._measure(*self._unmeasured)
        self._unmeasured = None

    @property
    def agree(self) -> Callable[[int], int] | None:
        """How the ranks come to equally many calls of the encoder, where weights are shared and each is a call by all;
        None where they are not."""
        strategy = self.trainer.strategy
        third = isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3
        return self._largest if third or self.device_mesh is not None else None

    def _largest(self, number: int) -> int:
        """Over all ranks."""
        return int(gather_values(torch.tensor([number])).max())

    def loss_of(self, batch: Batch, vectors: list[Tensor]) -> Loss:
        """By the objective of the batch; vectors: of `batch.texts`, of this rank."""
        hashes = [h for h in (batch.query_hash, batch.positive_hash, batch.negative_hash) if h is not None]
        query, *others = [
            Rows(local_BD=v, all_ND=gather_rows(v), hash_B=h, hash_N=gather_values(h))
            for v, h in zip(vectors, hashes, strict=True)
        ]
        said = {f"{name}_N": getattr(batch, name) for name in ("score", "label")} | {"scores_NA": batch.scores}
        chosen = self.objectives[batch.objective]
        loss = chosen(
            Texts(
                query,
                others[0] if batch.positive is not None else query,
                others[-1] if batch.negatives is not None else None,
                offset=rank() * len(batch.query_hash),
                dataset=batch.dataset,
                step=batch.step,
                teacher_BTD=batch.teacher,
                **{name: gather_values(value) for name, value in said.items() if value is not None},
            )
        )
        idle = [head(None) for head in self.heads.values() if head is not chosen.head]
        return replace(loss, total=loss.total + sum(idle)) if idle else loss

    def _measure(self, batch: Batch, loss: Loss, slots: int) -> None:
        """One small collective: facts of the global batch. Raises `Failure` on every rank for a loss that is no
        number, before it reaches the weights."""
        hidden_rows = torch.as_tensor(loss.hidden, device=loss.total.device)
        exact = torch.float32 if self.device.type == "mps" else torch.float64  # which MPS does not have
        on_device = torch.stack([value.to(exact) for value in (loss.total, hidden_rows, *loss.terms.values())])
        counted = sum(int(tokens.lengths.sum()) for tokens in batch.texts)
        on_host = [counted, slots, batch.share_sum, batch.negatives_short, batch.positives_short]
        local = torch.cat([on_device.cpu(), torch.tensor(on_host, dtype=torch.float64)])
        total, hidden, *terms, tokens, mean_slots, share_sum, few, fewer = mean_over_ranks(local).tolist()
        self.loss_terms = dict(zip(loss.terms, terms, strict=True))
        self.facts = SimpleNamespace(
            step=batch.step + 1,
            dataset=batch.dataset,
            keys=batch.keys,
            loss=total,
            negatives_per_query=None if loss.candidates is None else loss.candidates - hidden / len(batch.query_hash),
            hidden_candidates=round(hidden * world_size()),
            negatives_short=round(few * world_size()),
            positives_short=round(fewer * world_size()),
            tokens=round(tokens * world_size()),
            padding_share=1 - tokens / mean_slots,
            learning_rate=self.trainer.optimizers[0].param_groups[0]["lr"],
        )
        self.log_dict({"loss": total, **{f"loss_terms/{name}": value for name, value in self.loss_terms.items()}})
        if round(share_sum * world_size()) % 2**32 != batch.batch_sum:
            raise InputError(
                f"step {batch.step + 1}: the processes do not share out the same batch of data set {batch.dataset}: "
                "its indexes (*.idx.npy) are not the same on all machines, or have changed since the start"
            )
        if not math.isfinite(total):
            raise self._not_a_number("loss", total)

    def _not_a_number(self, what: str, value: float) -> Failure:
        facts = self.facts
        assert facts is not None
        shown = ", ".join(facts.keys[:8]) + (", …" if len(facts.keys) > 8 else "")
        return Failure(
            f"the {what} of step {facts.step} is {value} (data set {facts.dataset}, samples {shown}); the weights of "
            f"the last checkpoint are kept. Often the cause: a learning_rate too high ({self.schedule.peak:g}), or a "
            "temperature too low"
        )

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # FSDP2
            shard(self.encoder, self.heads.values(), self.device_mesh["data_parallel"])

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Lightning's place between backward and the optimiser step: measures the gradient, clips it if asked to."""
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            return  # it clips and measures inside its step
        by_value = gradient_clip_algorithm == "value"
        parameters = [p for p in self.parameters() if p.requires_grad]
        norm = clip_gradients(parameters, None if by_value else gradient_clip_val)
        if by_value:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self._check_norm(norm)

    def setup(self, stage: str) -> None:
        if not self.trainer.global_step:
            self.batches = self.first_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[BATCHES] = self.batches

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.batches = checkpoint.get(BATCHES, checkpoint["global_step"] * self.trainer.accumulate_grad_batches)

    def optimizer_step(self, *arguments: Any, **more: Any) -> None:
        super().optimizer_step(*arguments, **more)
        self.batches = self.step
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            self._check_norm(last_norm(self.trainer.strategy))

    def _check_norm(self, norm: float) -> None:
        self.grad_norm = norm
        if math.isfinite(norm):
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # in fp16
        if scaler is None or scaler.get_scale() <= 1:
            raise self._not_a_number("gradient norm", norm)
        self.skipped += 1
        at = f"step {self.facts.step}: " if self.facts else ""
        log.info("%sgradients of the loss times %g are too large for fp16: left out", at, scaler.get_scale())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        schedule, first = self.schedule.ending_at(self.trainer.max_steps), self.first_step
        optimizer = make_optimizer(self, learning_rate=schedule.peak, weight_decay=self.weight_decay)
        rates = LambdaLR(optimizer, lambda done: schedule.share(first + done))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}


def as_embedding(module: lightning.LightningModule) -> EmbeddingModule:
    """Raises InputError for another one in a Trainer with callbacks of ours."""
    if not isinstance(module, EmbeddingModule):
        raise InputError(f"the callbacks of jemb go with EmbeddingModule, not with {type(module).__name__}")
    return module


def last_step(trainer: lightning.Trainer) -> int:
    """How many steps there are when the fit ends; `sys.maxsize` where nobody says."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if isinstance(data, PairData):
        return data.last_step
    return trainer.max_steps if trainer.max_steps > 0 else sys.maxsize
