"""Vectors that rank 0 asks for and all ranks compute: how evaluation is spread over processes, while training or after.

Before: a function from texts to vectors, on each rank its own. After: rank 0 scores tasks with the one made of them,
which deals the texts to the ranks. It alone holds the result, float32 [N, D]: 1.5 GB for a million texts at D = 384.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from jemb.core.progress import Progress
from jemb.data.deal import deal
from jemb.distributed.ranks import rank, world_size

Encode = Callable[[Sequence[str]], np.ndarray]
"""N texts -> float32 [N, D] in the order of the texts."""
SHARE = 4096
"""Most texts that a rank gets at once."""


@dataclass(frozen=True, slots=True)
class Order:
    """What rank 0 tells another: encode these texts with the model `key`; without texts: the end, maybe by an error."""

    key: Any = None
    texts: tuple[str, ...] = ()
    error: Exception | None = None


@contextmanager
def shared_encoding(make: Callable[[Any], Encode]) -> Iterator[Callable[[Any], Encode] | None]:
    """Rank 0 gets a function like `make` whose encoders work on all ranks; the others work until it leaves its block,
    then get None. What rank 0's block raises is raised on every rank. A process alone gets `make` itself.

    make: key of a model (picklable) -> its encoder on this rank; a rank calls it when the key is not that of before.
    In each call of such an encoder all ranks get equally many texts, at least one and at most `SHARE`, of like lengths.
    The vectors are those of one process but for rounding, as a text stands in another batch beside other padding: 1e-7
    in fp32, 1e-2 where the encoder computes in bf16.
    """
    if world_size() == 1:
        yield make
    elif rank():
        _follow(make)
        yield None
    else:
        pending: list[Order] = []  # that the others are in the middle of: they would not understand another
        try:
            yield lambda key: _SharedEncoder(key, make(key), pending)
        except Exception as error:
            if not pending:
                _tell([Order(error=error)] * world_size())
            raise
        _tell([Order()] * world_size())


class _SharedEncoder:
    """An encoder of rank 0 that works on all ranks. prompts: what evaluation puts before texts, if `make` says so."""

    def __init__(self, key: Any, own: Encode, pending: list[Order]) -> None:
        self.key, self.own, self.pending = key, own, pending
        self.prompts = getattr(own, "prompts", None)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return self.own(texts)
        numbers: dict[str, int] = {}
        place = [numbers.setdefault(text, len(numbers)) for text in texts]
        distinct = list(numbers)
        order = np.argsort([-len(text) for text in distinct], kind="stable")
        vectors: np.ndarray | None = None
        with Progress("encode", len(distinct), "text") as bar:
            for rows in np.split(order, range(SHARE * world_size(), len(order), SHARE * world_size())):
                found = self._encode([distinct[row] for row in rows])
                if vectors is None:
                    vectors = np.empty((len(distinct), found.shape[1]), np.float32)
                vectors[rows] = found
                bar.update(len(rows))
        assert vectors is not None
        return vectors if len(distinct) == len(texts) else vectors[place]

    def _encode(self, texts: list[str]) -> np.ndarray:
        """[N, D] of 1 to W*SHARE texts, the longest first."""
        # Where the texts do not come out even, some rank encodes the last, which is the shortest, again.
        padded = texts + texts[-1:] * (-len(texts) % world_size())
        lengths = np.array([len(text) for text in padded], np.int64)
        shares = [deal(lengths, number, world_size()) for number in range(world_size())]
        self.pending += [Order(self.key, tuple(padded[row] for row in share)) for share in shares]
        _tell(self.pending)
        vectors = _collect(self.own(self.pending[0].texts))
        self.pending.clear()
        out = np.empty_like(vectors)
        out[np.concatenate(shares)] = vectors
        return out[: len(texts)]


def _follow(make: Callable[[Any], Encode]) -> None:
    """The side of the other ranks."""
    key, encode = None, None
    while (order := _tell(None)).texts:
        if encode is None or order.key != key:
            key, encode = order.key, make(order.key)
        _collect(encode(order.texts))
    if order.error:
        raise order.error


def _tell(orders: Sequence[Order] | None) -> Order:
    """The order for this rank, of those that rank 0 gives."""
    mine: list[Any] = [None]
    dist.scatter_object_list(mine, list(orders) if orders else None)
    order: Order = mine[0]
    return order


def _collect(vectors: np.ndarray) -> np.ndarray:
    """[n, D] on each rank -> [W*n, D] in rank order on rank 0; on the others what they gave."""
    mine = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
    parts: list[Tensor] | None = [torch.empty_like(mine) for _ in range(world_size())] if rank() == 0 else None
    dist.gather(mine, parts)
    return torch.cat(parts).numpy() if parts else vectors
