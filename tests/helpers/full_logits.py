"""The losses once more, with every logit in one table: short, slow, and written from the formulas, in float64."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jemb.loss import Loss, Pairs, Rows, Texts

PAPER = {"query_to_positive": 1.0, "positive_to_query": 1.0, "margin": 1.0}
DEFAULTS: dict[str, Any] = {
    "temperature": 0.05,
    "loss_weights": PAPER,
    "margin": 0.05,
    "extra_negatives": (),
    "mask_equal_texts": True,
    "mask_margin": None,
    "matryoshka_widths": (),
}


def unit(generator: torch.Generator, count: int, width: int) -> Tensor:
    values = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return values / values.norm(dim=1, keepdim=True)


def with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    return {**DEFAULTS, **options}


def on_one_rank(vectors: Sequence[Tensor], hashes: Sequence[Tensor], **options: Any) -> Loss:
    """`Pairs` of one process that holds all rows: queries, positives and perhaps negatives."""
    rows = [Rows(local_BD=v, all_ND=v, hash_B=h, hash_N=h) for v, h in zip(vectors, hashes, strict=False)]
    return Pairs(**with_defaults(options))(Texts(*rows))


def on_ranks(
    vectors: Sequence[Tensor], hashes: Sequence[Tensor], world_size: int, offset: int | None = None, **options: Any
) -> list[Loss]:
    """The same rows dealt to `world_size` ranks: the loss of each, with all ranks' rows as its candidates."""
    found = []
    for rank in range(world_size):
        rows = []
        for v, h in zip(vectors, hashes, strict=False):
            size = len(v) // world_size
            mine = slice(rank * size, (rank + 1) * size)
            rows.append(Rows(local_BD=v[mine], all_ND=v, hash_B=h[mine], hash_N=h))
        place = rank * (len(vectors[0]) // world_size) if offset is None else offset
        found.append(Pairs(**with_defaults(options))(Texts(*rows, offset=place)))
    return found


def full_loss(vectors: Sequence[Tensor], hashes: Sequence[Tensor], **options: Any) -> tuple[Tensor, int]:
    """(loss, hidden candidates of the queries) of all rows, from whole tables of logits."""
    wanted = with_defaults(options)
    widths = {vectors[0].shape[1], *wanted.pop("matryoshka_widths")}
    losses = {width: _of_width(vectors, hashes, width, **wanted) for width in widths}
    return torch.stack([loss for loss, _ in losses.values()]).sum(), losses[vectors[0].shape[1]][1]


def _of_width(
    vectors: Sequence[Tensor],
    hashes: Sequence[Tensor],
    width: int,
    *,
    temperature: float,
    loss_weights: Mapping[str, float],
    margin: float,
    extra_negatives: Collection[str],
    mask_equal_texts: bool,
    mask_margin: float | None,
) -> tuple[Tensor, int]:
    cut = [v if width == v.shape[1] else v[:, :width] / v[:, :width].norm(dim=1, keepdim=True) for v in vectors]
    text = dict(zip("qpn", cut, strict=False))
    size, eye = len(cut[0]), torch.eye(len(cut[0]), dtype=torch.bool)
    mine = [{int(a), int(b)} for a, b in zip(hashes[0], hashes[1], strict=True)]
    equal = torch.tensor([[bool(mine[i] & mine[j]) for j in range(size)] for i in range(size)]) & ~eye
    equal_n = torch.tensor([[int(t) in mine[i] for t in hashes[2]] for i in range(size)]) if "n" in text else eye
    own = (text["q"] * text["p"]).sum(1)
    hidden_of: dict[str, int] = {}

    def denominator(name: str) -> Tensor:
        """Sum of one set, the own candidate left out; 0 where the set is not wanted."""
        side, other = name[0], name[1]
        known = {
            "qp": "",
            "qn": "",
            "pq": "",
            "qq": "query_query",
            "pp": "positive_positive",
            "pn": "positive_negative",
        }
        if other not in text or (known[name] and known[name] not in extra_negatives):
            hidden_of[name] = 0
            return torch.zeros_like(own)
        s = text[side] @ text[other].T
        out = torch.zeros_like(s, dtype=torch.bool) if other == "n" else eye
        hidden = (equal_n if other == "n" else equal) & mask_equal_texts
        if mask_margin is not None:
            hidden = hidden | (s > own[:, None] + mask_margin)
        hidden_of[name] = int((hidden & ~out).sum())
        return ((s / temperature).exp() * ~(hidden | out)).sum(1)

    top = (own / temperature).exp()
    of_queries = denominator("qp") + denominator("qn") + denominator("qq")
    of_positives = denominator("pq") + denominator("pp") + denominator("pn")
    terms = {
        "query_to_positive": -(top / (top + of_queries)).log().mean(),
        "positive_to_query": -(top / (top + of_positives)).log().mean(),
        "joint": -(top / (2 * top + of_queries + of_positives)).log().mean(),
    }
    if "n" in text:
        negatives = text["n"].view(size, -1, text["n"].shape[1])
        count = negatives.shape[1]
        of_row = [[mask_equal_texts and bool(equal_n[i, i * count + k]) for k in range(count)] for i in range(size)]
        for name, side in (("margin", "q"), ("positive_margin", "p")):
            s = torch.einsum("bd,bkd->bk", text[side], negatives)
            terms[name] = ((s - own[:, None] + margin).clamp(min=0) * ~torch.tensor(of_row)).mean()
    loss = torch.stack([loss_weights.get(name, 0.0) * value for name, value in terms.items()]).sum()
    if loss_weights.get("query_to_positive"):
        return loss, hidden_of["qp"] + hidden_of["qn"] + hidden_of["qq"]
    return loss, sum(hidden_of.values())
