"""The optimiser, and the learning rate of each step."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW, Optimizer


def make_optimizer(model: nn.Module, *, learning_rate: float, weight_decay: float) -> Optimizer:
    """AdamW; matrices decay, biases and norm scales (fewer than two dimensions) do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=learning_rate)


def learning_rate_at(step: int, schedule: str, *, peak: float, warmup_steps: int, max_steps: int) -> float:
    """Learning rate of `step` (0-based): linear warm-up to `peak`, then `constant`, or `linear` down to 0.

    A function of the step alone, so nothing of it is saved or restored. The first step already moves: it has
    peak / warmup_steps; the last one has peak / (max_steps - warmup_steps).
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    return peak * max(0, max_steps - step) / max(1, max_steps - warmup_steps)
