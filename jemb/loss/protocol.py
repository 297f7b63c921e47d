"""What every objective gets and gives: the texts of a step, gathered from all ranks, and a loss with named terms.

Before: `train/module.py` encodes the batch and gathers its rows. After: it calls backward on the total. The gradient
law (`distributed/gather.py`) holds for any objective that takes the mean over its local rows. `Objectives` says which
one a data set is learned by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from jemb.core.errors import InputError
from jemb.loss.tiles import in_full_precision
from jemb.registry import OBJECTIVES

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rows:
    """Unit vectors and content hashes of one text of each row: this rank's, and all ranks' in rank order. The hashes
    are on the host, wherever the vectors are: to compare them is no work for a GPU, but to wait for it would be."""

    local_BD: Tensor
    all_ND: Tensor
    hash_B: Tensor
    hash_N: Tensor

    def cut(self, width: int) -> Rows:
        """The first `width` numbers of every vector, as unit vectors, fp32."""
        local_BD = _cut(self.local_BD, width)
        return replace(
            self, local_BD=local_BD, all_ND=local_BD if self.all_ND is self.local_BD else _cut(self.all_ND, width)
        )

    def repeated(self, times: int) -> Rows:
        """Each row so many times in turn."""
        return Rows(*(getattr(self, item.name).repeat_interleave(times, 0) for item in fields(self)))

    def every(self, number: int, start: int) -> Rows:
        """Each row whose place, from `start` on, is a multiple of `number`."""
        return Rows(*(getattr(self, item.name)[start::number] for item in fields(self)))


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of one step: B rows of this rank, N = W*B of all ranks; row i of this rank is row `offset + i` of all.

    query: B texts. positive: as many, or with `num_positives` P of each, row-major (row 0's P first); the same object
    as query for labelled texts that stand alone. negatives: B*K texts, row-major; None unless the objective has
    `negatives = True`. score_N: float64, and label_N: int64, equal for equal labels, of all ranks' rows; scores_NA: a
    teacher's of each row's positives and negatives, NaN where there is none; teacher_BTD: its vectors of the local
    rows' query, positives and negatives, T = 1 + P + K; each None where the data have no such field. dataset, step:
    where all rows of the step are from, and its number from 0.
    """

    query: Rows
    positive: Rows
    negatives: Rows | None = None
    offset: int = 0
    dataset: str = ""
    step: int = 0
    score_N: Tensor | None = None
    label_N: Tensor | None = None
    scores_NA: Tensor | None = None
    teacher_BTD: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """total: the scalar to call backward on. terms: parts of it for the log, by name, without gradient; the same names
    on every rank. Those of a smaller width are called `term@width`.

    candidates: how many negatives a query has, hidden ones included; None where that is not known. hidden: how many of
    those of all local rows are hidden. Both at the full width.
    """

    total: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    candidates: int | None = None
    hidden: Tensor | int = 0


class Objective(Protocol):
    """A loss: any callable from the texts of a step to a `Loss`, or to a scalar alone.

    It sees the rows of all ranks and takes the mean over its own; then a run gives the same on any number of processes
    under every strategy. With a class attribute `negatives = True` it gets hard negatives, `num_negatives` a row; one
    with `needs = "score"` (or "label", "scores", "teacher") is refused for data without that field. A module's weights
    are trained with the encoder's, kept in checkpoints, and left behind by the export.

        @objective("cosine")
        class Cosine:
            def __init__(self, scale: float = 20.0) -> None:
                self.scale = scale

            def __call__(self, texts: Texts) -> Loss:
                logits_BN = self.scale * texts.query.local_BD @ texts.positive.all_ND.T
                targets_B = texts.offset + torch.arange(len(logits_BN), device=logits_BN.device)
                return Loss(torch.nn.functional.cross_entropy(logits_BN, targets_B))
    """

    def __call__(self, texts: Texts) -> Loss | Tensor: ...


def objective(name: str) -> Callable[[T], T]:
    """Decorator of a class of objectives, or of a function of `Texts`: `objective=NAME` names it from here on.

    A package makes its own known to every command by an entry point of the group `jemb.objectives`.
    """
    return OBJECTIVES.add(name)


def check_above_zero(*, or_zero: bool = False, **options: float) -> None:
    """`InputError` for an option of an objective that is not a number above 0, or 0 where that may be."""
    for name, value in options.items():
        if not isinstance(value, int | float) or not 0 <= value < math.inf or not (value or or_zero):
            raise InputError(f"objective_options.{name}={value}: wanted {'0 or ' * or_zero}a number above 0")


class Head(nn.Module):
    """An objective with weights, to be called once in each step: FSDP2 puts all of them together for the call, and
    again where the tensor that it gives has a gradient."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective, self.found = objective, None

    def forward(self, texts: Texts | None) -> Any:
        """The total of the loss; what else it says is left in `found`. None: a step that is learned by another
        objective; then 0, with a gradient of 0 for each weight, which all strategies count like any other."""
        if texts is not None:
            self.found = self.objective.forward(texts)  # whose output DeepSpeed's hooks would not know
            return self.found.total if isinstance(self.found, Loss) else self.found
        return torch.stack([0 * p.sum() for p in self.parameters() if p.requires_grad]).sum()


class NamedObjective:
    """An objective whose losses are complete: a scalar total, and at least one term, called like the objective where
    that names none. head: its weights, where it has some to train."""

    def __init__(self, name: str, objective: Objective) -> None:
        self.name, self.objective = name, objective
        self.negatives, self.needs = bool(getattr(objective, "negatives", False)), getattr(objective, "needs", None)
        weighted = isinstance(objective, nn.Module) and any(p.requires_grad for p in objective.parameters())
        self.head = Head(objective) if isinstance(objective, nn.Module) and weighted else None

    def __call__(self, texts: Texts) -> Loss:
        if self.head is None:
            return self._complete(self.objective(texts))
        total = self.head(texts)
        found, self.head.found = self.head.found, None
        return self._complete(replace(found, total=total) if isinstance(found, Loss) else total)

    def _complete(self, found: Any) -> Loss:
        loss = found if isinstance(found, Loss) else Loss(found)
        total, graded = loss.total, torch.is_grad_enabled()
        if not isinstance(total, Tensor) or total.ndim or (graded and not total.requires_grad):
            seen = f"shape {tuple(total.shape)}" if isinstance(total, Tensor) else repr(total)
            raise InputError(
                f"objective={self.name}: wanted a scalar tensor with a gradient, or a jemb.loss.Loss with one; got "
                + (f"{seen} without gradient" if isinstance(total, Tensor) and not total.requires_grad else seen)
            )
        as_tensor = {key: torch.as_tensor(value, device=total.device) for key, value in loss.terms.items()}
        terms = {key: value.detach() for key, value in as_tensor.items()} or {self.name: total.detach()}
        return replace(loss, terms=terms)


def make_objective(wanted: str | Objective, options: Mapping[str, Any] | None = None, **offered: Any) -> NamedObjective:
    """The objective of that name (`pairs`, `triplets`, a registered one, PACKAGE.MODULE:NAME), or the one given.

    options: `objective_options`. offered: further options of the run (`temperature`, …), of which it gets those that it
    takes. Raises InputError for what does not exist or fit.
    """
    if isinstance(wanted, NamedObjective):
        return wanted
    if isinstance(wanted, str):
        return NamedObjective(wanted.rpartition(":")[2], OBJECTIVES.make(wanted, options or {}, offered))
    if not callable(wanted):
        raise InputError(f"objective={wanted!r}: cannot be called with the texts of a step")
    return NamedObjective(getattr(wanted, "__name__", type(wanted).__name__), wanted)


class Objectives:
    """objective: for all data sets; `auto`: the one called like the data set's kind. by_dataset: those of single ones.

    options: `objective_options`, of which each gets those it takes; offered: further options of the run. One objective
    alone must take them all. seed: of weights that an objective makes for itself. Raises InputError for what does not
    exist or fit.
    """

    def __init__(
        self,
        objective: str | Objective = "pairs",
        by_dataset: Mapping[str, str | Objective] | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        **offered: Any,
    ) -> None:
        self.auto, self.options, self.offered = objective == "auto", dict(options or {}), offered
        self.seed = seed
        self._made: dict[str, NamedObjective] = {}
        self.by_dataset = {name: self._add(given) for name, given in (by_dataset or {}).items()}
        alone = not (self.auto or self.by_dataset)
        self.default = "" if self.auto else self._add(objective, strictly=alone)

    def name_for(self, dataset: str, kind: str) -> str:
        """The objective of a data set."""
        return self.by_dataset.get(dataset) or self.default or kind

    @property
    def heads(self) -> dict[str, Head]:
        """Of the objectives that have weights, by a name that a module can have."""
        return {name.replace(".", "_"): made.head for name, made in self._made.items() if made.head}

    def __getitem__(self, name: str) -> NamedObjective:
        name = name or self.default
        if name not in self._made:
            self._add(name)
        return self._made[name]

    def _add(self, given: str | Objective, *, strictly: bool = False) -> str:
        options = self.options
        if isinstance(given, str) and not strictly:
            taken = OBJECTIVES.takes(given)
            options = {name: value for name, value in options.items() if name in taken}
        with torch.random.fork_rng(devices=()):  # the same on all ranks, and in each start of a run
            torch.manual_seed(self.seed)
            made = make_objective(given, options, **self.offered)
        name = given if isinstance(given, str) else made.name
        if name in self._made and not isinstance(given, str) and self._made[name].objective is not made.objective:
            raise InputError(f"two objectives are called {name}; wanted a name for each (jemb.loss.NamedObjective)")
        self._made[name] = made
        return name


def _cut(x_ND: Tensor, width: int) -> Tensor:
    x_ND = in_full_precision(x_ND)
    return x_ND if width == x_ND.shape[1] else normalize(x_ND[:, :width], dim=1)
