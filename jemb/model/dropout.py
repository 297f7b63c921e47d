"""Dropout is a setting of the training, not of the model: saved configurations keep the model's own."""

from __future__ import annotations

from numbers import Real
from typing import Any

from torch import nn


def set_dropout(config: Any, dropout: float) -> dict[str, float]:
    """Set every dropout field of a Hugging Face configuration; returns the old value of each changed field.

    Must come before the model is built: attention layers copy the number. Layer drop and stochastic depth
    are not dropout of units: they are switched off, so `dropout=0` leaves nothing random in the forward pass.
    """
    own: dict[str, float] = {}
    for name, value in config.to_dict().items():
        if isinstance(value, bool) or not isinstance(value, Real):
            continue
        if "layerdrop" in name or "drop_path" in name:
            new = 0.0
        elif "dropout" in name or name.endswith("pdrop"):
            new = dropout
        else:
            continue
        own[name] = float(value)
        setattr(config, name, new)
    return own


def set_dropout_layers(module: nn.Module, dropout: float) -> None:
    """The same for dropout layers whose probability is in no configuration field."""
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = dropout
