"""The optimiser, the learning rate of each step, and clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW, Optimizer

from jemb.config import TrainConfig
from jemb.core.errors import InputError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter, besides the number of its steps."""


def make_optimizer(model: nn.Module, *, learning_rate: float, weight_decay: float) -> Optimizer:
    """AdamW in its fused form; matrices decay, biases and norm scales (fewer than two dimensions) do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = AdamW([group for group in groups if group["params"]], lr=learning_rate, fused=True)
    # It could unscale fp16's gradients itself, but they are measured and clipped before.
    optimizer._step_supports_amp_scaling = False
    return optimizer


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


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate as a function of the step alone, so that nothing of it is saved or restored.

    Linear warm-up to `peak` over `warmup_steps` (None: a tenth of `max_steps`), then by `name`: `constant`; `linear` or
    `cosine` down to 0 at `max_steps`; `wsd`, constant and in the last tenth of the steps linear down to 0. The first
    step already moves: it has peak / warmup_steps; the last one of `linear` has peak / (max_steps - warmup_steps).
    max_steps: None where it is not known yet.
    """

    name: str
    peak: float
    warmup_steps: int | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise InputError(f"schedule={self.name}: wanted one of {', '.join(SCHEDULES)}")

    def ending_at(self, steps: int) -> Schedule:
        """The same with an end: its own, else `steps`, which is -1 where a Trainer does not know."""
        if self.max_steps is None and steps <= 0 and (self.name != "constant" or self.warmup_steps is None):
            raise InputError(
                f"schedule={self.name} has to know where it ends: give max_steps to the module or the Trainer, or "
                "schedule=constant with warmup_steps"
            )
        return replace(self, max_steps=self.max_steps or max(steps, 0))

    @property
    def warmup(self) -> int:
        return self.warmup_steps if self.warmup_steps is not None else (self.max_steps or 0) // 10

    def rate(self, step: int) -> float:
        """Learning rate of `step` (0-based)."""
        return self.peak * self.share(step)

    def share(self, step: int) -> float:
        """Of the peak."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return SCHEDULES[self.name](step, self.warmup, self.max_steps or 0)


def _linear(step: int, start: int, end: int) -> float:
    return max(0, end - step) / max(1, end - start)


SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "constant": lambda step, start, end: 1.0,
    "linear": _linear,
    "cosine": lambda step, start, end: (1 + math.cos(math.pi * (1 - _linear(step, start, end)))) / 2,
    "wsd": lambda step, start, end: min(1.0, _linear(step, max(start, end - max(1, end // 10)), end)),
}
"""(step, first and last step after the warm-up) -> share of the peak learning rate."""


def schedule_of(config: TrainConfig, max_steps: int) -> Schedule:
    """That of a run of `max_steps`."""
    return Schedule(config.schedule, config.learning_rate, config.warmup_steps, max_steps)
