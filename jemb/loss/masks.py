"""Which candidates are no negatives at all: texts that equal a row's own query or positive."""

from __future__ import annotations

import torch
from torch import Tensor


def hidden_candidates(
    query_B: Tensor,
    positive_B: Tensor,
    candidate_N: Tensor,
    target_B: Tensor | None = None,
    partner_N: Tensor | None = None,
) -> Tensor:
    """[B, N], True where candidate j must not count as a negative of row i. All arguments are content hashes, int64.

    A candidate is hidden when its text equals the row's query or positive, or when the text it belongs with
    (`partner_N`: the query of a passage, the positive of a query) does: then it answers the row's query, too.
    target_B: columns that are never hidden, the rows' own.
    """
    mine_B2 = torch.stack([query_B, positive_B], dim=1)
    hide_BN = (candidate_N[None, :, None] == mine_B2[:, None, :]).any(-1)
    if partner_N is not None:
        hide_BN |= (partner_N[None, :, None] == mine_B2[:, None, :]).any(-1)
    if target_B is not None:
        hide_BN.scatter_(1, target_B[:, None], False)
    return hide_BN
