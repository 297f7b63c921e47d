"""All texts of a training step in one go, sorted by length, so that hardly anything computed is padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from jemb.model.encoder import Encoder
from jemb.records import Tokens

ROWS = {"cpu": 32, "cuda": 512}
"""Texts in one call of the encoder: few where padding costs most, many where a call does."""


def encode_together(
    encoder: Encoder, texts: Sequence[Tokens], micro_batch_size: int | None
) -> tuple[list[Tensor], int]:
    """(unit vectors [N_i, D] of each of `texts`, token slots computed, padding included).

    The rows of all `texts` are sorted by length and encoded in groups, each cut to its longest row. With
    `micro_batch_size` that many rows are a group, and their activations are computed again in backward: the memory of
    one group, the gradient of all (gradient caching, arXiv 2101.06983).
    """

    def encode(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return encoder(Tokens(input_ids, attention_mask))

    device = texts[0].input_ids.device
    longest = max(t.input_ids.shape[1] for t in texts)
    ids = torch.cat([pad(t.input_ids, (0, longest - t.input_ids.shape[1])) for t in texts])
    mask = torch.cat([pad(t.attention_mask, (0, longest - t.attention_mask.shape[1])) for t in texts])
    lengths, order = mask.sum(1).sort(descending=True, stable=True)
    size = micro_batch_size or ROWS.get(device.type, len(ids))
    parts, slots = [], 0
    for rows, width in zip(order.split(size), lengths[::size].tolist(), strict=True):
        width = max(1, width)
        group = ids[rows, :width], mask[rows, :width]
        # Plain tensors: from them `checkpoint` learns on which device to restore the random state of the dropout.
        parts.append(checkpoint(encode, *group, use_reentrant=False) if micro_batch_size else encode(*group))
        slots += len(rows) * width
    vectors = torch.cat(parts)[order.argsort()]
    return list(vectors.split([len(t.input_ids) for t in texts])), slots
