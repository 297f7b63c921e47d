"""All texts of a training step in one go, sorted by length, so that hardly anything computed is padding.

Before: `data/collate.py` has tokenised this rank's share of a global batch. After: `loss/` takes the vectors.
"""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from jemb.core.records import Tokens
from jemb.model.encoder import Encoder

ROWS = {"cpu": 32, "cuda": 512}
"""Texts in one call of the encoder: few where padding costs most, many where a call does."""


def encode_together(
    encoder: Encoder,
    texts: Sequence[Tokens],
    micro_batch_size: int | None = None,
    micro_batch_tokens: int | None = None,
    agree: Callable[[int], int] | None = None,
) -> tuple[list[Tensor], int]:
    """(unit vectors [N_i, D] of each of `texts`, token slots computed, padding included).

    The rows of all `texts` are sorted by length and encoded in groups, each cut to its longest row. With
    `micro_batch_size` that many rows are a group, with `micro_batch_tokens` as many as have that many token slots (but
    at least one); then the groups' activations are computed again in backward: the memory of one group, the gradient of
    all (gradient caching, arXiv 2101.06983). At most one of the two may be given.
    agree: the largest of a number over all ranks. Where ranks share weights, each must call the encoder equally often,
    and with `micro_batch_tokens` the number of groups depends on the texts; every rank must have equally many rows.
    """

    def encode(*group: Tensor) -> Tensor:
        if again and device.type == "cpu":  # also when a group is computed again in backward
            _freed_memory.give_back()
        half = torch.is_autocast_enabled(device.type)
        with (
            # Weights are cast for each group: all groups would share a cast one, whose gradient is summed in bf16.
            torch.autocast(device.type, torch.get_autocast_dtype(device.type), half, cache_enabled=False),
            _Fp32Attention() if half and device.type == "cpu" else nullcontext(),
        ):
            return encoder(Tokens(*group))

    device = texts[0].input_ids.device
    again = bool(micro_batch_size or micro_batch_tokens)
    longest = max(t.input_ids.shape[1] for t in texts)
    ids = torch.cat([pad(t.input_ids, (0, longest - t.input_ids.shape[1])) for t in texts])
    mask = torch.cat([pad(t.attention_mask, (0, longest - t.attention_mask.shape[1])) for t in texts])
    prompts = None
    if any(t.prompt_lengths is not None for t in texts):
        none = [t.input_ids.new_zeros(len(t.input_ids)) for t in texts]
        prompts = torch.cat(
            [n if t.prompt_lengths is None else t.prompt_lengths for t, n in zip(texts, none, strict=True)]
        )
    lengths, order = mask.sum(1).sort(descending=True, stable=True)
    widths = lengths.clamp(min=1).tolist()
    if micro_batch_tokens:
        sizes = groups_within(micro_batch_tokens, widths)
        sizes = split_into(agree(len(sizes)), sizes) if agree else sizes
    else:
        size = micro_batch_size or ROWS.get(device.type, len(ids))
        sizes = [min(size, len(ids) - start) for start in range(0, len(ids), size)]
    parts, slots, start = [], 0, 0
    for rows in order.split(sizes):
        width = widths[start]
        group = [ids[rows, :width], mask[rows, :width], *([] if prompts is None else [prompts[rows]])]
        # Plain tensors: from them `checkpoint` learns on which device to restore the random state of the dropout.
        parts.append(checkpoint(encode, *group, use_reentrant=False) if again else encode(*group))
        slots += len(rows) * width
        start += len(rows)
    vectors = torch.cat(parts)[order.argsort()]
    return list(vectors.split([len(t.input_ids) for t in texts])), slots


class _Fp32Attention(TorchFunctionMode):
    """Computes attention in fp32 where all else is bf16 on a CPU: torch's backward of it in bf16 takes many times as
    long there, more than all that bf16 saves (`docs/log.md`)."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is not scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        named = {name: _fp32(value) for name, value in (kwargs or {}).items()}
        with torch.autocast("cpu", enabled=False):
            return function(*map(_fp32, args), **named).to(args[0].dtype)


def _fp32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


class _FreedMemory:
    """Has glibc give freed memory back whenever the process has grown by `SLACK`.

    By itself glibc keeps the freed activations of each group in pieces that do not fit the next one's: without this, a
    batch of 128 groups took six times the memory of one (benchmarks/training.md). Does nothing without glibc or /proc.
    """

    SLACK = 256 << 20
    """Bytes. Less costs more time: giving back means fetching anew."""

    def __init__(self) -> None:
        self._held = 0

    def give_back(self) -> None:
        with suppress(OSError, AttributeError):
            if self._resident() - self._held > self.SLACK:
                ctypes.CDLL("libc.so.6").malloc_trim(0)
                self._held = self._resident()

    @staticmethod
    def _resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


_freed_memory = _FreedMemory()


def groups_within(budget: int, widths: Sequence[int]) -> list[int]:
    """Rows of each group when rows of these widths, widest first, are taken in order, a group's rows times its first
    width never above `budget` but for a single row."""
    sizes: list[int] = []
    start = 0
    while start < len(widths):
        sizes.append(min(max(1, budget // widths[start]), len(widths) - start))
        start += sizes[-1]
    return sizes


def split_into(count: int, sizes: Sequence[int]) -> list[int]:
    """The same rows in `count` groups: the largest ones are halved. len(sizes) <= count <= sum(sizes)."""
    sizes = list(sizes)
    while len(sizes) < count:
        largest = max(range(len(sizes)), key=sizes.__getitem__)
        half = sizes[largest] // 2
        sizes[largest : largest + 1] = [half, sizes[largest] - half]
    return sizes
