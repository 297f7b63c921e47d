"""Packed attention: the texts of a group stand one after the other, without padding, and each attends to itself alone.

Before: `encoder.py` has a padded group. After: its pooling and heads, which get token vectors padded again: padding is
left out of the layers, where the time goes. On a GPU torch's variable-length attention computes it, or FlexAttention
for T5, which has a bias by distance; elsewhere one text after the other. Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from jemb.core.errors import InputError
from jemb.core.records import Tokens, to_device

NAME = "jemb_packed"
"""Of our attention in transformers' registry."""


class Pack:
    """N texts padded to L tokens as one row of T."""

    def __init__(self, tokens: Tokens) -> None:
        self.lengths, self.longest = tokens.lengths.tolist(), tokens.input_ids.shape[1]
        length_N = to_device(torch.from_numpy(tokens.lengths), tokens.input_ids.device)
        self.end_N = length_N.cumsum(0)
        self.start_N = self.end_N - length_N
        self.text_T = torch.repeat_interleave(length_N, output_size=sum(self.lengths))
        self.position_T = torch.arange(len(self.text_T), device=length_N.device) - self.start_N[self.text_T]
        self.place_T = self.text_T * self.longest + self.position_T  # in the padded group
        self.id_T = tokens.input_ids.flatten()[self.place_T].long()
        self.attended = False

    @cached_property
    def ends(self) -> Tensor:
        """int32 [N + 1]: 0, and where each text ends."""
        return pad(self.end_N, (1, 0)).to(torch.int32)

    @cached_property
    def blocks(self) -> Any:
        """For FlexAttention: which tokens see each other."""
        from torch.nn.attention.flex_attention import create_block_mask

        text_T, total = self.text_T, len(self.text_T)
        make = torch.compile(create_block_mask)
        return make(lambda b, h, q, k: text_T[q] == text_T[k], None, None, total, total, device=text_T.device)


_pack: ContextVar[Pack] = ContextVar("pack")


def run_packed(first: Any, tokens: Tokens) -> dict[str, Any]:
    """The token vectors that sentence-transformers' Transformer `first` gives texts [N, L], computed from [1, T].

    Each text has a token at least. Raises `InputError` for a model that cannot be packed.
    """
    pack, model = Pack(tokens), first.model
    with _exchanged(model, pack):
        positions = pack.position_T + table_positions(model)[0]
        features = first({"input_ids": pack.id_T[None], "position_ids": positions[None]})
    if not pack.attended:
        raise InputError(f"{type(model).__name__} does not attend by way of transformers' interface")

    def padded(value: Any) -> Any:
        """[1, T, D] -> [N, L, D]; each in a tuple."""
        if isinstance(value, tuple):
            return tuple(map(padded, value))
        flat = value.new_zeros(tokens.input_ids.numel(), value.shape[2]).index_copy(0, pack.place_T, value[0])
        return flat.unflatten(0, tokens.input_ids.shape)

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
def _exchanged(model: nn.Module, pack: Pack) -> Iterator[None]:
    """The model attends by `attend`. Whoever uses it before or after finds it as it was."""
    configs = {id(c): c for m in model.modules() if isinstance(c := getattr(m, "config", None), PreTrainedConfig)}
    before = [(config, config._attn_implementation) for config in configs.values()]
    biased: list[Any] = [module for module in model.modules() if hasattr(module, "compute_bias")]
    token = _pack.set(pack)
    try:
        for config, _ in before:
            config._attn_implementation = NAME
        for module in biased:
            module.compute_bias = _of_length(pack.longest, module.compute_bias)
        yield
    finally:
        for module in biased:
            vars(module).pop("compute_bias", None)
        for config, name in before:
            config._attn_implementation = name
        _pack.reset(token)


def _of_length(longest: int, compute_bias: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """T5 would make one for T x T places; it depends on the distance alone, so that of the longest text has all."""
    return lambda *_, device=None, **__: compute_bias(longest, longest, device=device)


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
    pack = _pack.get()
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
    parts = []
    for q, k, v in zip(*(x.split(pack.lengths, 2) for x in (query, key, value)), strict=True):
        n = q.shape[2]
        bias = None if position_bias is None else position_bias[..., :n, :n]
        near = None
        if sliding_window and n > sliding_window:
            near = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1 - sliding_window)
            near = near.tril(0 if causal else sliding_window - 1)[None, None]
        parts.append(sdpa_attention_forward(module, q, k, v, near, dropout, scaling, causal, bias)[0])
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
        position_T, own = pack.position_T, bias[0].clone()  # a view would get no gradient, without a word

        def with_bias(score: Tensor, _: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return score + own[head, position_T[query], position_T[key]]

        flex: Any = torch.compile(flex_attention)
        return flex(q, k, v, with_bias, pack.blocks, scaling).transpose(1, 2)
    if query.is_cuda and half not in (torch.bfloat16, torch.float16):
        raise InputError("model.packing=on: on a GPU packed attention is in bf16 or fp16; use precision=bf16")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11):
        raise InputError(f"model.packing=on: on a GPU it needs torch 2.11 or newer; this is {torch.__version__}")
    from torch.nn.attention.varlen import varlen_attn

    attention: Any = varlen_attn  # it may give more than the vectors, if asked
    reach, size = window - 1 if window else -1, pack.longest
    flat = [x[0].transpose(0, 1) for x in (q, k, v)]
    sides = (reach, 0 if causal else reach)
    found: Tensor = attention(*flat, pack.ends, pack.ends, size, size, scale=scaling, window_size=sides)
    return found[None]
