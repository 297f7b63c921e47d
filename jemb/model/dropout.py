"""Dropout is a setting of the training, not of the model: saved configurations keep the model's own."""

from __future__ import annotations

from numbers import Real
from typing import Any

from torch import nn


def dropout_fields(config: Any, dropout: float) -> tuple[dict[str, float], dict[str, float]]:
    """(the model's own, the wanted) value of every dropout field of a Hugging Face configuration, by name.

    They must be set before the model is built: attention layers copy the number. Layer drop and stochastic depth are
    not dropout of units: they are switched off, so `dropout=0` leaves nothing random in the forward pass.
    """
    own: dict[str, float] = {}
    wanted: dict[str, float] = {}
    for name, value in config.to_dict().items():
        is_whole = "layerdrop" in name or "drop_path" in name
        is_dropout = is_whole or "dropout" in name or name.endswith("pdrop")
        if is_dropout and isinstance(value, Real) and not isinstance(value, bool):
            own[name], wanted[name] = float(value), 0.0 if is_whole else dropout
    return own, wanted


def set_dropout_layers(module: nn.Module, dropout: float) -> None:
    """The same for dropout layers whose probability is in no configuration field."""
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = dropout
