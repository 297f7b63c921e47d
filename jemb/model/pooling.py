"""Token vectors to one unit vector a text."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Pooling = Literal["mean", "cls"]


def pool(hidden_NLD: Tensor, mask_NL: Tensor, pooling: Pooling, dim: int | None = None) -> Tensor:
    """Token vectors [N, L, D] -> unit vectors [N, D], at least in fp32, under autocast too.

    mean: over the tokens of mask 1. cls: the first token of mask 1. A row without tokens becomes zero.
    dim: only the first so many of the D numbers, [N, dim]; None: all.
    """
    with torch.autocast(hidden_NLD.device.type, enabled=False):
        hidden_NLD = hidden_NLD.to(torch.promote_types(hidden_NLD.dtype, torch.float32))
        mask_NL1 = mask_NL.unsqueeze(-1).to(hidden_NLD.dtype)
        if pooling == "mean":
            pooled_ND = (hidden_NLD * mask_NL1).sum(1) / mask_NL1.sum(1).clamp_min(1)
        else:
            # Not len(…): an exported program would have its number for good.
            rows = torch.arange(mask_NL.shape[0], device=mask_NL.device)
            first = mask_NL.to(torch.int32).argmax(1)
            pooled_ND = hidden_NLD[rows, first] * mask_NL1[rows, first]
        return F.normalize(pooled_ND[:, :dim], dim=-1)
