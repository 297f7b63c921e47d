"""The optimiser and its learning rate."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def make_optimizer(model: nn.Module, *, learning_rate: float, weight_decay: float) -> Optimizer:
    """AdamW; matrices decay, biases and norm scales (fewer than two dimensions) do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=learning_rate)


def rate_factor(schedule: str, *, warmup_steps: int, max_steps: int) -> Callable[[int], float]:
    """step (0-based) -> share of the peak learning rate: linear warm-up, then `constant` or `linear` down to 0.

    The first step already moves: its factor is 1 / warmup_steps, the last step's is 1 / (max_steps - warmup_steps).
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if schedule == "constant":
            return 1.0
        return max(0.0, (max_steps - step) / max(1, max_steps - warmup_steps))

    return factor


def make_schedule(optimizer: Optimizer, schedule: str, *, warmup_steps: int, max_steps: int) -> LambdaLR:
    return LambdaLR(optimizer, rate_factor(schedule, warmup_steps=warmup_steps, max_steps=max_steps))
