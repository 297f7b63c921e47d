"""Losses as a user writes them, outside of the package."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from jemb.loss import Loss, Texts, objective


class Ranking:
    """Each query finds its positive among those of all ranks; its own hard negatives count, where there are any."""

    negatives = True

    def __init__(self, scale: float = 20.0, temperature: float = 1.0) -> None:
        self.scale, self.temperature = scale, temperature

    def __call__(self, texts: Texts) -> Loss:
        assert texts.negatives is not None
        candidates_ND = torch.cat([texts.positive.all_ND, texts.negatives.all_ND])
        logits_BN = self.scale * texts.query.local_BD @ candidates_ND.T
        targets_B = texts.offset + torch.arange(len(logits_BN), device=logits_BN.device)
        loss = cross_entropy(logits_BN, targets_B)
        return Loss(loss, {"ranking": loss, "temperature": torch.tensor(self.temperature)})


@objective("distance")
def distance(texts: Texts, power: int = 2) -> Tensor:
    """The least that a loss can be: a function from texts to a scalar."""
    return ((texts.query.local_BD - texts.positive.local_BD).norm(dim=1) ** power).mean()


class Broken:
    """Forgets to take the mean."""

    def __call__(self, texts: Texts) -> Tensor:
        return texts.query.local_BD.sum(1)


class Weighted(torch.nn.Linear):
    """Wants options."""


class Learned(torch.nn.Module):
    """`Ranking` of pairs with weights of its own: a matrix between query and positive, and the scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((1,), 2.0))
        self.between = torch.nn.Linear(width, width)

    def forward(self, texts: Texts) -> Loss:
        logits_BN = self.scale.exp() * self.between(texts.query.local_BD) @ texts.positive.all_ND.T
        targets_B = texts.offset + torch.arange(len(logits_BN), device=logits_BN.device)
        return Loss(cross_entropy(logits_BN, targets_B), {"scale": self.scale.exp()[0]})


NOTHING = 3


class Anything:
    """Takes what it is given."""

    def __init__(self, **options: object) -> None:
        self.options = options
