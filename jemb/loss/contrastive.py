"""The two terms every objective is made of, from similarities and log-sum-exps (`tiles.py`).

Shapes: B local rows, K negatives a row, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import relu

from jemb.loss.tiles import in_full_precision


def info_nce(own_B: Tensor, others: Sequence[Tensor], times: int = 1) -> Tensor:
    """Mean over B of -ln(e^own / (times * e^own + the others)) (InfoNCE, arXiv 1807.03748). A scalar.

    own_B: cosine of each row and its own candidate over the temperature. others: log-sum-exps [B] of sets of further
    candidates, -inf for an empty one; without any the loss is ln(times).
    times: how often the own candidate stands in the denominator.
    """
    # Relative to the own logit, a row whose every candidate is hidden has a loss of exactly 0, and a gradient of 0.
    start_B = torch.full_like(own_B, math.log(times))
    return torch.stack([start_B, *(other_B - own_B for other_B in others)]).logsumexp(0).mean()


def margin_loss(
    q_BD: Tensor,
    p_BD: Tensor,
    n_BKD: Tensor,
    margin: float,
    anchor_BD: Tensor | None = None,
    none_BK: Tensor | None = None,
) -> Tensor:
    """Mean over B and K of ReLU(s(anchor, n) - s(q, p) + margin), s the cosine of unit vectors. A scalar.

    anchor_BD: what the negatives shall be far from; default: q. Then with K = 1 this is the third term of L_triplets
    (arXiv 2307.11224, section 3.2). none_BK: where there is no negative, which counts 0.
    """
    q_BD, p_BD, n_BKD = in_full_precision(q_BD), in_full_precision(p_BD), in_full_precision(n_BKD)
    anchor_BD = q_BD if anchor_BD is None else in_full_precision(anchor_BD)
    positive_B1 = (q_BD * p_BD).sum(-1, keepdim=True)
    negative_BK = (n_BKD * anchor_BD[:, None]).sum(-1)
    loss_BK = relu(negative_BK - positive_B1 + margin)
    return (loss_BK if none_BK is None else loss_BK.masked_fill(none_BK, 0)).mean()
