"""Whether two models differ in their weights alone, so that a mean of the weights is a model of the same kind."""

from __future__ import annotations

import json
import logging
from typing import Any

import torch

from jemb.core.errors import InputError
from jemb.model import Encoder
from jemb.model.load import DROPOUT

log = logging.getLogger(__name__)

NO_MATTER = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}
"""Fields of config.json that say nothing of the vectors."""
FIRST_COUNTS = ("max_length", "truncate_dim", "prompts", "default_prompt")
"""Settings of an encoder that may differ."""


def check_alike(name: str, first: Encoder, other: str, encoder: Encoder) -> None:
    """`InputError` naming what two models differ in beside their weights: modules, config.json but for dropout,
    pooling, tokenizer, names and shapes of the weights, values of buffers that are no floating-point numbers.

    name, other: what they are called. Where length limit, prompts or `truncate_dim` differ, a warning says that those
    of the first model are taken.
    """
    apart = f"runs: {name} and {other} cannot be merged"
    ours, theirs = _facts(first), _facts(encoder)
    for what in ours | theirs:
        if ours.get(what) != theirs.get(what):
            raise InputError(f"{apart}: {what} is {ours.get(what)!r:.80} and {theirs.get(what)!r:.80}")
    one, two = first.state_dict(), encoder.state_dict()
    if names := sorted(one.keys() ^ two.keys()):
        raise InputError(f"{apart}: only {name if names[0] in one else other} has the weights {names[0]}")
    for key, value in one.items():
        if value.shape != two[key].shape:
            raise InputError(f"{apart}: {key} has shape {list(value.shape)} and {list(two[key].shape)}")
        if not value.is_floating_point() and not torch.equal(value, two[key]):
            raise InputError(f"{apart}: the numbers of {key}, which is no weight, differ")
    for what in FIRST_COUNTS:
        if (mine := getattr(first, what)) != (its := getattr(encoder, what)):
            log.warning("%s: its %s is %r; that of %s, %r, is taken", other, what, its, name, mine)


def _facts(encoder: Encoder) -> dict[str, Any]:
    """What must be equal beside the weights, by what to call it."""
    backbone = encoder.backbone
    config = backbone.config.to_dict() if backbone else {}
    tokenizer = encoder.tokenizer if encoder.static else encoder.tokenizer.backend_tokenizer
    parts = {k: part for k, part in json.loads(tokenizer.to_str()).items() if k not in ("truncation", "padding")}
    heads: list[Any] = encoder.heads
    return {
        "the list of modules": [type(module).__name__ for module in (backbone or encoder.first, *heads)],
        "the pooling": encoder.pooling,
        **{f"{k} in config.json": v for k, v in config.items() if k not in NO_MATTER and not DROPOUT.search(k)},
        **{f"{k} in tokenizer.json": v for k, v in parts.items()},
        **{
            f"module {n}": head.get_config_dict() for n, head in enumerate(heads, 1) if hasattr(head, "get_config_dict")
        },
    }
