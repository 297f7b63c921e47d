"""The encoder's weights out of a training checkpoint."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from jemb.errors import InputError
from jemb.run_folder import WEIGHTS


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The encoder's state dict, on the CPU. Raises InputError when the checkpoint folder has no readable weights."""
    path = checkpoint / WEIGHTS
    if not path.is_file():
        raise InputError(f"{path}: no such file, so this checkpoint cannot be used")
    try:
        return {current_name(name): value for name, value in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable checkpoint ({error})") from None


def current_name(name: str) -> str:
    """A parameter's name; in checkpoints from before encoders held a SentenceTransformer it was another."""
    return f"model.0.model.{name.removeprefix('backbone.')}" if name.startswith("backbone.") else name
