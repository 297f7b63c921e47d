"""Which objective a data set is learned by: one for all, the one of its kind, or one that was named for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from jemb.core.errors import InputError
from jemb.loss.protocol import Head, NamedObjective, Objective, make_objective
from jemb.registry import OBJECTIVES

AUTO = "auto"


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
        self.auto, self.options, self.offered = objective == AUTO, dict(options or {}), offered
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
