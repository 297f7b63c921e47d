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

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from jemb.core.errors import InputError
from jemb.core.records import to_device
from jemb.loss.contrastive import info_nce, margin_loss
from jemb.loss.masks import EqualTexts, equal_texts
from jemb.loss.protocol import Loss, Rows, Texts
from jemb.loss.tiles import LogSumExp, log_sum_exp

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
    of `jemb train` with these names."""

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
        return contrastive_loss(
            texts.query,
            texts.positive,
            texts.negatives,
            offset=texts.offset,
            temperature=self.temperature,
            weights=self.loss_weights,
            margin=self.margin,
            extra_negatives=self.extra_negatives,
            mask_equal_texts=self.mask_equal_texts,
            mask_margin=self.mask_margin,
            widths=self.matryoshka_widths,
        )


class Triplets(Pairs):
    """L_triplets: the same with hard negatives, which all queries are also kept away from, and a margin to a query's
    own."""

    negatives: ClassVar[bool] = True


def contrastive_loss(
    query: Rows,
    positive: Rows,
    negatives: Rows | None = None,
    *,
    offset: int,
    temperature: float,
    weights: Mapping[str, float],
    margin: float = 0.0,
    extra_negatives: Collection[str] = (),
    mask_equal_texts: bool = True,
    mask_margin: float | None = None,
    widths: Collection[int] = (),
) -> Loss:
    """The weighted sum of the terms above, added up over the widths.

    positive: as many rows as query, or P of each. negatives: B*K local rows, row-major; without them, what needs them
    is left out.
    offset: this rank's first row among all. temperature: > 0. weights: by term, >= 0; 0 where not given.
    mask_equal_texts: hide candidates that share a text with the row (`masks.py`).
    mask_margin: hide candidates more similar to the row than its query and positive are by more than this: s(row,
    candidate) > s(q_i,p_i) + mask_margin (Qwen3-Embedding, arXiv 2506.05176). The margin terms leave out
    nothing but a negative that is the row's own query or positive, as where a row has none.
    widths: train the first so many numbers of the vectors, too, with weight 1 (Matryoshka, arXiv 2205.13147); the full
    width is always in. Raises InputError for one above D, ValueError for names that do not exist or nothing to compute.
    """
    texts = {"query": query, "positive": positive} | ({} if negatives is None else {"negative": negatives})
    rows_each = len(positive.local_BD) // len(query.local_BD)
    if rows_each > 1:
        if not mask_equal_texts:
            raise InputError(
                "mask_equal_texts=false with num_positives above 1: a row's other positives are right, too"
            )
        query, offset = query.repeated(rows_each), offset * rows_each
        texts["query"] = query
    chosen = _chosen(weights, extra_negatives, texts)
    equal = _equal(texts, offset) if mask_equal_texts else {}
    total = torch.zeros((), device=query.local_BD.device)
    terms: dict[str, Tensor] = {}
    candidates, hidden, full = 0, torch.zeros((), dtype=torch.int64, device=total.device), query.local_BD.shape[1]
    for width in _widths(widths, full):
        cut = {name: rows.cut(width) for name, rows in texts.items()}
        contrasts = _Contrasts(cut, equal, offset, temperature, mask_margin)
        for name, sets in chosen.items():
            if name in MARGINS:
                value = _margin(name, cut, margin, rows_each, mask_equal_texts)
            else:
                value = contrasts.info_nce(name, sets)
            total = total + weights[name] * value
            terms[name if width == full else f"{name}@{width}"] = value.detach()
        if spread := weights.get(SPREAD):
            value = spread_out(cut["query"], rows_each) + spread_out(cut["positive"])
            total = total + spread * value
            terms[SPREAD if width == full else f"{SPREAD}@{width}"] = value.detach()
        if width == full:
            for found in map(contrasts.of, next(iter(chosen.values()))):
                candidates, hidden = candidates + found.candidates, hidden + found.hidden
    if negatives is not None and not candidates:  # margins alone: each row's own negatives
        candidates = len(negatives.local_BD) * rows_each // len(query.local_BD)
    return Loss(total, terms, candidates, hidden)


def spread_out(rows: Rows, repeated: int = 1) -> Tensor:
    """Mean over B of the squared cosines with the other rows of all ranks, a scalar in 0 to 1. repeated: of so many
    rows in turn, which are the same, one counts. Memory: D * D."""
    local_BD, all_ND = rows.local_BD[::repeated], rows.all_ND[::repeated]
    own_B = local_BD.square().sum(1).square()
    # sum_j (x . y_j)^2 = x' (sum_j y_j y_j') x
    squares_B = ((local_BD @ (all_ND.T @ all_ND)) * local_BD).sum(1)
    return (squares_B - own_B).mean() / max(1, len(all_ND) - 1)


def _chosen(weights: Mapping[str, float], extra: Collection[str], texts: Collection[str]) -> dict[str, list[str]]:
    """The terms to compute, softmax terms first, each with the sets in its denominator (none for a margin)."""
    for kind, given, known in (("term", weights, {*SETS, *MARGINS, SPREAD}), ("extra negatives", extra, SETS["joint"])):
        if strangers := set(given) - set(known):
            raise ValueError(f"{kind} {min(strangers)!r}: there are {', '.join(sorted(known))}")
    wanted = [name for name in (*SETS, *(MARGINS if "negative" in texts else ())) if weights.get(name)]
    if not wanted:
        raise ValueError(f"no term to compute: weights {dict(weights)}, texts {', '.join(texts)}")
    allowed = OF_THE_PAPER | set(extra)
    return {
        name: [item for item in SETS.get(name, ()) if item in allowed and item.split("_")[1] in texts]
        for name in wanted
    }


def _widths(widths: Collection[int], full: int) -> list[int]:
    """All widths to train, each once, the full one first."""
    if wrong := [width for width in widths if not 0 < width <= full]:
        raise InputError(f"matryoshka_widths: got {wrong[0]}; a vector of this model has {full} numbers")
    return [full, *sorted(set(widths) - {full}, reverse=True)]


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


def _margin(name: str, texts: Mapping[str, Rows], margin: float, rows_each: int, mask_equal_texts: bool) -> Tensor:
    query, positive, negative = texts["query"], texts["positive"], texts["negative"]

    def by_row(value: Tensor) -> Tensor:
        """[B / P * K, ...] -> [B, K, ...]"""
        return value.unflatten(0, (len(query.local_BD) // rows_each, -1)).repeat_interleave(rows_each, 0)

    none_BK = None
    if mask_equal_texts:  # in a row that has none its positive stands for a negative
        hash_BK = by_row(negative.hash_B)
        same_BK = (hash_BK == query.hash_B[:, None]) | (hash_BK == positive.hash_B[:, None])
        none_BK = to_device(same_BK, query.local_BD.device) if same_BK.any() else None
    anchor_BD = texts[MARGINS[name]].local_BD
    return margin_loss(query.local_BD, positive.local_BD, by_row(negative.local_BD), margin, anchor_BD, none_BK)


class _Contrasts:
    """The log-sum-exps of one step at one width. Terms that want the same one share it."""

    def __init__(
        self,
        texts: Mapping[str, Rows],
        equal: Mapping[str, EqualTexts | None],
        offset: int,
        temperature: float,
        mask_margin: float | None,
    ) -> None:
        self.texts, self.equal, self.offset, self.temperature = texts, equal, offset, temperature
        query_BD = texts["query"].local_BD
        # From the same column that the denominators leave out: a wrong offset must not pass for a small error.
        own_BD = texts["positive"].all_ND[offset : offset + len(query_BD)]
        self.own_B = (query_BD * own_BD).sum(-1)
        self.limit_B = None if mask_margin is None else self.own_B.detach() + mask_margin
        self.found: dict[str, LogSumExp] = {}

    def info_nce(self, name: str, sets: Collection[str]) -> Tensor:
        # The joint denominator holds s(q_i,p_i) twice, once from each direction; so does GTE's.
        times = 2 if name == "joint" else 1
        return info_nce(self.own_B / self.temperature, [self.of(item).values_B for item in sets], times)

    def of(self, name: str) -> LogSumExp:
        if name not in self.found:
            side, _, other = name.partition("_")
            self.found[name] = log_sum_exp(
                self.texts[side].local_BD,
                self.texts[other].all_ND,
                self.temperature,
                own=None if other == "negative" else self.offset,
                equal=self.equal.get(other),
                limit_B=self.limit_B,
            )
        return self.found[name]
