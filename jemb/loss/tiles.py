"""Log-sum-exp over many candidates without ever holding their logits: one tile of rows x candidates at a time.

For B rows of D numbers and N candidates it needs O((B + N) * D) memory, not O(B * N): forward keeps one number a row
(running maximum and sum, as in arXiv 1805.02867), backward computes each tile again (as in arXiv 2205.14135).
Cost: one matrix product forward, three backward; a fixed order of work, so the same result every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from jemb.loss.masks import EqualTexts

TILE = {"cpu": (512, 1024)}
"""Rows and candidates of a tile by device: 2 MB, which stay in a core's cache. `benchmarks/loss_memory.py --tile` tells
what another costs."""
LARGE_TILE = (2048, 4096)
"""On every other device: 32 MB, enough work for one kernel; not measured."""


class LogSumExp(NamedTuple):
    """values_B: ln of the sum over the candidates that are not hidden; -inf where none is left.
    hidden: how many candidates of all rows together are hidden; int64 scalar. candidates: how many each row has, hidden
    ones included. A row's own counts in neither.
    """

    values_B: Tensor
    hidden: Tensor
    candidates: int


def log_sum_exp(
    q_BD: Tensor,
    c_ND: Tensor,
    temperature: float,
    *,
    own: int | None = None,
    equal: EqualTexts | None = None,
    limit_B: Tensor | None = None,
    tile: tuple[int, int] | None = None,
) -> LogSumExp:
    """ln sum_j exp(q_i.c_j / temperature) for each row i, over the candidates j that are not left out.

    q_BD, c_ND: unit vectors, so that q.c is the cosine; computed in fp32 (float64 if both are) whatever they come in.
    temperature: > 0. own: column `own + i` is left out for row i, 0 <= own <= N - B; None: no such column.
    equal: candidates hidden because of their text. limit_B: a candidate with q.c > limit is hidden; no gradient.
    tile: rows and candidates computed at once. Gradients reach q and c, once: no second derivative.
    """
    if own is not None and not 0 <= own <= c_ND.shape[0] - q_BD.shape[0]:
        raise ValueError(f"own={own}: {q_BD.shape[0]} rows from there on are not in {c_ND.shape[0]} candidates")
    q_BD, c_ND = in_full_precision(q_BD), in_full_precision(c_ND)
    limit_B1 = None if limit_B is None else (limit_B.detach().to(q_BD.dtype) / temperature)[:, None]
    shape = tile or TILE.get(q_BD.device.type, LARGE_TILE)
    values_B, hidden = _LogSumExp.apply(q_BD, c_ND, _Tiles(1 / temperature, own, equal, limit_B1, shape))
    return LogSumExp(values_B, hidden, len(c_ND) - (own is not None))


def in_full_precision(x: Tensor) -> Tensor:
    """fp32, or float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True, slots=True)
class _Tiles:
    scale: float
    own: int | None
    equal: EqualTexts | None
    limit_B1: Tensor | None
    shape: tuple[int, int]

    def walk(self, q_BD: Tensor, c_ND: Tensor) -> Iterator[tuple[slice, slice, Tensor, Tensor | None]]:
        """(rows, columns, logits with -inf for what is left out, number hidden); each tile overwrites the one before.
        A NaN or infinity in the vectors comes through."""
        height, width = min(self.shape[0], len(q_BD)), min(self.shape[1], len(c_ND))
        buffer = q_BD.new_empty(height * width)
        for rows in _slices(len(q_BD), height):
            x_RD = q_BD[rows] * self.scale
            for columns in _slices(len(c_ND), width):
                candidates_TD = c_ND[columns]
                tile_RT = buffer[: len(x_RD) * len(candidates_TD)].view(len(x_RD), len(candidates_TD))
                torch.mm(x_RD, candidates_TD.T, out=tile_RT)  # autocast leaves operations with `out` alone
                yield rows, columns, tile_RT, self._leave_out(tile_RT, rows, columns)

    def _leave_out(self, tile_RT: Tensor, rows: slice, columns: slice) -> Tensor | None:
        counts = []
        if self.equal is not None and (found := self.equal.in_tile(rows, columns, self.own)):
            within_K, hide_RK = found
            tile_RT.index_copy_(1, within_K, tile_RT[:, within_K].masked_fill_(hide_RK, -torch.inf))
            counts.append(hide_RK.sum())
        if self.own is not None:
            first = self.own + rows.start - columns.start
            if -tile_RT.shape[0] < first < tile_RT.shape[1]:
                tile_RT.diagonal(first).fill_(-torch.inf)
        if self.limit_B1 is not None:
            hide_RT = tile_RT > self.limit_B1[rows]
            tile_RT.masked_fill_(hide_RT, -torch.inf)
            counts.append(hide_RT.sum())
        return torch.stack(counts).sum() if counts else None


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BD: Tensor, c_ND: Tensor, tiles: _Tiles) -> tuple[Tensor, Tensor]:
        # The least finite number, not -inf: a row without any candidate so far must not give inf - inf.
        top_B1 = q_BD.new_full((len(q_BD), 1), torch.finfo(q_BD.dtype).min)
        sum_B1 = torch.zeros_like(top_B1)
        hidden = torch.zeros((), dtype=torch.int64, device=q_BD.device)
        for rows, _, tile_RT, count in tiles.walk(q_BD, c_ND):
            top_R1 = torch.maximum(top_B1[rows], tile_RT.amax(1, keepdim=True))
            sum_B1[rows] *= (top_B1[rows] - top_R1).exp_()
            sum_B1[rows] += tile_RT.sub_(top_R1).exp_().sum(1, keepdim=True)
            top_B1[rows] = top_R1
            if count is not None:
                hidden += count
        ctx.tiles = tiles
        # Not the logarithm: its rounding would make a row's shares add up to 1 less exactly than a softmax's do.
        ctx.save_for_backward(q_BD, c_ND, top_B1, sum_B1)
        ctx.mark_non_differentiable(hidden)
        return (top_B1 + sum_B1.log()).squeeze(1), hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        q_BD, c_ND, top_B1, sum_B1 = ctx.saved_tensors
        tiles: _Tiles = ctx.tiles
        # A row without candidates, of sum 0, has no gradient.
        scaled_B1 = grads[0][:, None] * tiles.scale / sum_B1.masked_fill(sum_B1 == 0, torch.inf)
        grad_q_BD = torch.zeros_like(q_BD) if ctx.needs_input_grad[0] else None
        grad_c_ND = torch.zeros_like(c_ND) if ctx.needs_input_grad[1] else None
        wanted_BD = q_BD * scaled_B1
        for rows, columns, tile_RT, _ in tiles.walk(q_BD, c_ND):
            share_RT = tile_RT.sub_(top_B1[rows]).exp_()
            if grad_q_BD is not None:
                grad_q_BD[rows].addmm_(share_RT, c_ND[columns])
            if grad_c_ND is not None:
                grad_c_ND[columns].addmm_(share_RT.T, wanted_BD[rows])
        if grad_q_BD is not None:
            grad_q_BD *= scaled_B1
        return grad_q_BD, grad_c_ND, None


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, max(1, size)))
