"""The collectives, on real gloo processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from jemb.core.errors import InputError
from jemb.distributed import gather_rows, gather_values, mean_over_ranks, rank, world_size
from jemb.distributed.ranks import on_rank_zero
from tests.helpers.ranks import joined, on_ranks


def facts() -> dict[str, Any]:
    """Everything about one rank that the tests below look at."""
    me = rank()
    x = (torch.arange(6.0).view(3, 2) + 100 * me).requires_grad_()
    rows = gather_rows(x)
    # Rank r wants (r + 1) * (index + 1) of row `index`: what a row gets back is the sum over ranks.
    wants = (me + 1) * torch.arange(1.0, len(rows) + 1)[:, None].expand_as(rows)
    (rows * wants).sum().backward()
    wide = torch.arange(6).view(2, 3) + 10 * me
    seen: dict[str, Any] = {
        "size": (me, world_size()),
        "rows": rows.detach(),
        "grad": x.grad,
        "needs_grad": rows.requires_grad,
        "int64": gather_values(torch.tensor([2**62 + me, -(2**63)])),
        "bool": gather_values(torch.tensor([me == 0, True])),
        "transposed": gather_values(wide.T),
        "one_column": gather_rows(wide.float()[:, 1:2]),
        "values_need_grad": gather_values(x).requires_grad,
        "mean": mean_over_ranks(torch.tensor([float(me), 1.0])),
        "zero": on_rank_zero(lambda: f"made by {me}"),
    }
    kept = torch.tensor([1.0])
    mean_over_ranks(kept)
    seen["argument"] = kept

    def fail() -> None:
        raise InputError(f"no such file, says {me}")

    try:
        on_rank_zero(fail)
    except InputError as error:
        seen["error"] = str(error)
    dist.barrier()
    return seen


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(tmp_path_factory.mktemp("gather"), request.param, joined, facts)


def test_rows_stand_in_rank_order(ranks: list[dict[str, Any]]) -> None:
    size = len(ranks)
    expected = torch.cat([torch.arange(6.0).view(3, 2) + 100 * me for me in range(size)])
    for me, seen in enumerate(ranks):
        assert seen["size"] == (me, size)
        assert torch.equal(seen["rows"], expected)
        assert seen["int64"].tolist() == [value for other in range(size) for value in (2**62 + other, -(2**63))]
        assert seen["bool"].tolist() == [value for other in range(size) for value in (other == 0, True)]
        base = [[0, 3], [1, 4], [2, 5]]
        assert seen["transposed"].tolist() == [[v + 10 * other for v in row] for other in range(size) for row in base]
        assert seen["one_column"].tolist() == [[v + 10.0 * other] for other in range(size) for v in (1, 4)]


def test_backward_sums_over_ranks(ranks: list[dict[str, Any]]) -> None:
    """Row i of all gets (1 + 2 + …) * (i + 1): the sum of what the ranks want, once."""
    total = sum(range(1, len(ranks) + 1))
    for me, seen in enumerate(ranks):
        expected = [[total * (3 * me + i + 1.0)] * 2 for i in range(3)]
        assert seen["grad"].tolist() == expected
        assert seen["needs_grad"]
        assert not seen["values_need_grad"]


def test_agreements(ranks: list[dict[str, Any]]) -> None:
    for seen in ranks:
        assert seen["mean"].tolist() == [(len(ranks) - 1) / 2, 1.0]
        assert seen["argument"].tolist() == [1.0], "the argument is left alone"
        assert seen["zero"] == "made by 0"
        assert seen["error"] == "no such file, says 0"


def test_one_process_needs_nothing(tmp_path: Path) -> None:
    x = torch.ones(2, 3, requires_grad=True)
    assert (rank(), world_size()) == (0, 1)
    gather_rows(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0] * 3] * 2
    assert not gather_values(x).requires_grad
    assert mean_over_ranks(torch.tensor([3.0])).tolist() == [3.0]
    assert on_rank_zero(lambda: 5) == 5
