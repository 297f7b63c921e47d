"""The optimiser, the learning rate of each step, and clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW, Optimizer

from jemb.config import TrainConfig

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter, besides the number of its steps."""


def make_optimizer(model: nn.Module, *, learning_rate: float, weight_decay: float) -> Optimizer:
    """AdamW in its fused form; matrices decay, biases and norm scales (fewer than two dimensions) do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=learning_rate, fused=True)


def start_moments(optimizer: Optimizer, parameters: Iterable[Tensor], steps: int) -> None:
    """Give each of `parameters` the state that AdamW would have made at its first step: moments of 0, after `steps`."""
    for p in parameters:
        optimizer.state[p] = {
            "step": torch.tensor(float(steps), dtype=torch.float32, device=p.device),
            **{name: torch.zeros_like(p) for name in MOMENTS},
        }


def clip_gradients(parameters: Iterable[Tensor], limit: float | None) -> float:
    """The L2 norm of all gradients together, whole or sharded; they are scaled down to `limit` where it is larger."""
    kept = list(parameters)
    norm = get_total_norm([p.grad for p in kept if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if limit is not None:
        clip_grads_with_norm_(kept, limit, norm)
    return float(norm)


def planned_rate(config: TrainConfig, step: int, max_steps: int) -> float:
    """Learning rate of `step` (0-based) in a run of `max_steps`."""
    return learning_rate_at(
        step,
        config.schedule,
        peak=config.learning_rate,
        warmup_steps=warmup_steps(config, max_steps),
        max_steps=max_steps,
    )


def warmup_steps(config: TrainConfig, max_steps: int) -> int:
    """Steps of linear warm-up: those of the config, else a tenth of `max_steps`."""
    return config.warmup_steps if config.warmup_steps is not None else max_steps // 10


def learning_rate_at(step: int, schedule: str, *, peak: float, warmup_steps: int, max_steps: int) -> float:
    """Learning rate of `step` (0-based): linear warm-up to `peak`, then `constant`, or down to 0: `linear`,
    `cosine`, or `wsd`, which is linear in the last tenth of the steps.

    A function of the step alone, so nothing of it is saved or restored. The first step already moves: it has
    peak / warmup_steps; the last one has peak / (max_steps - warmup_steps).
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    start = max(warmup_steps, max_steps - max(1, max_steps // 10)) if schedule == "wsd" else warmup_steps
    left = min(1.0, max(0, max_steps - step) / max(1, max_steps - start))
    return peak * (1 - math.cos(math.pi * left)) / 2 if schedule == "cosine" else peak * left
