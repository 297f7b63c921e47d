"""The encoder's weights out of a training checkpoint."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from jemb.errors import InputError

STATE = "state.ckpt"
"""The file in a checkpoint folder that holds the weights; `train/` writes it through Lightning."""
PREFIX = "encoder."
"""What the training module calls the encoder."""


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The encoder's state dict, on the CPU. Raises InputError when the checkpoint folder has no readable state."""
    path = checkpoint / STATE
    if not path.is_file():
        raise InputError(f"{path}: no such file, so this checkpoint cannot be used")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except (RuntimeError, OSError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: not a readable checkpoint ({type(error).__name__}: {error})") from None
    return {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
