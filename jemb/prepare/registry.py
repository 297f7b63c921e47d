"""What a stage of `jemb prepare` is. A file in `stages/`, or anybody's module, declares one; nothing else lists it.

    @stage("short", reasons={"too_short": "a side has fewer words than `words`"}, options=ShortConfig)
    def drop_short(rows, options, inputs):
        ...

A stage is a function of the live rows of one piece (`Verdict`), with `whole=True` one of the table, which does its work
through a `Job` (`Dropped`), or with `source=True` one that makes the rows of a source (`MadeRows`). From outside the
package it is found by an entry point of the group `jemb.stages`, or by `plugins=[module]`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from jemb.core.errors import InputError
from jemb.core.records import Kind
from jemb.registry import import_module

if TYPE_CHECKING:
    from jemb.prepare.engine.job import Job
    from jemb.prepare.engine.table import Dropped, Table, Verdict
    from jemb.prepare.source.sources import Source

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""N texts to unit vectors [N, D]. An `identity`, where the function has one, names all its vectors depend on."""
Score = Callable[[Sequence[tuple[str, str]]], npt.NDArray[np.float32]]
"""N (query, passage) to their relevance [N]."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What stages are given from outside, because `prepare/` knows no models and no evaluation tasks.

    Each is picklable. encoder, cross_encoder: options of a stage to a function from a model's name to the model, which
    each worker calls once. evaluation_texts: an entry of `decontaminate.against` to its texts.
    """

    encoder: Callable[[Any], Callable[[str], Encode]]
    cross_encoder: Callable[[Any], Callable[[str], Score]]
    evaluation_texts: Callable[[str], Iterable[str]]


def model_files(option: str, make: Callable[[str], Any], name: str) -> dict[str, Any]:
    """As a setting of a stage: a digest of the model's files where `name` is a folder, which may come to hold another
    model; {} for a name. make: what `Tools` gives; asked for its attribute `files`, where it has one."""
    found = make.files(name) if hasattr(make, "files") else ""
    return {f"{option}_files": found} if found else {}


@dataclass(frozen=True, slots=True)
class StageInputs:
    """What a stage works with besides rows and options.

    prepared: what its `before` returned. kind: of the rows as they were read. others: folders of the data sets finished
    before, with `exact.across`.
    """

    seed: int
    tools: Tools
    prepared: Any = None
    others: Sequence[Path] = ()
    kind: Kind = "pairs"


@dataclass(frozen=True, slots=True)
class MadeRows:
    """What a stage made of a source before it was read. source: to be read in its place. dropped, statistics: as of
    every stage. unreadable: records it could not use: file, line, reason, text, and whether the file breaks off there
    (`rest_lost`)."""

    source: Source
    dropped: Mapping[str, int]
    statistics: Mapping[str, Any]
    unreadable: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Statistic:
    """Words for a statistic in the report. title: what it shows. unit: of the counts. axis: what a histogram is over.
    setting: the option that draws a line in it. aside: the name in a tally that would dwarf the others."""

    title: str
    unit: str = "rows"
    axis: str = ""
    setting: str = ""
    aside: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """name: its own, that of its options, and in the report. reasons: why it drops rows -> what that says of a row;
    `language` stands for all of `language:…`. options: an `@options` class, or None. statistics: words for each.

    each: (rows, options, inputs) -> Verdict; looks at one piece at a time, as a pure, picklable function of `columns`.
    whole: (table, job, options, inputs) -> Dropped or several, in the main process; runs after `each`.
    source: (source, job, options, inputs) -> MadeRows, in the main process, before the rows are read, which may have no
    query; of a data set at most one stage is of this kind.
    before: (options, tools) -> (what the functions get as `prepared`, settings to be recorded in the place of options);
    called before any work, to raise `InputError`. after: the stage it follows, if that runs. default: runs unless
    `stages` says otherwise. adds_negatives: gives rows negatives. of_answers: takes the positive for a right
    answer, so it does not run on rows that have scores or labels. gpu: wants one. speed_only: options that do not
    change what it keeps. wanted_with: options that mean nothing unless it runs. writes_scores: the option with which it
    writes a teacher's scores. gives: what its files beside the shards (`table.BESIDE`) add to each sample, a name in
    `Manifest.fields`. across: the option that makes it
    look at the data sets finished before (`inputs.others`). advice: the likely cause where it drops much of a data
    set. version: raised when it comes to keep other rows for the same options.
    """

    name: str
    reasons: Mapping[str, str]
    options: type | None = None
    statistics: Mapping[str, Statistic] = field(default_factory=dict)
    each: Callable[..., Verdict] | None = None
    whole: Callable[[Table, Job, Any, StageInputs], Dropped | Sequence[Dropped]] | None = None
    source: Callable[[Source, Job, Any, StageInputs], MadeRows] | None = None
    before: Callable[[Any, Tools], tuple[Any, dict[str, Any]]] | None = None
    after: str | None = "language"
    columns: tuple[str, ...] = ("query", "positive", "negatives")
    default: bool = False
    adds_negatives: bool = False
    of_answers: bool = False
    gpu: bool = False
    speed_only: tuple[str, ...] = ()
    wanted_with: tuple[str, ...] = ()
    writes_scores: str = ""
    gives: str = ""
    across: str = ""
    advice: str = ""
    version: int = 1

    @property
    def function(self) -> Callable[..., Any] | None:
        """The one that it was declared with."""
        return self.whole or self.each or self.source

    def settings(self, options: Any) -> dict[str, Any]:
        """The options that decide what it keeps."""
        values = {} if options is None else asdict(options)
        values |= {"version": self.version} if self.version > 1 else {}
        return {name: value for name, value in values.items() if name not in self.speed_only}


_REGISTERED: dict[str, Stage] = {}


def stage(
    name: str, *, reasons: Mapping[str, str], whole: bool = False, source: bool = False, **about: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: register a function as a stage, see `Stage`; it stays what it was. Raises ValueError where another
    file has registered the name."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        functions: dict[str, Any] = {"whole" if whole else "source" if source else "each": function}
        made = Stage(name, reasons, **functions, **about)
        there = _REGISTERED.get(name)
        old = there and there.function
        if old and (old.__module__, old.__qualname__) != (function.__module__, function.__qualname__):
            raise ValueError(f"stage {name!r}: {old.__module__} has one of that name; wanted another name")
        if not name.isidentifier():
            raise ValueError(f"stage {name!r}: wanted letters, digits and underscores")
        _REGISTERED[name] = made
        return function

    return register


def all_stages(plugins: Sequence[str] = ()) -> dict[str, Stage]:
    """Every stage there is, in the order they run."""
    _load()
    for module in plugins:
        _import(module)
    return {one.name: one for one in _in_order(list(_REGISTERED.values()))}


def _in_order(stages: list[Stage]) -> Iterator[Stage]:
    """Each directly behind the one it comes after, those of others before our own."""

    def follow(name: str | None) -> Iterator[Stage]:
        for one in sorted((one for one in stages if one.after == name), key=lambda one: (_is_ours(one), one.name)):
            yield one
            yield from follow(one.name)

    yield from follow(None)
    known = {one.name for one in stages}
    yield from (one for one in stages if one.after is not None and one.after not in known)


def _is_ours(one: Stage) -> bool:
    function = one.function
    return function is not None and (function.__module__ or "").startswith("jemb.prepare.stages.")


@cache
def _load() -> None:
    import jemb.prepare.stages as own

    for module in pkgutil.iter_modules(own.__path__, f"{own.__name__}."):
        importlib.import_module(module.name)
    for point in entry_points(group="jemb.stages"):
        point.load()


def _import(module: str) -> None:
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"plugins: no Python module {module!r} ({error}); wanted one that is installed, or lies in {Path.cwd()}"
        ) from None
