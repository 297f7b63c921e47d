"""The Lightning module: one training step, from a batch of token ids to the loss. Wiring only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import lightning
import torch
from torch import Tensor
from torch.optim import Optimizer

from jemb.config import TrainConfig
from jemb.data.permutation import mix
from jemb.distributed import gather_rows, gather_values, mean_over_ranks, rank, world_size
from jemb.errors import Failure
from jemb.loss import Rows, pair_loss, triplet_loss
from jemb.model import Encoder, encode_together
from jemb.records import Batch, Tokens
from jemb.train.optim import learning_rate_at, make_optimizer


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What one step measured, over the global batch."""

    step: int
    dataset: str
    keys: tuple[str, ...]
    loss: float
    negatives_per_query: float
    hidden_candidates: int
    tokens: int
    padding_share: float
    learning_rate: float


class EmbeddingModule(lightning.LightningModule):
    """Encoder + objective. `facts` holds the latest step's measurements, `stop` whether any rank wants to stop."""

    def __init__(self, encoder: Encoder, config: TrainConfig, *, max_steps: int, wants_to_stop: Callable[[], bool]):
        super().__init__()
        self.encoder = encoder
        self.config = config
        self.max_steps = max_steps
        self.wants_to_stop = wants_to_stop
        self.stop = False
        self.facts: StepFacts | None = None
        self.grad_norm = math.nan

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Dropout depends on (seed, step, rank) alone, so a resumed run draws what the undisturbed one drew.
        torch.manual_seed(mix("dropout", self.config.seed, batch.step, rank()))
        rate = self._set_learning_rate(batch.step)
        texts = [batch.query, batch.positive, *([batch.negatives] if batch.negatives is not None else [])]
        vectors, slots = encode_together(self.encoder, texts, self.config.micro_batch_size)
        with torch.autocast(self.device.type, enabled=False):
            loss, hidden = self._loss(batch, vectors)
        self._measure(batch, loss, hidden, texts, slots, rate)
        return loss

    def _set_learning_rate(self, step: int) -> float:
        config = self.config
        warmup = config.warmup_steps if config.warmup_steps is not None else self.max_steps // 10
        rate = learning_rate_at(
            step, config.schedule, peak=config.learning_rate, warmup_steps=warmup, max_steps=self.max_steps
        )
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        return rate

    def _loss(self, batch: Batch, vectors: list[Tensor]) -> tuple[Tensor, Tensor]:
        config = self.config
        hashes = [h for h in (batch.query_hash, batch.positive_hash, batch.negative_hash) if h is not None]
        rows = [
            Rows(local_BD=v, all_ND=gather_rows(v), hash_B=h, hash_N=gather_values(h))
            for v, h in zip(vectors, hashes, strict=True)
        ]
        offset = rank() * len(batch.query_hash)
        if config.objective == "pairs":
            return pair_loss(
                rows[0],
                rows[1],
                offset=offset,
                temperature=config.temperature,
                mask_equal_texts=config.mask_equal_texts,
            )
        return triplet_loss(
            *rows,
            offset=offset,
            temperature=config.temperature,
            margin=config.margin,
            mask_equal_texts=config.mask_equal_texts,
        )

    def _measure(
        self, batch: Batch, loss: Tensor, hidden: Tensor, texts: list[Tokens], slots: int, rate: float
    ) -> None:
        """One small collective: facts of the global batch. Raises `Failure` on every rank for a loss that is no
        number, before it reaches the weights."""
        tokens = sum(int(t.attention_mask.sum()) for t in texts)
        local = torch.tensor(
            [float(loss.detach()), float(hidden), tokens, slots, float(self.wants_to_stop())],
            dtype=torch.float64,
            device=loss.device,
        )
        mean = mean_over_ranks(local).tolist()
        global_batch_size = len(batch.query_hash) * world_size()
        candidates = global_batch_size * (1 if batch.negatives is None else 1 + self.config.num_negatives)
        self.stop = mean[4] > 0
        self.facts = StepFacts(
            step=batch.step + 1,
            dataset=batch.dataset,
            keys=batch.keys,
            loss=mean[0],
            negatives_per_query=candidates - 1 - mean[1] / len(batch.query_hash),
            hidden_candidates=round(mean[1] * world_size()),
            tokens=round(mean[2] * world_size()),
            padding_share=1 - mean[2] / mean[3],
            learning_rate=rate,
        )
        if not math.isfinite(mean[0]):
            raise self._not_a_number("loss", mean[0])

    def _not_a_number(self, what: str, value: float) -> Failure:
        facts = self.facts
        assert facts is not None
        shown = ", ".join(facts.keys[:8]) + (", …" if len(facts.keys) > 8 else "")
        return Failure(
            f"the {what} of step {facts.step} is {value} (data set {facts.dataset}, samples {shown}); the weights of "
            f"the last checkpoint are kept. Often the cause: a learning_rate too high ({self.config.learning_rate:g}) "
            f"or a temperature too low ({self.config.temperature:g})"
        )

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's place between backward and the optimiser step: measures the gradient, clips it if asked to."""
        limit = self.config.gradient_clip
        parameters = [p for p in self.parameters() if p.requires_grad]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit if limit is not None else math.inf))
        self.grad_norm = norm
        if not math.isfinite(norm):
            raise self._not_a_number("gradient norm", norm)

    def configure_optimizers(self) -> Optimizer:
        config = self.config
        return make_optimizer(self.encoder, learning_rate=config.learning_rate, weight_decay=config.weight_decay)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)
