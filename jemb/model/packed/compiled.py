"""The backbone as torch compiles it (`model.compile=true`), and attention within texts as one operation of what is
compiled, for devices whose kernels for it the compiler does not know.

Before: `packing.py` has one row of texts, whose number of tokens is one of a few. After: the same vectors and
gradients, from fewer kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from jemb.core.errors import InputError

BACKEND = "inductor"
"""Of torch.compile."""
MOST_SHAPES = 64
"""Of rows; each is compiled for itself."""


@contextmanager
def run_compiled(model: Any) -> Iterator[None]:
    """Calls of the model run what torch makes of it: one piece, compiled anew for each number of tokens.

    Raises InputError where it has dropout, cannot be compiled in one piece, or has more than `MOST_SHAPES` shapes.
    """
    if model.training and any(isinstance(part, torch.nn.Dropout) and part.p for part in model.modules()):
        raise InputError("model.compile=true has no dropout; use model.dropout=0")
    before = vars(model).get("forward")
    model.forward = torch.compile(model.forward, fullgraph=True, dynamic=False, backend=BACKEND)
    # DDP would have the graph cut where its buckets end; what they bring is little after the last group of several.
    settings: Any = {"recompile_limit": MOST_SHAPES, "optimize_ddp": False}
    try:
        with torch._dynamo.config.patch(**settings):
            yield
    except (TorchDynamoException, FailOnRecompileLimitHit) as error:
        several = isinstance(error, FailOnRecompileLimitHit)
        why = f"texts of more than {MOST_SHAPES} lengths" if several else " ".join(str(error).split())[:300]
        raise InputError(
            f"model.compile=true: torch {torch.__version__} cannot compile {type(model).__name__}: {why}; use "
            "model.compile=false"
        ) from error
    finally:
        vars(model).pop("forward")
        if before is not None:
            model.forward = before


def near(count: int, causal: bool, window: int, device: torch.device) -> Tensor:
    """[count, count], True where a token sees another: itself and those before it, or all; fewer than `window` away, 0:
    however far."""
    seen = torch.ones(count, count, dtype=torch.bool, device=device)
    if window:
        seen = seen.triu(1 - window).tril(window - 1)
    return seen.tril() if causal else seen


@torch.library.custom_op(
    "jemb::attend",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor ends, float scale, bool causal, int window) -> Tensor",
)
def attend_within(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, ends: Tensor, scale: float, causal: bool, window: int
) -> Tensor:
    """Attention of each text to itself: [1, heads, T, d] each -> [1, T, heads, d].

    bias: [1, heads, L, L] by places within the text, L >= the longest; added to the scaled scores. ends: int64 [N + 1]
    on the host, 0 and where each text ends. window: as for `near`.
    """
    out = v.new_empty(1, v.shape[2], v.shape[1], v.shape[3])
    for text, shares in _shares(q, k, bias, ends, scale, causal, window):
        out[0, text] = (shares @ v[0, :, text].to(shares.dtype)).transpose(0, 1).to(v.dtype)
    return out


def _shares(
    q: Tensor, k: Tensor, bias: Tensor | None, ends: Tensor, scale: float, causal: bool, window: int
) -> Iterator[tuple[slice, Tensor]]:
    """(a text's tokens, [heads, n, n] the share of each other token in each, at least fp32)."""
    places: list[int] = ends.tolist()
    q, k = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k))
    for start, end in pairwise(places):
        text, count = slice(start, end), end - start
        scores = (q[0, :, text] * scale) @ k[0, :, text].transpose(1, 2)
        if bias is not None:
            scores = scores + bias[0, :, :count, :count]
        if causal or window:
            scores = scores.masked_fill(~near(count, causal, window, q.device), -torch.inf)
        yield text, scores.softmax(-1)


@attend_within.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, ends: Tensor, *how: Any) -> Tensor:
    return v.new_empty(1, v.shape[2], v.shape[1], v.shape[3])


@torch.library.custom_op(
    "jemb::attend_backward",
    mutates_args=(),
    schema=(
        "(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor ends, float scale, bool causal, int window) "
        "-> (Tensor, Tensor, Tensor, Tensor)"
    ),
)
def _attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    ends: Tensor,
    scale: float,
    causal: bool,
    window: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v and of the bias, which is empty where there is none."""
    grad_q, grad_k, grad_v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    grad_bias = q.new_zeros(0) if bias is None else torch.zeros_like(bias, memory_format=torch.contiguous_format)
    grad, q, k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (grad, q, k, v))
    for text, shares in _shares(q, k, bias, ends, scale, causal, window):
        wanted = grad[0, text].transpose(0, 1)
        grad_v[0, :, text] = shares.transpose(1, 2) @ wanted
        of_shares = wanted @ v[0, :, text].transpose(1, 2)
        of_scores = shares * (of_shares - (of_shares * shares).sum(-1, keepdim=True))
        grad_q[0, :, text] = scale * (of_scores @ k[0, :, text])
        grad_k[0, :, text] = scale * (of_scores.transpose(1, 2) @ q[0, :, text])
        if bias is not None:
            grad_bias[0, :, : len(wanted[0]), : len(wanted[0])] += of_scores
    return grad_q, grad_k, grad_v, grad_bias


@_attend_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *how: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    made = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
    return made[0], made[1], made[2], q.new_empty(0) if bias is None else bias.new_empty(bias.shape)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.scale, ctx.causal, ctx.window = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, bias, ends = ctx.saved_tensors
    *found, of_bias = _attend_backward(grad, q, k, v, bias, ends, ctx.scale, ctx.causal, ctx.window)
    return *found, None if bias is None else of_bias, None, None, None, None


attend_within.register_autograd(_backward, setup_context=_save)
