"""The two objectives of the paper over the global batch: L_pairs and L_triplets (arXiv 2307.11224, section 3).

B local rows; N = W*B rows of all ranks, this rank's at `offset`; K negatives a row, M = W*B*K of all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jemb.loss.contrastive import info_nce, margin_loss
from jemb.loss.masks import hidden_candidates


@dataclass(frozen=True, slots=True)
class Rows:
    """Unit vectors and content hashes of one text of each row: this rank's, and all ranks' in rank order."""

    local_BD: Tensor
    all_ND: Tensor
    hash_B: Tensor
    hash_N: Tensor


def pair_loss(
    query: Rows, positive: Rows, *, offset: int, temperature: float, mask_equal_texts: bool
) -> tuple[Tensor, Tensor]:
    """L_pairs: each query finds its positive among all positives, plus each positive its query among all queries.

    Returns (scalar loss, number of hidden candidates of this rank's rows in the first term).
    """
    target_B = _targets(query, offset)
    hide_qp = hide_pq = None
    if mask_equal_texts:
        mine = query.hash_B, positive.hash_B
        hide_qp = hidden_candidates(*mine, positive.hash_N, target_B, partner_N=query.hash_N)
        hide_pq = hidden_candidates(*mine, query.hash_N, target_B, partner_N=positive.hash_N)
    loss = info_nce(query.local_BD, positive.all_ND, target_B, temperature, hide_qp)
    loss = loss + info_nce(positive.local_BD, query.all_ND, target_B, temperature, hide_pq)
    return loss, _count(hide_qp, query)


def triplet_loss(
    query: Rows,
    positive: Rows,
    negatives: Rows,
    *,
    offset: int,
    temperature: float,
    margin: float,
    mask_equal_texts: bool,
) -> tuple[Tensor, Tensor]:
    """L_triplets: the first term of L_pairs with all ranks' hard negatives among the candidates, its second term, and
    a margin between each row's own negatives and its positive.

    negatives: B*K local rows, row-major. Returns (scalar loss, number of hidden candidates in the first term).
    """
    target_B = _targets(query, offset)
    hide_qc = hide_pq = None
    if mask_equal_texts:
        mine = query.hash_B, positive.hash_B
        hide_qp = hidden_candidates(*mine, positive.hash_N, target_B, partner_N=query.hash_N)
        hide_qn = hidden_candidates(*mine, negatives.hash_N)
        hide_qc = torch.cat([hide_qp, hide_qn], dim=1)
        hide_pq = hidden_candidates(*mine, query.hash_N, target_B, partner_N=positive.hash_N)
    candidates_CD = torch.cat([positive.all_ND, negatives.all_ND])
    loss = info_nce(query.local_BD, candidates_CD, target_B, temperature, hide_qc)
    loss = loss + info_nce(positive.local_BD, query.all_ND, target_B, temperature, hide_pq)
    negatives_BKD = negatives.local_BD.unflatten(0, (target_B.numel(), -1))
    loss = loss + margin_loss(query.local_BD, positive.local_BD, negatives_BKD, margin)
    return loss, _count(hide_qc, query)


def _targets(query: Rows, offset: int) -> Tensor:
    """The columns of this rank's own rows among all ranks' rows."""
    return offset + torch.arange(query.local_BD.shape[0], device=query.local_BD.device)


def _count(hide: Tensor | None, query: Rows) -> Tensor:
    return hide.sum() if hide is not None else torch.zeros((), dtype=torch.long, device=query.local_BD.device)
