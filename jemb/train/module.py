"""The Lightning module: one training step, from a batch of token ids to the loss. Wiring only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim import Optimizer

from jemb.config import TrainConfig
from jemb.data.permutation import mix
from jemb.distributed import gather_rows, gather_values, mean_over_ranks, rank, world_size
from jemb.errors import Failure, InputError
from jemb.loss import Loss, Rows, Texts, make_objective
from jemb.model import Encoder, encode_together
from jemb.records import Batch, Tokens
from jemb.train.deepspeed import ZeroState, ZeroStrategy
from jemb.train.fsdp import shard
from jemb.train.optim import clip_gradients, make_optimizer, planned_rate

SHARED_WEIGHTS = ("deepspeed_3", "fsdp")
"""Strategies under which a call of the encoder is a collective: every rank must make equally many."""


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What one step measured, over the global batch."""

    step: int
    dataset: str
    keys: tuple[str, ...]
    loss: float
    negatives_per_query: float | None
    hidden_candidates: int
    negatives_short: int
    tokens: int
    padding_share: float
    learning_rate: float


class EmbeddingModule(lightning.LightningModule):
    """Encoder + objective. `facts` holds the latest step's measurements, `stop` whether any rank wants to stop."""

    def __init__(
        self,
        encoder: Encoder,
        config: TrainConfig,
        *,
        max_steps: int,
        wants_to_stop: Callable[[], bool],
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = config
        self.objective = make_objective(config.objective, config.objective_options, **config.loss_options)
        self.max_steps = max_steps
        self.wants_to_stop = wants_to_stop
        self.bf16 = bf16
        self.stop = False
        self.facts: StepFacts | None = None
        self.grad_norm = math.nan

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Dropout depends on (seed, step, rank) alone, so a resumed run draws what the undisturbed one drew.
        torch.manual_seed(mix("dropout", self.config.seed, batch.step, rank()))
        rate = self._set_learning_rate(batch.step)
        texts = [batch.query, batch.positive, *([batch.negatives] if batch.negatives is not None else [])]
        # Here and not in a strategy, so that bf16 means the same under each: fp32 weights and gradients, fp32 loss.
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            vectors, slots = encode_together(
                self.encoder,
                texts,
                self.config.micro_batch_size,
                self.config.micro_batch_tokens,
                agree=self.agree,
            )
        loss = self._loss(batch, vectors)
        self._measure(batch, loss, texts, slots, rate)
        return loss.total

    @property
    def agree(self) -> Callable[[int], int] | None:
        """How the ranks come to equally many calls of the encoder, where each is a call by all."""
        return self._largest if self.config.strategy in SHARED_WEIGHTS else None

    def _largest(self, number: int) -> int:
        """Over all ranks."""
        return int(gather_values(torch.tensor([number], device=self.device)).max())

    def _set_learning_rate(self, step: int) -> float:
        rate = planned_rate(self.config, step, self.max_steps)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        return rate

    def _loss(self, batch: Batch, vectors: list[Tensor]) -> Loss:
        hashes = [h for h in (batch.query_hash, batch.positive_hash, batch.negative_hash) if h is not None]
        rows = [
            Rows(local_BD=v, all_ND=gather_rows(v), hash_B=h, hash_N=gather_values(h))
            for v, h in zip(vectors, hashes, strict=True)
        ]
        offset = rank() * len(batch.query_hash)
        query, positive, *negatives = rows
        return self.objective(
            Texts(
                query,
                positive,
                negatives[0] if negatives else None,
                offset=offset,
                dataset=batch.dataset,
                step=batch.step,
            )
        )

    def _measure(self, batch: Batch, loss: Loss, texts: list[Tokens], slots: int, rate: float) -> None:
        """One small collective: facts of the global batch. Raises `Failure` on every rank for a loss that is no
        number, before it reaches the weights."""
        counted = torch.stack([t.attention_mask.sum() for t in texts]).sum()
        hidden_rows = torch.as_tensor(loss.hidden, device=loss.total.device)
        on_device = [loss.total, hidden_rows, counted, *loss.terms.values()]
        on_host = torch.tensor(
            [slots, self.wants_to_stop(), batch.share_sum, batch.negatives_short],
            dtype=torch.float64,
            device=loss.total.device,
        )
        local = torch.cat([torch.stack([value.detach().double() for value in on_device]), on_host])
        total, hidden, tokens, *terms, mean_slots, wish, share_sum, short = mean_over_ranks(local).tolist()
        self.stop = wish > 0
        self.loss_terms = dict(zip(loss.terms, terms, strict=True))
        self.facts = StepFacts(
            step=batch.step + 1,
            dataset=batch.dataset,
            keys=batch.keys,
            loss=total,
            negatives_per_query=None if loss.candidates is None else loss.candidates - hidden / len(batch.query_hash),
            hidden_candidates=round(hidden * world_size()),
            negatives_short=round(short * world_size()),
            tokens=round(tokens * world_size()),
            padding_share=1 - tokens / mean_slots,
            learning_rate=rate,
        )
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
            f"the last checkpoint are kept. Often the cause: a learning_rate too high ({self.config.learning_rate:g}) "
            f"or a temperature too low ({self.config.temperature:g})"
        )

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # strategy=fsdp
            shard(self.encoder, self.device_mesh["data_parallel"])

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's place between backward and the optimiser step: measures the gradient, clips it if asked to."""
        if not isinstance(self.trainer.strategy, ZeroStrategy):
            parameters = [p for p in self.parameters() if p.requires_grad]
            self._check_norm(clip_gradients(parameters, self.config.gradient_clip))

    def optimizer_step(self, *arguments: Any, **more: Any) -> None:
        super().optimizer_step(*arguments, **more)
        if isinstance(self.trainer.strategy, ZeroStrategy):  # which clips and measures inside its step
            self._check_norm(ZeroState(self.trainer.strategy).last_norm())

    def _check_norm(self, norm: float) -> None:
        self.grad_norm = norm
        if not math.isfinite(norm):
            raise self._not_a_number("gradient norm", norm)

    def configure_optimizers(self) -> Optimizer:
        config = self.config
        return make_optimizer(self.encoder, learning_rate=config.learning_rate, weight_decay=config.weight_decay)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)
