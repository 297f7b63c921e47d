"""The encoder's weights out of a training checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from jemb.core.errors import InputError
from jemb.core.files import read_json, write_json
from jemb.model.encoder import Encoder
from jemb.model.load import load_encoder
from jemb.model.lora import add_lora
from jemb.run_folder import WEIGHTS

LORA = "lora.json"
"""The options of `add_lora`, beside the model that a run begins with."""


def save_start(encoder: Encoder, folder: Path, lora: Mapping[str, Any] | None) -> None:
    """Write the model that a run begins with. lora: options of `add_lora`, which is called then; None: no adapters."""
    encoder.save(folder)
    if lora:
        write_json(folder / LORA, lora)
        add_lora(encoder, **lora)  # so that layers that are not there are said


def load_start(folder: Path, *, dropout: float | None = None, trust_remote_code: bool = False) -> Encoder:
    """The encoder that a run begins with; with adapters, for which the same numbers are drawn in any process."""
    encoder = load_encoder(str(folder), dropout=dropout, trust_remote_code=trust_remote_code)
    if (folder / LORA).is_file():
        add_lora(encoder, **read_json(folder / LORA))
    return encoder


def load_weights(encoder: Encoder, checkpoint: Path) -> None:
    """Put the weights of a checkpoint into the encoder; beside adapters, it has those of trained parameters alone.

    Raises `InputError` where they are not those of this encoder. Its files have been compared with their checksums.
    """
    weights, own = load_file(checkpoint / WEIGHTS), encoder.state_dict()
    needed = {name for name, p in encoder.named_parameters() if p.requires_grad or not encoder.lora}
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    fitting = {name for name in own.keys() & shapes.keys() if shapes[name] == own[name].shape}
    if wrong := sorted((needed | shapes.keys()) - fitting):
        raise InputError(
            f"{checkpoint / WEIGHTS}: not the weights of this model ({len(wrong)} differ: {wrong[0]} has the shape "
            f"{shapes.get(wrong[0])}, …)"
        )
    encoder.load_state_dict(weights, strict=False)
