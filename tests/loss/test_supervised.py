"""Objectives over scores, labels and a teacher's scores: equal to sentence-transformers' on the same vectors, or to a
slow reference; and the same gradient from any number of ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer import losses as theirs
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from jemb.core.errors import InputError
from jemb.loss import Objectives, Rows, Texts
from jemb.loss.objectives import Pairs, Triplets, spread_out
from jemb.loss.supervised import Distill, DistillMargin, Labelled, Scored, ScoredCosine

N, D, K = 12, 8, 3
MODEL: Any = SimpleNamespace(similarity_fn_name=None)


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed)), dim=-1)


SCORE = torch.tensor([3, 1, 4, 1, 5, 2, 2, 3.5, 0, 1, 4, 2], dtype=torch.float64)
LABEL = torch.tensor([7, 8, 7, 9, 9, 7, 8, 8, 8, 1, 9, 7])
TEACHER = torch.randn(N, 1 + K, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
HOLES = TEACHER.masked_fill(torch.arange(1 + K) >= torch.arange(N)[:, None] % K + 2, math.nan)


def rows(x_ND: Tensor, part: slice) -> Rows:
    hashes = (1e6 * x_ND.detach() @ torch.linspace(1, 2, D)).long()
    return Rows(x_ND[part], x_ND, hashes[part], hashes)


def texts(q: Tensor, p: Tensor, n: Tensor | None = None, *, rank: int = 0, ranks: int = 1, **said: Tensor) -> Texts:
    """What `rank` of so many sees of them."""

    def share(x: Tensor) -> Rows:
        size = len(x) // ranks
        return rows(x, slice(rank * size, (rank + 1) * size))

    query = share(q)
    positive = query if p is q else share(p)
    return Texts(query, positive, None if n is None else share(n), offset=rank * len(q) // ranks, **said)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("scored", "scale", -1.0),
        ("labelled", "temperature", 0.0),
        ("distill", "temperature", math.inf),
        ("distill", "teacher_temperature", 0.0),
        ("distill_margin", "scale", math.nan),
        ("scored", "scale", "abc"),
    ],
)
def test_numbers_that_no_objective_can_work_with(name: str, option: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"objective_options\.{option}={value}: wanted a number above 0"):
        Objectives(name, options={option: value})


CASES: dict[str, tuple[Any, dict[str, Tensor], bool]] = {
    "scored": (Scored(), {"score_N": SCORE}, False),
    "scored_cosine": (ScoredCosine(), {"score_N": SCORE / 5}, False),
    "labelled": (Labelled(temperature=0.3), {"label_N": LABEL}, False),
    "labelled alone": (Labelled(temperature=0.3), {"label_N": LABEL}, False),
    "distill": (Distill(temperature=0.2), {"scores_NA": TEACHER}, True),
    "distill with holes": (Distill(temperature=0.2), {"scores_NA": HOLES}, True),
    "distill_margin": (DistillMargin(), {"scores_NA": TEACHER}, True),
    "distill_margin with holes": (DistillMargin(scale=2.0), {"scores_NA": HOLES}, True),
    "spread_out": (Pairs(temperature=0.2, loss_weights={"query_to_positive": 1, "spread_out": 0.7}), {}, False),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ranks", [2, 4])
def test_the_gradient_does_not_depend_on_the_ranks(case: str, ranks: int) -> None:
    """The law: every rank takes the loss of its rows, and the strategy the mean over the ranks."""
    objective, said, negatives = CASES[case]

    def gradient(ranks: int) -> tuple[Tensor, list[float]]:
        q, p, n = (vectors(*shape, seed=seed).requires_grad_() for seed, shape in enumerate([(N,), (N,), (N * K,)]))
        p = q if case == "labelled alone" else p
        found = [
            objective(texts(q, p, n if negatives else None, rank=rank, ranks=ranks, **said)).total
            for rank in range(ranks)
        ]
        torch.stack(found).mean().backward()
        used = [x.grad for x in (q, p, n) if x.grad is not None]
        return torch.cat(used), [float(value.detach()) for value in found]

    one, (whole,) = gradient(1)
    many, parts = gradient(ranks)
    assert one.abs().max() > 0.01
    assert sum(parts) / ranks == pytest.approx(whole, abs=1e-5)
    assert torch.allclose(one, many, atol=1e-6)


Theirs = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.mark.parametrize(
    ("case", "reference"),
    [
        ("scored", lambda q, p, n: theirs.CoSENTLoss(MODEL).compute_loss_from_embeddings([q, p], SCORE.float())),
        ("scored_cosine", lambda q, p, n: (cosine_similarity(q, p) - SCORE.float() / 5).square().mean()),
        (
            "distill",
            lambda q, p, n: (
                theirs.DistillKLDivLoss(
                    MODEL, student_temperature=0.2, teacher_temperature=1.0
                ).compute_loss_from_embeddings([q, p, *n], TEACHER.float())
                / 0.2**2
            ),
        ),
        (
            "distill_margin",
            lambda q, p, n: theirs.MarginMSELoss(MODEL).compute_loss_from_embeddings([q, p, *n], TEACHER.float()),
        ),
    ],
)
def test_as_sentence_transformers_has_it(case: str, reference: Theirs) -> None:
    objective, said, _ = CASES[case]
    q, p, n = vectors(N), vectors(N, seed=1), vectors(N * K, seed=2)
    ours = objective(texts(q, p, n, **said)).total
    assert float(ours) == pytest.approx(float(reference(q, p, n.unflatten(0, (N, K)).unbind(1))), abs=1e-5)


def test_rows_without_scores_count_for_nothing() -> None:
    """By hand, answer by answer."""
    q, p, n = vectors(N), vectors(N, seed=1), vectors(N * K, seed=2)
    answers = torch.cat([p[:, None], n.unflatten(0, (N, K))], 1)
    kl, margins = [], []
    for row in range(N):
        known = [k for k in range(1 + K) if not math.isnan(HOLES[row, k])]
        said = torch.tensor([HOLES[row, k] for k in known])
        cosines = torch.stack([q[row] @ answers[row, k] for k in known])
        teacher = said.softmax(0)
        kl.append(float((teacher * (teacher.log() - (cosines.double() / 0.2).log_softmax(0))).sum()))
        margins += [float((2 * (cosines[0] - cosines[i]) - (said[0] - said[i])) ** 2) for i in range(1, len(known))]
    data = texts(q, p, n, scores_NA=HOLES)
    found = Distill(temperature=0.2)(data)
    assert float(found.total) == pytest.approx(sum(kl) / N, abs=1e-5)
    assert (found.candidates, int(found.hidden)) == (K, int(HOLES.isnan().sum()))
    assert float(DistillMargin(scale=2.0)(data).total) == pytest.approx(sum(margins) / len(margins), abs=1e-5)


@pytest.mark.parametrize("both", [False, True])
def test_supcon_text_by_text(both: bool) -> None:
    """Equation 2 of arXiv 2004.11362; label 1 has a single row, which has a partner only with both sides."""
    q, p = vectors(N), vectors(N, seed=1)
    x, label = (torch.cat([q, p]), LABEL.repeat(2)) if both else (q, LABEL)
    found = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        near = [j for j in others if label[j] == label[i]]
        denominator = torch.stack([(x[i] @ x[j]) / 0.3 for j in others]).logsumexp(0)
        if near:
            found.append(sum(float(denominator - (x[i] @ x[j]) / 0.3) for j in near) / len(near))
    assert len(found) == (2 * N if both else N - 1)
    ours = Labelled(temperature=0.3)(texts(q, p if both else q, label_N=LABEL)).total
    assert float(ours) == pytest.approx(sum(found) / len(found), abs=1e-5)


def test_cosent_without_any_order() -> None:
    q = vectors(N).requires_grad_()
    loss = Scored()(texts(q, vectors(N, seed=1), score_N=torch.ones(N, dtype=torch.float64))).total
    loss.backward()
    assert float(loss) == 0
    assert float(q.grad.abs().max()) == 0  # type: ignore[union-attr]


def test_scores_that_are_no_cosines() -> None:
    with pytest.raises(InputError, match=r"data set d has the score 5; wanted cosines, -1 to 1\. objective=scored"):
        ScoredCosine()(Texts(*[rows(vectors(N), slice(N))] * 2, dataset="d", score_N=SCORE))


@pytest.mark.parametrize("ranks", [1, 2])
def test_several_positives_are_as_many_pairs(ranks: int) -> None:
    """The loss of a batch in which each pair is a row of its own, whose query's other positives are hidden."""
    each = 2
    q, p, n = vectors(N), vectors(N * each, seed=1), vectors(N, seed=2)
    options: Any = {"temperature": 0.2, "margin": 0.3, "extra_negatives": ["query_query", "positive_positive"]}
    objective = Triplets(**options)
    found = sum(float(objective(texts(q, p, n, rank=r, ranks=ranks)).total) for r in range(ranks)) / ranks
    expanded = q.repeat_interleave(each, 0)
    logits = expanded @ p.T / 0.2
    owner = torch.arange(N).repeat_interleave(each)
    same = owner[:, None] == owner[None]
    other = (expanded @ expanded.T / 0.2).masked_fill(same, -torch.inf)
    beside = (p @ p.T / 0.2).masked_fill(same, -torch.inf)
    own = logits.diagonal()
    rest = logits.masked_fill(same, -torch.inf)
    to_positive = torch.cat([own[:, None], rest, expanded @ n.T / 0.2, other], 1).logsumexp(1) - own
    to_query = torch.cat([own[:, None], rest.T, beside], 1).logsumexp(1) - own
    lead = (expanded * n.repeat_interleave(each, 0)).sum(1) - own * 0.2 + 0.3
    assert found == pytest.approx(float((to_positive + to_query + lead.relu()).mean()), abs=1e-5)
    with pytest.raises(InputError, match="mask_equal_texts=false with num_positives above 1"):
        Pairs(mask_equal_texts=False)(texts(q, p))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("objective", [Scored(), ScoredCosine(), Labelled()])
def test_several_positives_have_the_score_and_the_label_of_their_row(objective: Any, ranks: int) -> None:
    """As if each were a row of its own; in `labelled`, where the query counts once, as if each were a text alone."""
    q, p = vectors(N), vectors(N * 2, seed=1)
    said = {"label_N": LABEL} if isinstance(objective, Labelled) else {"score_N": SCORE / 5}
    found = sum(float(objective(texts(q, p, rank=r, ranks=ranks, **said)).total) for r in range(ranks)) / ranks
    alone = torch.cat([q, p])
    apart = (
        texts(alone, alone, label_N=torch.cat([LABEL, LABEL.repeat_interleave(2)]))
        if isinstance(objective, Labelled)
        else texts(q.repeat_interleave(2, 0), p, score_N=(SCORE / 5).repeat_interleave(2))
    )
    assert found == pytest.approx(float(objective(apart).total), abs=1e-5)


def test_spread_out_by_hand() -> None:
    """The second moment of sentence-transformers' GOR, of which it takes what exceeds 1 / D."""
    x = vectors(N)
    by_hand = sum(float(x[i] @ x[j]) ** 2 for i in range(N) for j in range(N) if i != j) / (N * (N - 1))
    assert float(spread_out(rows(x, slice(N)))) == pytest.approx(by_hand, abs=1e-6)
    assert float(spread_out(rows(x, slice(N)).repeated(3), 3)) == pytest.approx(by_hand, abs=1e-6)
    gor = theirs.GlobalOrthogonalRegularizationLoss(MODEL, mean_weight=None, aggregation="sum")
    moment = gor.compute_loss_from_embeddings([x])["gor_second_moment"]
    assert float(moment) == pytest.approx(max(0, by_hand - 1 / D), abs=1e-6)
    loss = Pairs(temperature=0.2, loss_weights={"joint": 1, "spread_out": 2})(texts(x, vectors(N, seed=1)))
    assert float(loss.total) == pytest.approx(float(loss.terms["joint"] + 2 * loss.terms["spread_out"]), abs=1e-6)


def test_which_objective_a_data_set_has() -> None:
    choice = Objectives("auto", {"faq": "distill_margin"}, {"scale": 3.0}, temperature=0.3)
    assert [choice.name_for("a", kind) for kind in ("pairs", "scored")] == ["pairs", "scored"]
    assert choice.name_for("faq", "distill") == "distill_margin"
    assert choice["distill_margin"].objective == DistillMargin(scale=3.0)
    assert choice["scored"].objective == Scored(scale=3.0)
    assert choice["labelled"].objective == Labelled(temperature=0.3)
    assert Objectives("pairs").name_for("a", "scored") == "pairs"
    with pytest.raises(InputError, match="scale"):
        Objectives("pairs", options={"scale": 3.0})
