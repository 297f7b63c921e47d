"""The losses of arXiv 2307.11224 and later ones: functions of vectors and hashes. They see candidates, not ranks."""

from jemb.loss.masks import EqualTexts, equal_texts
from jemb.loss.objectives import Pairs, Triplets, info_nce, margin_loss
from jemb.loss.protocol import Loss, NamedObjective, Objective, Objectives, Rows, Texts, make_objective, objective
from jemb.loss.tiles import LogSumExp, log_sum_exp

__all__ = [
    "EqualTexts",
    "LogSumExp",
    "Loss",
    "NamedObjective",
    "Objective",
    "Objectives",
    "Pairs",
    "Rows",
    "Texts",
    "Triplets",
    "equal_texts",
    "info_nce",
    "log_sum_exp",
    "make_objective",
    "margin_loss",
    "objective",
]
