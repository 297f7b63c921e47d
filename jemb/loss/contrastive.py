"""The two terms every objective is made of.

Shapes: B local rows, N candidates (of all ranks), K negatives a row, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, relu


def info_nce(q_BD: Tensor, c_ND: Tensor, target_B: Tensor, temperature: float, hide_BN: Tensor | None = None) -> Tensor:
    """Mean over B of -log softmax(q.c / temperature) at the target (InfoNCE, arXiv 1807.03748). A scalar, fp32.

    q_BD, c_ND: unit vectors, so that q.c is the cosine; computed in fp32 whatever they come in.
    target_B: the column of each row's own candidate, 0 <= target < N.
    hide_BN: True removes a candidate (a likely false negative) from the row's denominator; never the target.
    Raises ValueError if a target is hidden: the loss would be infinite.
    """
    logits_BN = q_BD.float() @ c_ND.float().T / temperature
    if hide_BN is not None:
        if bool(hide_BN.gather(1, target_B[:, None]).any()):
            raise ValueError("a row's own candidate is hidden")
        logits_BN = logits_BN.masked_fill(hide_BN, -torch.inf)
    return cross_entropy(logits_BN, target_B)


def margin_loss(q_BD: Tensor, p_BD: Tensor, n_BKD: Tensor, margin: float) -> Tensor:
    """Mean over B and K of ReLU(s(q, n) - s(q, p) + margin), s the cosine of unit vectors. A scalar, fp32.

    With K = 1 this is the third term of L_triplets (arXiv 2307.11224, section 3.2).
    """
    positive_B1 = (q_BD.float() * p_BD.float()).sum(-1, keepdim=True)
    negative_BK = (q_BD.float()[:, None] * n_BKD.float()).sum(-1)
    return relu(negative_BK - positive_B1 + margin).mean()
