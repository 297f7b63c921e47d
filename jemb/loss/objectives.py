"""The objectives over the global batch: the paper's L_pairs and L_triplets (arXiv 2307.11224, section 3), and what the
field has added since. Each is a weighted sum of a few terms; a term of weight 0 is not computed.

B local rows; N = W*B rows of all ranks, this rank's at `offset`; K negatives a row, M = W*B*K of all ranks. s is the
cosine, t the temperature, e the margin. Sums run over all ranks' rows, means over the local rows; over ranks the
strategy takes the mean.

    query_to_positive   mean_i -ln( exp(s(q_i,p_i)/t) / sum_j ( exp(s(q_i,p_j)/t) + sum_k exp(s(q_i,n_jk)/t) ) )
    positive_to_query   mean_i -ln( exp(s(p_i,q_i)/t) / sum_j exp(s(p_i,q_j)/t) )
    margin              mean_ik ReLU( s(q_i,n_ik) - s(q_i,p_i) + e )
    positive_margin     mean_ik ReLU( s(p_i,n_ik) - s(q_i,p_i) + e )
    joint               mean_i -ln( exp(s(q_i,p_i)/t) / (the denominators of the first two terms, added up) )

    spread_out          mean_i of sum_{j != i} ( s(q_i,q_j)^2 + s(p_i,p_j)^2 ) / (N - 1)

The first three with weight 1 are L_triplets and, without negatives, L_pairs. positive_margin is what HardNegation
measures: a positive has to be nearer to its query than to a negative. spread_out keeps the vectors of one side apart
from each other (GOR, arXiv 1708.06320, as EmbeddingGemma has it, arXiv 2509.20354).

A row with P positives is P rows with the same query: its other positives are hidden, because they share its query.

Extra negatives widen the denominators: query_query by sum_{j != i} exp(s(q_i,q_j)/t) in query_to_positive,
positive_positive by sum_{j != i} exp(s(p_i,p_j)/t) and positive_negative by sum_jk exp(s(p_i,n_jk)/t) in
positive_to_query; all of them in joint. joint with the first two is the loss of GTE (arXiv 2308.03281, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import relu

from jemb.core.errors import InputError
from jemb.core.records import to_device
from jemb.loss.masks import EqualTexts, equal_texts
from jemb.loss.protocol import Loss, Rows, Texts
from jemb.loss.tiles import LogSumExp, in_full_precision, log_sum_exp

OF_QUERIES = ("query_positive", "query_negative", "query_query")
OF_POSITIVES = ("positive_query", "positive_positive", "positive_negative")
SETS = {"query_to_positive": OF_QUERIES, "positive_to_query": OF_POSITIVES, "joint": (*OF_QUERIES, *OF_POSITIVES)}
"""What the denominator of a term may hold: whose rows, and what they are compared with."""
OF_THE_PAPER = {"query_positive", "query_negative", "positive_query"}
SPREAD = "spread_out"
MARGINS = {"margin": "query", "positive_margin": "positive"}
"""What a term keeps the negatives away from."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """L_pairs: each query finds its positive among all ranks' rows, and each positive its query. The options are those
    of `jemb train` with these names; the loss is the weighted sum of the terms above, added up over the widths.

    `texts.positive`: as many rows as the query, or P of each. `texts.negatives`: B*K local rows, row-major; without
    them, what needs them is left out.
    mask_equal_texts: hide candidates that share a text with the row (`masks.py`). mask_margin: hide candidates more
    similar to the row than its query and positive are by more than this: s(row, candidate) > s(q_i,p_i) + mask_margin
    (Qwen3-Embedding, arXiv 2506.05176). The margin terms leave out nothing but a negative that is the row's own query
    or positive, as where a row has none.
    matryoshka_widths: train the first so many numbers of the vectors, too, with weight 1 (Matryoshka, arXiv
    2205.13147); the full width is always in. Raises InputError for one above D, ValueError for names that do not exist
    or nothing to compute.
    """

    negatives: ClassVar[bool] = False
    temperature: float = 0.05
    loss_weights: Mapping[str, float] = field(
        default_factory=lambda: {"query_to_positive": 1.0, "positive_to_query": 1.0, "margin": 1.0}
    )
    margin: float = 0.05
    extra_negatives: Collection[str] = ()
    mask_equal_texts: bool = True
    mask_margin: float | None = None
    matryoshka_widths: Collection[int] = ()

    def __call__(self, texts: Texts) -> Loss:
        sides = {"query": texts.query, "positive": texts.positive}
        if texts.negatives is not None:
            sides["negative"] = texts.negatives
        each = len(texts.positive.local_BD) // len(texts.query.local_BD)
        offset = texts.offset * each
        if each > 1:
            if not self.mask_equal_texts:
                raise InputError(
                    "mask_equal_texts=false with num_positives above 1: a row's other positives are right, too"
                )
            sides["query"] = texts.query.repeated(each)
        chosen = self._terms(sides)
        equal = _equal(sides, offset) if self.mask_equal_texts else {}
        full = texts.query.local_BD.shape[1]
        total = torch.zeros((), device=texts.query.local_BD.device)
        terms: dict[str, Tensor] = {}
        candidates, hidden = 0, torch.zeros((), dtype=torch.int64, device=total.device)
        for width in self._widths(full):
            cut = {name: rows.cut(width) for name, rows in sides.items()}
            query_BD = cut["query"].local_BD
            # From the same column that the denominators leave out: a wrong offset must not pass for a small error.
            own_B = (query_BD * cut["positive"].all_ND[offset : offset + len(query_BD)]).sum(-1)
            limit_B = None if self.mask_margin is None else own_B.detach() + self.mask_margin
            sums: dict[str, LogSumExp] = {}  # terms that want the same one share it
            for name, sets in chosen.items():
                for item in sets:
                    if item not in sums:
                        sums[item] = self._sum(item, cut, equal, offset, limit_B)
                if name in MARGINS:
                    value = self._margin(name, cut, each)
                elif name == SPREAD:
                    value = spread_out(cut["query"], each) + spread_out(cut["positive"])
                else:
                    # The joint denominator holds s(q_i,p_i) twice, once from each direction; so does GTE's.
                    others = [sums[item].values_B for item in sets]
                    value = info_nce(own_B / self.temperature, others, times=2 if name == "joint" else 1)
                total = total + self.loss_weights[name] * value
                terms[name if width == full else f"{name}@{width}"] = value.detach()
            if width == full:
                for item in next(iter(chosen.values())):
                    candidates, hidden = candidates + sums[item].candidates, hidden + sums[item].hidden
        if texts.negatives is not None and not candidates:  # margins alone: each row's own negatives
            candidates = len(texts.negatives.local_BD) // len(texts.query.local_BD)
        return Loss(total, terms, candidates, hidden)

    def _terms(self, sides: Collection[str]) -> dict[str, list[str]]:
        """The terms to compute, softmax terms first, each with the sets in its denominator (none for other terms)."""
        weights, extra = self.loss_weights, self.extra_negatives
        all_terms = (*SETS, *MARGINS, SPREAD)
        for kind, given, known in (("term", weights, all_terms), ("extra negatives", extra, SETS["joint"])):
            if strangers := set(given) - set(known):
                raise ValueError(f"{kind} {min(strangers)!r}: there are {', '.join(sorted(known))}")
        wanted = [name for name in all_terms if weights.get(name) and (name not in MARGINS or "negative" in sides)]
        if not {*wanted} - {SPREAD}:
            raise ValueError(f"no term to compute: weights {dict(weights)}, texts {', '.join(sides)}")
        allowed = OF_THE_PAPER | set(extra)
        return {
            name: [item for item in SETS.get(name, ()) if item in allowed and item.split("_")[1] in sides]
            for name in wanted
        }

    def _widths(self, full: int) -> list[int]:
        """All widths to train, each once, the full one first."""
        if wrong := [width for width in self.matryoshka_widths if not 0 < width <= full]:
            raise InputError(f"matryoshka_widths: got {wrong[0]}; a vector of this model has {full} numbers")
        return [full, *sorted(set(self.matryoshka_widths) - {full}, reverse=True)]

    def _sum(
        self,
        name: str,
        sides: Mapping[str, Rows],
        equal: Mapping[str, EqualTexts | None],
        offset: int,
        limit_B: Tensor | None,
    ) -> LogSumExp:
        side, _, other = name.partition("_")
        own = None if other == "negative" else offset
        rows_BD, candidates_ND = sides[side].local_BD, sides[other].all_ND
        return log_sum_exp(rows_BD, candidates_ND, self.temperature, own=own, equal=equal.get(other), limit_B=limit_B)

    def _margin(self, name: str, sides: Mapping[str, Rows], each: int) -> Tensor:
        query, positive, negative = sides["query"], sides["positive"], sides["negative"]

        def by_row(value: Tensor) -> Tensor:
            """[B / P * K, ...] -> [B, K, ...]"""
            return value.unflatten(0, (len(query.local_BD) // each, -1)).repeat_interleave(each, 0)

        none_BK = None
        if self.mask_equal_texts:  # in a row that has none its positive stands for a negative
            hash_BK = by_row(negative.hash_B)
            same_BK = (hash_BK == query.hash_B[:, None]) | (hash_BK == positive.hash_B[:, None])
            none_BK = to_device(same_BK, query.local_BD.device) if same_BK.any() else None
        anchor_BD = sides[MARGINS[name]].local_BD
        return margin_loss(
            query.local_BD, positive.local_BD, by_row(negative.local_BD), self.margin, anchor_BD, none_BK
        )


class Triplets(Pairs):
    """L_triplets: the same with hard negatives, which all queries are also kept away from, and a margin to a query's
    own."""

    negatives: ClassVar[bool] = True


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


def spread_out(rows: Rows, repeated: int = 1) -> Tensor:
    """Mean over B of the squared cosines with the other rows of all ranks, a scalar in 0 to 1. repeated: of so many
    rows in turn, which are the same, one counts. Memory: D * D."""
    local_BD, all_ND = rows.local_BD[::repeated], rows.all_ND[::repeated]
    own_B = local_BD.square().sum(1).square()
    # sum_j (x . y_j)^2 = x' (sum_j y_j y_j') x
    squares_B = ((local_BD @ (all_ND.T @ all_ND)) * local_BD).sum(1)
    return (squares_B - own_B).mean() / max(1, len(all_ND) - 1)


def _equal(texts: Mapping[str, Rows], offset: int) -> dict[str, EqualTexts | None]:
    """What each kind of candidate shares with the rows. A query and its positive stand for each other: whoever has the
    one is answered by the other."""
    query, positive = texts["query"], texts["positive"]
    mine_B2, device = torch.stack([query.hash_B, positive.hash_B], dim=1), query.local_BD.device
    pairs = equal_texts(mine_B2, torch.stack([query.hash_N, positive.hash_N], dim=1), offset, device)
    found = {"query": pairs, "positive": pairs}
    if "negative" in texts:
        found["negative"] = equal_texts(mine_B2, texts["negative"].hash_N[:, None], device=device)
    return found
