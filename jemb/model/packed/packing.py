"""Packed attention: the texts of a group stand one after the other, without padding, and each attends to itself alone.

Before: `encoder.py` has a padded group. After: its pooling and heads, which get token vectors padded again: padding is
left out of the layers, where the time goes. On a GPU torch's variable-length attention computes it, or FlexAttention
for T5, which has a bias by distance; elsewhere one text after the other. Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from jemb.core.errors import InputError
from jemb.core.records import Tokens, to_device
from jemb.model.packed.compiled import attend_within, near, run_compiled

NAME = "jemb_packed"
"""Of our attention in transformers' registry."""
BLOCK = 128
"""Tokens of a block of FlexAttention."""
HAS_VARLEN = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)
"""Whether torch has attention of many lengths as it is called here."""


class Pack:
    """N texts padded to L tokens as one row of T.

    multiple: T is rounded up to one of it by further texts of padding, none of them longer than L, so that few shapes
    occur; the longest text counts as one of a multiple of `BLOCK` tokens then. 1: T is the number of tokens.
    """

    def __init__(self, tokens: Tokens, multiple: int = 1) -> None:
        device, self.longest = tokens.input_ids.device, tokens.input_ids.shape[1]
        total = int(tokens.lengths.sum())
        self.rest = -total % multiple
        padding = np.diff(np.append(np.arange(0, self.rest, self.longest), self.rest))
        self.host_lengths = np.append(tokens.lengths, padding).astype(np.int64)
        length_N = to_device(torch.from_numpy(self.host_lengths), device)
        self.end_N = length_N.cumsum(0)
        self.start_N = self.end_N - length_N
        self.text_T = torch.repeat_interleave(length_N, output_size=total + self.rest)
        self.position_T = torch.arange(total + self.rest, device=device) - self.start_N[self.text_T]
        self.place_T = (self.text_T * self.longest + self.position_T)[:total]  # in the padded group
        self.id_T = pad(tokens.input_ids.flatten()[self.place_T].long(), (0, self.rest))
        if multiple > 1:
            self.longest += -self.longest % BLOCK
        self.attended = False

    @cached_property
    def lengths(self) -> list[int]:
        """Of the texts."""
        found: list[int] = self.host_lengths.tolist()
        return found

    @cached_property
    def ends(self) -> Tensor:
        """int32 [N + 1]: 0, and where each text ends."""
        return pad(self.end_N, (1, 0)).to(torch.int32)

    @cached_property
    def host_ends(self) -> Tensor:
        """The same on the host, int64."""
        return torch.from_numpy(np.append(0, self.host_lengths.cumsum()))

    @cached_property
    def blocks(self) -> BlockMask:
        """For FlexAttention: which tokens see each other. Texts stand one after the other, so a block of tokens sees
        those from the first token of its first text to the last one of its last text."""
        text_T, total = self.text_T, len(self.text_T)
        count = -(-total // BLOCK)
        firsts_K = torch.arange(count, device=text_T.device) * BLOCK
        lasts_K = (firsts_K + BLOCK - 1).clamp(max=total - 1)
        low_K = self.start_N[text_T[firsts_K]] // BLOCK
        number_K = (self.end_N[text_T[lasts_K]] - 1) // BLOCK - low_K + 1
        # Those that are seen come first, the others in any order.
        column_KK = (low_K[:, None] + torch.arange(count, device=text_T.device)) % count
        return BlockMask.from_kv_blocks(
            number_K[None, None].to(torch.int32),
            column_KK[None, None].to(torch.int32),
            BLOCK_SIZE=BLOCK,
            mask_mod=lambda b, h, q, k: text_T[q] == text_T[k],
            seq_lengths=(total, total),
        )


class _Current:
    """pack: that of the call under way. A plain object, because what is compiled cannot ask a `ContextVar`."""

    pack: Pack | None = None


_current = _Current()


def run_packed(first: Any, tokens: Tokens, compiled_for: int | None = None) -> dict[str, Any]:
    """The token vectors that sentence-transformers' Transformer `first` gives texts [N, L], computed from [1, T].

    Each text has a token at least. compiled_for: compile the backbone, with T rounded up to a multiple of that; None:
    it is run as it is. Raises `InputError` for a model that cannot be packed, or not be compiled.
    """
    pack, model = Pack(tokens, compiled_for or 1), first.model
    with _exchanged(model, pack, compiled_for is not None):
        positions = pack.position_T + table_positions(model)[0]
        features = first({"input_ids": pack.id_T[None], "position_ids": positions[None]})
    if not pack.attended:
        raise InputError(f"{type(model).__name__} does not attend by way of transformers' interface")

    def padded(value: Any) -> Any:
        """[1, T, D] -> [N, L, D]; each in a tuple."""
        if isinstance(value, tuple):
            return tuple(map(padded, value))
        flat = value.new_zeros(tokens.input_ids.numel(), value.shape[2])
        return flat.index_copy(0, pack.place_T, value[0, : len(pack.place_T)]).unflatten(0, tokens.input_ids.shape)

    return {name: padded(value) for name, value in features.items() if name.endswith("_embeddings")}


def table_positions(model: nn.Module) -> tuple[int, int | None]:
    """(position of a text's first token: RoBERTa and its kin count from the padding id on; how many there are from it
    on, None where the model has no table of them)."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return first, module.num_embeddings - first
    return 0, None


@contextmanager
def _exchanged(model: nn.Module, pack: Pack, compiled: bool) -> Iterator[None]:
    """The model attends by `attend`. Whoever uses it before or after finds it as it was."""
    configs = {id(c): c for m in model.modules() if isinstance(c := getattr(m, "config", None), PreTrainedConfig)}
    before = [(config, config._attn_implementation) for config in configs.values()]
    biased: list[Any] = [module for module in model.modules() if hasattr(module, "compute_bias")]
    outer, _current.pack = _current.pack, pack
    try:
        for config, _ in before:
            config._attn_implementation = NAME
        for module in biased:
            module.compute_bias = _of_length(module)
        if compiled:
            torch._dynamo.mark_dynamic(pack.host_ends, 0)
            torch._dynamo.mark_dynamic(pack.ends, 0)
            if biased and has_kernels(pack.id_T.device):
                _ = pack.blocks
        with run_compiled(model) if compiled else nullcontext():
            yield
    finally:
        for module in biased:
            vars(module).pop("compute_bias", None)
        for config, name in before:
            config._attn_implementation = name
        _current.pack = outer


def _of_length(module: Any) -> Callable[..., Tensor]:
    """T5 would make one for T x T places; it depends on the distance alone, so that of the longest text has all."""

    def compute_bias(*_: Any, device: Any = None, **__: Any) -> Tensor:
        longest = _current.pack.longest  # type: ignore[union-attr]
        found: Tensor = type(module).compute_bias(module, longest, longest, device=device)
        return found

    return compute_bias


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    position_bias: Tensor | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """As transformers' attention interface has it: query [1, heads, T, d] -> [1, T, heads, d]."""
    pack = _current.pack
    assert pack is not None
    pack.attended = True
    unknown = [name for name in ("softcap", "s_aux") if more.get(name) is not None]
    if unknown or attention_mask is not None:
        raise InputError(f"{type(module).__name__} attends with {unknown[0] if unknown else 'a mask of its own'}")
    decoder = getattr(module, "is_causal", True)
    causal = bool(decoder if is_causal is None else is_causal)
    if sliding_window and decoder and not causal:  # model.attention=bidirectional: masks then count a window without
        sliding_window += 1  # the token itself, which all others have counted in
    if has_kernels(query.device):
        return _by_kernels(query, key, value, pack, dropout, scaling, causal, sliding_window, position_bias), None
    if torch.compiler.is_compiling():
        groups, scale = query.shape[1] // key.shape[1], query.shape[3] ** -0.5 if scaling is None else scaling
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        window = sliding_window or 0
        return attend_within(query, key, value, position_bias, pack.host_ends, scale, causal, window), None
    parts = []
    for q, k, v in zip(*(x.split(pack.lengths, 2) for x in (query, key, value)), strict=True):
        n = q.shape[2]
        bias = None if position_bias is None else position_bias[..., :n, :n]
        window = sliding_window if sliding_window and n > sliding_window else 0
        seen = near(n, causal, window, q.device)[None, None] if window else None
        parts.append(sdpa_attention_forward(module, q, k, v, seen, dropout, scaling, causal, bias)[0])
    return torch.cat(parts, 1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)


def has_kernels(device: torch.device) -> bool:
    """Whether torch has attention within texts of many lengths there."""
    return device.type == "cuda"


def _by_kernels(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pack: Pack,
    dropout: float,
    scaling: float | None,
    causal: bool,
    window: int | None,
    bias: Tensor | None,
) -> Tensor:
    """Flash attention of many lengths, or FlexAttention where there is a bias [1, heads, L, L]."""
    if dropout:
        raise InputError("model.packing=on: on a GPU packed attention has no dropout; use model.dropout=0")
    device = query.device.type
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    groups = query.shape[1] // key.shape[1]
    q, k, v = query.to(half), repeat_kv(key, groups).to(half), repeat_kv(value, groups).to(half)
    if bias is not None:
        from torch.nn.attention.flex_attention import flex_attention

        if causal or window:
            raise InputError("packed attention with a bias by distance is to all tokens of a text")
        position_T = pack.position_T
        own = bias[0].clone(memory_format=torch.contiguous_format)  # a view would get no gradient, without a word

        def with_bias(score: Tensor, _: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return score + own[head, position_T[query], position_T[key]]

        flex: Any = flex_attention if torch.compiler.is_compiling() else torch.compile(flex_attention)
        return flex(q, k, v, with_bias, pack.blocks, scaling).transpose(1, 2)
    if query.is_cuda and half not in (torch.bfloat16, torch.float16):
        raise InputError("model.packing=on: on a GPU packed attention is in bf16 or fp16; use precision=bf16")
    if not HAS_VARLEN:
        raise InputError(f"model.packing=on: on a GPU it needs torch 2.11 or newer; this is {torch.__version__}")
    from torch.nn.attention.varlen import varlen_attn

    attention: Any = varlen_attn  # it may give more than the vectors, if asked
    reach, size = window - 1 if window else -1, pack.longest
    flat = [x[0].transpose(0, 1) for x in (q, k, v)]
    sides = (reach, 0 if causal else reach)
    found: Tensor = attention(*flat, pack.ends, pack.ends, size, size, scale=scaling, window_size=sides)
    return found[None]
