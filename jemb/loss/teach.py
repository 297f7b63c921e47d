"""The student's vectors become the teacher's, as far as a linear map goes between them.

B local rows of T texts each, the query and its positives; t the teacher's vectors, W and b learned:

    teach    mean over rows and texts x of 1 - cos(W x + b, t)

A learned projection takes the student's width to the teacher's, as LEAF has it (arXiv 2509.12539), so that they need
not be equal; its loss is the squared distance, which of unit vectors is twice the one here. b takes up what all of the
student's vectors have in common at first (docs/log.md). Vectors alone are learned from, without labels or other rows,
so any text will do, and batches may be small.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from jemb.loss.objectives import Pairs
from jemb.loss.protocol import Loss, Texts, check_above_zero
from jemb.loss.tiles import in_full_precision


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
        teacher_BTD = texts.teacher_BTD
        assert teacher_BTD is not None, "the data have been checked for it"
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
