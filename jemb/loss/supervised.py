"""Objectives over what people or teachers said of the texts: scores, labels, a teacher's scores of the answers, or its
vectors.

B local rows; N = W*B rows of all ranks, this rank's at `offset`; A answers a row: its positives, then its negatives.
s is the cosine, y what was said. Sums run over the rows of all ranks, so that the loss is that of one process.

    scored          ln( 1 + sum over i, j with y_i < y_j of exp(20 (s_i - s_j)) ), s_i = s(q_i,p_i)
    scored_cosine   mean_i (s_i - y_i)^2
    labelled        mean_i of mean over the other texts j of the same label of
                    -ln( exp(s(x_i,x_j)/t) / sum_{a != i} exp(s(x_i,x_a)/t) )
    distill         mean_i KL( softmax(y_i / T) || softmax(s(q_i, answers) / t) )
    distill_margin  mean_ik ( c (s(q_i,p_i) - s(q_i,n_ik)) - (y(p_i) - y(n_ik)) )^2
    teach           mean over rows and texts x of 1 - cos(W x + b, t), t the teacher's vectors, W and b learned

scored is CoSENT (Su 2022, https://kexue.fm/archives/8847), labelled L_out of SupCon (arXiv 2004.11362, equation 2),
distill_margin is MarginMSE (arXiv 2010.02666).

In teach a learned projection takes the student's width to the teacher's, as LEAF has it (arXiv 2509.12539), so that
they need not be equal; its loss is the squared distance, which of unit vectors is twice the one here. b takes up what
all of the student's vectors have in common at first (docs/log.md). Vectors alone are learned from, without labels or
other rows, so any text will do, and batches may be small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from jemb.core.errors import InputError
from jemb.loss.objectives import Pairs
from jemb.loss.protocol import Loss, Rows, Texts, check_above_zero
from jemb.loss.tiles import in_full_precision, log_sum_exp


@dataclass(frozen=True, kw_only=True)
class Scored:
    """CoSENT: a pair with a higher score has a higher cosine. Only the order of the scores counts, on whatever scale.

    scale: by how much the difference of two cosines is multiplied; > 0.
    """

    needs: ClassVar[str] = "score"
    scale: float = 20.0

    def __post_init__(self) -> None:
        check_above_zero(scale=self.scale)

    def __call__(self, texts: Texts) -> Loss:
        query, positives = _repeated(texts)
        cosine_N = _cosines(query.all_ND, texts.positive.all_ND)
        return _named("cosent", cosent(self.scale * cosine_N, _said(texts.score_N).repeat_interleave(positives)))


def cosent(logits_N: Tensor, score_N: Tensor) -> Tensor:
    """ln(1 + sum over pairs with score_i < score_j of exp(logits_i - logits_j)), in O(N log N); a scalar, 0 where all
    scores are equal."""
    order_N = score_N.argsort()
    score_N = score_N[order_N].contiguous()
    logits_N = logits_N[order_N].double() if logits_N.device.type != "mps" else logits_N[order_N]
    lower_N = torch.searchsorted(score_N, score_N)  # rows with a score below that of each
    some = lower_N > 0
    below = logits_N.logcumsumexp(0)[lower_N[some] - 1]
    terms = torch.cat([logits_N.new_zeros(1), below - logits_N[some]])
    return (terms.logsumexp(0) + 0 * logits_N.sum()).float()


@dataclass(frozen=True, kw_only=True)
class ScoredCosine:
    """The cosine of a pair is its score, which must be in -1 to 1."""

    needs: ClassVar[str] = "score"

    def __call__(self, texts: Texts) -> Loss:
        score_B = _local(_said(texts.score_N), texts)
        if (worst := float(score_B.abs().max())) > 1:
            raise InputError(
                f"objective=scored_cosine: data set {texts.dataset} has the score {worst:g}; wanted cosines, -1 to 1. "
                "objective=scored takes any scale"
            )
        query, positives = _repeated(texts)
        cosine_B = _cosines(query.local_BD, texts.positive.local_BD)
        wanted_B = score_B.repeat_interleave(positives).to(cosine_B.dtype)
        return _named("cosine", (cosine_B - wanted_B).square().mean())


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """SupCon: texts of one label are near each other and far from all others. All texts of a row have its label; a text
    that nobody shares the label of counts only for the others."""

    needs: ClassVar[str] = "label"
    temperature: float = 0.05

    def __post_init__(self) -> None:
        check_above_zero(temperature=self.temperature)

    def __call__(self, texts: Texts) -> Loss:
        sides = [texts.query, *_each_positive(texts)]
        label_N = _said(texts.label_N)
        _, class_N = label_N.unique(return_inverse=True)
        count_C = torch.bincount(class_N) * len(sides)
        all_ND = [in_full_precision(side.all_ND) for side in sides]
        # The sum over a class of the products with a row is the product with the class's sum.
        sum_CD = all_ND[0].new_zeros(len(count_C), all_ND[0].shape[1])
        for side_ND in all_ND:
            sum_CD = sum_CD.index_add(0, class_N, side_ND)
        class_B = _local(class_N, texts)
        others_B = (count_C[class_B] - 1).clamp(min=1)
        total = all_ND[0].new_zeros(())
        for side in sides:
            own_BD = in_full_precision(side.local_BD)
            sets = [
                log_sum_exp(own_BD, other_ND, self.temperature, own=texts.offset if other is side else None).values_B
                for other, other_ND in zip(sides, all_ND, strict=True)
            ]
            near_B = ((own_BD * sum_CD[class_B]).sum(1) - own_BD.square().sum(1)) / self.temperature / others_B
            total = total + ((torch.stack(sets).logsumexp(0) - near_B) * (count_C[class_B] > 1)).sum()
        # The mean over all texts that have a partner, on whatever rank they are.
        with_partner = (count_C[class_N] > 1).sum().clamp(min=1) * len(sides)
        return _named("supcon", total * (len(class_N) / len(class_B)) / with_partner)


@dataclass(frozen=True, kw_only=True)
class Distill:
    """The student ranks the answers of a query as the teacher does: KL of the softmax of the teacher's scores over
    `teacher_temperature` and that of the cosines over `temperature`; both > 0. An answer without a score is left out.
    """

    needs: ClassVar[str] = "scores"
    negatives: ClassVar[bool] = True
    temperature: float = 0.05
    teacher_temperature: float = 1.0

    def __post_init__(self) -> None:
        check_above_zero(temperature=self.temperature, teacher_temperature=self.teacher_temperature)

    def __call__(self, texts: Texts) -> Loss:
        cosine_BA, score_BA = _answers(texts)
        hide_BA = score_BA.isnan()
        student_BA = (cosine_BA / self.temperature).masked_fill(hide_BA, -torch.inf).log_softmax(1)
        teacher_BA = (score_BA / self.teacher_temperature).masked_fill(hide_BA, -torch.inf).log_softmax(1)
        terms_BA = (teacher_BA.exp() * (teacher_BA - student_BA)).masked_fill(hide_BA, 0)
        return _named("kl", terms_BA.sum(1).mean(), hide_BA)


@dataclass(frozen=True, kw_only=True)
class DistillMargin:
    """MarginMSE: the student's lead of a positive over a negative, times `scale`, is the teacher's."""

    needs: ClassVar[str] = "scores"
    negatives: ClassVar[bool] = True
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_above_zero(scale=self.scale)

    def __call__(self, texts: Texts) -> Loss:
        cosine_BA, score_BA = _answers(texts)
        positives = len(texts.positive.local_BD) // len(cosine_BA)

        def leads(of_BA: Tensor) -> Tensor:
            return of_BA[:, :positives, None] - of_BA[:, None, positives:]

        known = ~leads(_said(texts.scores_NA)).isnan()
        wanted = leads(score_BA)
        error = (self.scale * leads(cosine_BA) - wanted.nan_to_num()).masked_fill(wanted.isnan(), 0).square().sum()
        count = known.sum().clamp(min=1)
        return _named("margin_mse", error * (len(known) / len(cosine_BA)) / count, score_BA.isnan())


class Teach(nn.Module):
    """student_width, teacher_width: of their vectors; `jemb train` knows both. contrastive: weight of L_pairs beside
    it, >= 0, with this temperature."""

    needs: ClassVar[str] = "teacher"

    def __init__(
        self, student_width: int, teacher_width: int, contrastive: float = 0.0, temperature: float = 0.05
    ) -> None:
        super().__init__()
        check_above_zero(temperature=temperature)
        check_above_zero(or_zero=True, contrastive=contrastive)
        self.project = nn.Linear(student_width, teacher_width)
        self.contrastive, self.pairs = contrastive, Pairs(temperature=temperature)

    def forward(self, texts: Texts) -> Loss:
        teacher_BTD = _said(texts.teacher_BTD)
        sides = [texts.query] if texts.positive is texts.query else [texts.query, texts.positive]
        student_BTD = torch.cat(
            [in_full_precision(side.local_BD).unflatten(0, (len(teacher_BTD), -1)) for side in sides], 1
        )
        distance = 1 - cosine_similarity(self.project(student_BTD), teacher_BTD, dim=-1).mean()
        if not self.contrastive:
            return Loss(distance, {"teach": distance})
        pairs = self.pairs(texts)
        total = distance + self.contrastive * pairs.total
        return Loss(total, {"teach": distance, **pairs.terms}, pairs.candidates, pairs.hidden)


def _answers(texts: Texts) -> tuple[Tensor, Tensor]:
    """(cosines of each local query with its answers, the teacher's scores of them, NaN where there is none), [B, A]."""
    query_BD = in_full_precision(texts.query.local_BD)
    sides = [texts.positive] if texts.negatives is None else [texts.positive, texts.negatives]
    answers_BAD = torch.cat([in_full_precision(s.local_BD).unflatten(0, (len(query_BD), -1)) for s in sides], 1)
    cosine_BA = (query_BD[:, None] * answers_BAD).sum(-1)
    return cosine_BA, _local(_said(texts.scores_NA), texts).to(cosine_BA.dtype)


def _repeated(texts: Texts) -> tuple[Rows, int]:
    """(the queries, each as often as it has positives, that number): each positive has the row's score."""
    positives = len(texts.positive.local_BD) // len(texts.query.local_BD)
    return texts.query.repeated(positives), positives


def _each_positive(texts: Texts) -> list[Rows]:
    """The first positive of each row, the second of each, and so on; none where the query stands alone."""
    if texts.positive is texts.query:
        return []
    number = len(texts.positive.local_BD) // len(texts.query.local_BD)
    return [texts.positive.every(number, place) for place in range(number)]


def _cosines(left_ND: Tensor, right_ND: Tensor) -> Tensor:
    return (in_full_precision(left_ND) * in_full_precision(right_ND)).sum(-1)


def _local(of_N: Tensor, texts: Texts) -> Tensor:
    """This rank's part of what is known of all rows."""
    return of_N[texts.offset : texts.offset + len(texts.query.local_BD)]


def _said(value: Tensor | None) -> Tensor:
    assert value is not None, "the data have been checked for it"
    return value


def _named(name: str, total: Tensor, hidden_BA: Tensor | None = None) -> Loss:
    if hidden_BA is None:
        return Loss(total, {name: total.detach()})
    return Loss(total, {name: total.detach()}, hidden_BA.shape[1] - 1, hidden_BA.sum())
