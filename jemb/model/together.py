"""All texts of a training step in one go, sorted by length, so that hardly anything computed is padding.

Before: `data/collate.py` has tokenised this rank's share of a global batch. After: `loss/` takes the vectors.
"""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from jemb.core.records import Tokens, to_device
from jemb.model.encode import batches
from jemb.model.encoder import Encoder, at_least_fp32

ROWS = {"cpu": 32}
"""Texts in one call of the encoder: few where padding costs most."""
TOKENS = {"cuda": 65_536}
"""Token slots in one call of the encoder: many where a call costs most, whatever the length of the texts."""
COMPILED = 8192
"""The same for compiled ones where neither says how many."""
SHAPES = 8
"""Lengths of a packed and compiled row up to the most tokens that a group has. Each costs a compilation; the fewer, the
more padding."""
SLACK = 256 << 20
"""Bytes by which the process grows before freed memory is given back. Less costs more time: it is fetched anew."""
_held = 0


def encode_together(
    encoder: Encoder,
    texts: Sequence[Tokens],
    micro_batch_size: int | None = None,
    micro_batch_tokens: int | None = None,
    agree: Callable[[int], int] | None = None,
) -> tuple[list[Tensor], int]:
    """(unit vectors [N_i, D] of each of `texts`, token slots computed, padding included where there is any).

    The rows of all `texts` are sorted by length and encoded in groups, each cut to its longest row. With
    `micro_batch_size` that many rows are a group, with `micro_batch_tokens` as many as have that many token slots (but
    at least one); then the groups' activations are computed again in backward: the memory of one group, the gradient of
    all (gradient caching, arXiv 2101.06983). At most one of the two may be given.
    Without either, groups have as many rows or token slots as suit the device, and nothing is computed again.
    agree: the largest of a number over all ranks. Where ranks share weights, each must call the encoder equally often,
    and with groups by tokens their number depends on the texts; every rank must have equally many rows.
    """

    def encode(*group: Any) -> Tensor:
        if again and device.type == "cpu":  # also when a group is computed again in backward
            _give_freed_memory_back()
        half = torch.is_autocast_enabled(device.type)
        with (
            # Weights are cast for each group: all groups would share a cast one, whose gradient is summed in bf16.
            torch.autocast(device.type, torch.get_autocast_dtype(device.type), half, cache_enabled=False),
            _Fp32Attention() if half and device.type == "cpu" and not compiled_for else nullcontext(),
        ):
            return encoder(Tokens(*group), compiled_for)

    device = texts[0].input_ids.device
    again = bool(micro_batch_size or micro_batch_tokens)
    longest = max(t.input_ids.shape[1] for t in texts)
    ids = torch.cat([pad(t.input_ids, (0, longest - t.input_ids.shape[1])) for t in texts])
    lengths, prompts = np.concatenate([t.lengths for t in texts]), None
    if any(t.prompt_lengths is not None for t in texts):
        prompts = np.concatenate([0 * t.lengths if t.prompt_lengths is None else t.prompt_lengths for t in texts])
    order = np.argsort(-lengths, kind="stable")
    widths = lengths[order].clip(min=1)
    most = micro_batch_tokens or (None if micro_batch_size else TOKENS.get(device.type))
    rows = len(ids) if most else micro_batch_size or ROWS.get(device.type, len(ids))
    compiled_for = max(1, (most or COMPILED) // SHAPES) if encoder.compiled and encoder.packed else None
    sizes = [len(group) for group in batches(widths, most, rows, padding=1)]
    if agree and most:
        sizes = split_into(agree(len(sizes)), sizes)
    order_N = to_device(torch.from_numpy(order), device)
    every = Tokens(ids[order_N], lengths[order], None if prompts is None else prompts[order])
    parts, slots, start = [], 0, 0
    for size in sizes:
        part = every.rows(slice(start, start + size), widths[start])
        # The ids by themselves: from them `checkpoint` learns on which device to restore the random state of dropout.
        group = part.input_ids, part.lengths, part.prompt_lengths
        parts.append(checkpoint(encode, *group, use_reentrant=False) if again else encode(*group))
        computed = int(widths[start : start + size].sum()) if encoder.packed else part.input_ids.numel()
        slots += computed + -computed % (compiled_for or 1)
        start += size
    vectors = torch.cat(parts)[order_N.argsort()]
    return list(vectors.split([len(t.input_ids) for t in texts])), slots


class _Fp32Attention(TorchFunctionMode):
    """Computes attention in fp32 where all else is bf16 on a CPU: torch's backward of it in bf16 takes many times as
    long there, more than all that bf16 saves (`docs/log.md`)."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        named = {name: at_least_fp32(value) for name, value in (kwargs or {}).items()}
        with torch.autocast("cpu", enabled=False):
            return function(*map(at_least_fp32, args), **named).to(args[0].dtype)


def _give_freed_memory_back() -> None:
    """By itself glibc keeps the freed activations of each group in pieces that do not fit the next one's: a batch of
    128 groups took six times the memory of one (benchmarks/training.md). Does nothing without glibc or /proc."""
    global _held
    with suppress(OSError, AttributeError):
        if _resident() - _held > SLACK:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            _held = _resident()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def split_into(count: int, sizes: Sequence[int]) -> list[int]:
    """The same rows in `count` groups: the largest ones are halved. len(sizes) <= count <= sum(sizes)."""
    sizes = list(sizes)
    while len(sizes) < count:
        largest = max(range(len(sizes)), key=sizes.__getitem__)
        half = sizes[largest] // 2
        sizes[largest : largest + 1] = [half, sizes[largest] - half]
    return sizes
