"""Which candidates are no negatives at all: texts that equal a row's own query or positive.

Answered tile by tile, for the few candidates that can be hidden from any row; never as one [B, N] table.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from jemb.core.records import to_device


@dataclass(frozen=True, slots=True)
class EqualTexts:
    """Pairs (row, candidate) that share a text, as content hashes (int64).

    mine_BM: the M texts of each row: its query and its positive. theirs_KC: the C texts of each candidate that shares
    one with some row: its own, and the one it belongs with (the query of a passage, the positive of a query), for with
    that it answers the row's query, too. columns_K: where those candidates stand among all, in rising order.
    """

    mine_BM: Tensor
    theirs_KC: Tensor
    columns_K: Tensor
    positions: list[int]
    """`columns_K` once more, as plain numbers: looking a tile up must not wait for the device."""

    def in_tile(self, rows: slice, columns: slice, own: int | None) -> tuple[Tensor, Tensor] | None:
        """(K places within the tile's columns, [R, K] True = hidden), or None where nothing can be hidden.

        own: column `own + i` belongs to row i and is never hidden.
        """
        first, last = bisect_left(self.positions, columns.start), bisect_left(self.positions, columns.stop)
        if first == last:
            return None
        columns_K, theirs_KC = self.columns_K[first:last], self.theirs_KC[first:last]
        hide_RK = _share(self.mine_BM[rows], theirs_KC)
        if own is not None:
            own_R = torch.arange(own + rows.start, own + rows.stop, device=columns_K.device)
            hide_RK &= own_R[:, None] != columns_K
        return columns_K - columns.start, hide_RK


def equal_texts(
    mine_BM: Tensor, theirs_NC: Tensor, own: int | None = None, device: torch.device | None = None
) -> EqualTexts | None:
    """The pairs of rows and candidates that share a text; None if there are none.

    own: candidate `own + i` is row i itself, which it does not count against. device: where the answer is wanted; None:
    where the hashes are. These should be on the host, which waits for how many there are.
    """
    sorted_mine = mine_BM.flatten().sort().values
    theirs_NC = theirs_NC.contiguous()
    shared_N = torch.searchsorted(sorted_mine, theirs_NC, right=True) - torch.searchsorted(sorted_mine, theirs_NC)
    shared_N = shared_N.sum(1)
    if own is not None:
        rows = slice(own, own + len(mine_BM))
        shared_N[rows] -= (mine_BM[:, :, None] == theirs_NC[rows, None, :]).sum((1, 2))
    columns_K = shared_N.nonzero().squeeze(1)
    positions: list[int] = columns_K.tolist()
    if not positions:
        return None
    mine_BM, theirs_KC, columns_K = (
        to_device(x, device or x.device) for x in (mine_BM, theirs_NC[columns_K], columns_K)
    )
    return EqualTexts(mine_BM, theirs_KC, columns_K, positions)


def _share(mine_RM: Tensor, theirs_KC: Tensor) -> Tensor:
    """[R, K], True where the two have a text in common."""
    found_RK = torch.zeros(len(mine_RM), len(theirs_KC), dtype=torch.bool, device=mine_RM.device)
    for mine_R in mine_RM.unbind(1):
        for theirs_K in theirs_KC.unbind(1):
            found_RK |= mine_R[:, None] == theirs_K
    return found_RK
