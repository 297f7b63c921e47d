"""What users add from outside the package, found by name: by a decorator, an entry point, or as PACKAGE.MODULE:NAME."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from jemb.core.errors import InputError

T = TypeVar("T")


class Registry:
    """Names of one kind of things. kind: what messages call it, and the option that names it. group: of entry points.
    own: the package's, name -> MODULE:NAME, imported when they are asked for."""

    def __init__(self, kind: str, group: str, own: Mapping[str, str]) -> None:
        self.kind, self.group, self.own = kind, group, own
        self.added: dict[str, Any] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator of a class or function: `name` stands for it in this process. A second one takes its place."""
        if name in self.own:
            raise InputError(f"{self.kind} '{name}' is the package's own; use another name")

        def register(item: T) -> T:
            self.added[name] = item
            return item

        return register

    def names(self) -> list[str]:
        return [*self.own, *self.added, *(entry.name for entry in entry_points(group=self.group))]

    def find(self, name: str) -> Any:
        """The class or function. Raises InputError where there is none, with what there is."""
        if name in self.added:
            return self.added[name]
        if place := self.own.get(name) or (name if ":" in name else None):
            return self._import(place)
        if found := [entry for entry in entry_points(group=self.group) if entry.name == name]:
            return self._import(found[0].value)
        raise InputError(
            f"{self.kind}={name}: there is no such {self.kind}{suggest(name, self.names())}; there are: "
            f"{', '.join(self.names())}, and PACKAGE.MODULE:NAME of your own"
        )

    def make(self, name: str, options: Mapping[str, Any], offered: Mapping[str, Any]) -> Any:
        """An object of the class `name` with these options, or the function with them filled in; and with those of
        `offered` that it takes."""
        item, taken = self.find(name), self.check(name, options, offered)
        values = {key: value for key, value in offered.items() if key in taken} | dict(options)
        return item(**values) if inspect.isclass(item) else partial(item, **values)

    def takes(self, name: str) -> set[str]:
        """The names of the options that `name` takes."""
        return set(inspect.signature(self.find(name)).parameters)

    def check(self, name: str, options: Mapping[str, Any], offered: Iterable[str] = ()) -> set[str]:
        """The names of the options that `name` takes. Raises InputError for others, and where one is missing."""
        item = self.find(name)
        if not callable(item):
            raise InputError(f"{self.kind}={name}: is {item!r}; wanted a class or a function")
        parameters = list(inspect.signature(item).parameters.values())
        parameters = parameters if inspect.isclass(item) else parameters[1:]  # a function's first is what it works on
        taken = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        option = f"{self.kind}_options"
        if not takes_all and (strangers := [key for key in options if key not in taken]):
            raise InputError(
                f"unknown option '{option}.{strangers[0]}'{suggest(strangers[0], taken)}; {name} takes "
                + (", ".join(taken) or "no options")
            )
        needed = [p.name for p in parameters if p.name in taken and p.default is p.empty]
        if missing := [key for key in needed if key not in options and key not in offered]:
            raise InputError(f"{self.kind}={name} needs {option}.{missing[0]}=…")
        return {*taken}

    def _import(self, place: str) -> Any:
        module, _, name = place.partition(":")
        try:
            found = import_module(module)
        except ImportError as error:
            raise InputError(f"{self.kind}={place}: {module} cannot be imported ({error})") from error
        if not hasattr(found, name):
            near = [key for key in vars(found) if key[0] != "_"]
            raise InputError(f"{self.kind}={place}: {module} has no {name}{suggest(name, near)}")
        return getattr(found, name)


def import_module(name: str) -> ModuleType:
    """A module that is installed, or lies in this folder, as for `python -m`: a command's path does not have it."""
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))
    return importlib.import_module(name)


def suggest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for a near miss, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


TASKS = Registry(
    "task",
    "jemb.tasks",
    {
        "sts": "jemb.evaluate.tasks.pairs:read_sts",
        "retrieval": "jemb.evaluate.ranking:read_retrieval",
        "reranking": "jemb.evaluate.ranking:read_reranking",
        "negation": "jemb.evaluate.tasks.pairs:read_negation",
    },
)
OBJECTIVES = Registry(
    "objective",
    "jemb.objectives",
    {
        "pairs": "jemb.loss.objectives:Pairs",
        "triplets": "jemb.loss.objectives:Triplets",
        "scored": "jemb.loss.supervised:Scored",
        "scored_cosine": "jemb.loss.supervised:ScoredCosine",
        "labelled": "jemb.loss.supervised:Labelled",
        "distill": "jemb.loss.supervised:Distill",
        "distill_margin": "jemb.loss.supervised:DistillMargin",
        "teach": "jemb.loss.supervised:Teach",
    },
)
