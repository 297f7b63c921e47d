"""`teach` against a loop over texts in double precision, value and gradients; and what else it can do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from jemb.core.errors import InputError
from jemb.loss import Objectives, Rows, Texts, make_objective
from jemb.loss.objectives import Pairs
from jemb.loss.supervised import Teach

B, P, D, T = 4, 2, 6, 10


def vectors(seed: int, *shape: int) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return normalize(made, dim=-1).requires_grad_()


def rows(vectors_ND: torch.Tensor) -> Rows:
    hashes = torch.arange(len(vectors_ND)) + 100 * len(vectors_ND)
    return Rows(vectors_ND, vectors_ND, hashes, hashes)


def given(positives: int = P) -> Texts:
    query, positive = vectors(0, B, D), vectors(1, B * positives, D)
    return Texts(rows(query), rows(positive), teacher_BTD=3 * vectors(2, B, 1 + positives, T).detach())


def made(**options: float) -> Teach:
    torch.manual_seed(3)
    return Teach(D, T, **options)


def test_it_is_the_loop() -> None:
    texts, head = given(), made()
    loss = make_objective(head)(texts)
    loss.total.backward()
    assert texts.teacher_BTD is not None
    weight, bias = (p.detach().double().requires_grad_() for p in (head.project.weight, head.project.bias))
    query, positive = (side.local_BD.detach().double().requires_grad_() for side in (texts.query, texts.positive))
    total = torch.zeros((), dtype=torch.float64)
    for row in range(B):
        for place in range(1 + P):
            student = query[row] if place == 0 else positive[P * row + place - 1]
            image, wanted = weight @ student + bias, texts.teacher_BTD[row, place].double()
            total = total + 1 - image @ wanted / image.norm() / wanted.norm()
    total = total / (B * (1 + P))
    total.backward()
    torch.testing.assert_close(loss.total.double(), total, rtol=0, atol=1e-6)
    for found, expected in (
        (head.project.weight, weight),
        (head.project.bias, bias),
        (texts.query.local_BD, query),
        (texts.positive.local_BD, positive),
    ):
        assert found.grad is not None
        torch.testing.assert_close(found.grad.double(), expected.grad, rtol=1e-5, atol=1e-7)
    assert loss.terms.keys() == {"teach"}


def test_a_student_that_is_the_teacher_up_to_a_linear_map_has_no_loss() -> None:
    texts, head = given(1), made()
    student = torch.stack([texts.query.local_BD, texts.positive.local_BD], 1)
    loss = make_objective(head)(replace(texts, teacher_BTD=5 * head.project(student).detach()))
    assert loss.total.item() < 1e-6


def test_with_contrast_and_of_a_text_alone() -> None:
    texts = given(1)
    alone, pairs = make_objective(made())(texts), Pairs(temperature=0.1)(texts)
    both = make_objective(made(contrastive=0.5, temperature=0.1))(texts)
    torch.testing.assert_close(both.total, alone.total + 0.5 * pairs.total)
    assert both.terms.keys() == {"teach", *pairs.terms}
    assert texts.teacher_BTD is not None
    single = replace(texts, positive=texts.query, teacher_BTD=texts.teacher_BTD[:, :1])
    image = made().project(texts.query.local_BD)
    wanted = (1 - torch.cosine_similarity(image, texts.teacher_BTD[:, 0])).mean()
    torch.testing.assert_close(make_objective(made())(single).total, wanted)


def test_the_same_weights_in_each_start_and_a_width_that_is_missing() -> None:
    one, two, other = (
        Objectives("teach", seed=seed, student_width=D, teacher_width=T).heads["teach"].objective.project.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    with pytest.raises(InputError, match=r"objective=teach needs objective_options\.teacher_width"):
        Objectives("teach", student_width=D)
    with pytest.raises(InputError, match=r"objective_options\.contrastive=-1.0: wanted 0 or a number above 0"):
        made(contrastive=-1.0)
