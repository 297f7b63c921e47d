"""Options of `jemb prepare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, asdict, field, fields, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import BeforeValidator, Field

from jemb.config.parse import options
from jemb.config.types import Positive, Seed, Share, Strings
from jemb.prepare.registry import Stage, all_stages

FIELD_OPTIONS = ("query", "positive", "negative", "negatives", "positives", "score", "label", "scores")


@options
class FieldsConfig:
    """Which fields of the input hold the texts."""

    query: str = "query"
    """Field with the query."""
    positive: str = "positive"
    """Field with the text that belongs to the query."""
    negative: str = "negative"
    """Field with one hard negative (a string), where there is one."""
    negatives: str = "negatives"
    """Field with a list of hard negatives, where there is one."""
    positives: str | None = "positives"
    """Field with a list of right answers, in the place of or besides `positive`; null: none is looked for."""
    score: str | None = "score"
    """Field with a number that says how alike query and positive are, the higher the more: all rows or none have it,
    and make a data set of kind scored; null: none is looked for."""
    label: str | None = "label"
    """Field with the class of the texts, a whole number or a text: all rows or none have it, and make a data set of
    kind labelled, whose rows need no positive; null: none is looked for."""
    scores: str | None = "scores"
    """Field with a teacher's scores, a list of a number for each positive and then each negative: all rows or none have
    it, and make a data set of kind distill; null: none is looked for."""

    def __post_init__(self) -> None:
        named: dict[str, str] = {}
        for option in FIELD_OPTIONS:
            name = getattr(self, option)
            if name and name in named:
                raise ValueError(f"fields.{named[name]} and fields.{option} are both '{name}'; wanted different fields")
            named[name] = option


@options
class SourceConfig:
    """One data set of the input: where it is, and what is particular to it."""

    path: str | None = None
    """Where the data set NAME is: a file, a folder of such files, a URL, or `hf:NAME[:CONFIG[:SPLIT]]`. null: the one
    of that name in `input`, for which the other options count."""
    fields: Annotated[dict[str, str | None], Field(json_schema_extra={"key": "OPTION"})] = field(default_factory=dict)
    """As `fields.OPTION`, for this data set."""
    constants: Annotated[dict[str, str], Field(json_schema_extra={"key": "FIELD"})] = field(default_factory=dict)
    """A text that every sample gets as its field FIELD."""
    limit: Positive | None = None
    """Take the first rows only, so many; null: all."""
    license: str | None = None
    """Licence of the data, for the record: it is carried into the manifest, the run and the card of the model."""

    if TYPE_CHECKING:  # and what `_whole` adds
        stages: list[str] | None = None


@options
class RayConfig:
    """The Ray cluster of `executor=ray`."""

    address: str | None = None
    """`auto`: the cluster this machine belongs to; `HOST:PORT` or `ray://HOST:PORT`: that one; null: one of its own on
    this machine, for the time of the job."""


@options
class PrepareConfig:
    """Turn raw pairs into clean, shuffled shards. Paper: arXiv 2307.11224, section 2.

    Beside the fields here there are `stages`, and for each stage that is registered (`jemb/prepare/registry.py`) a
    field of its name with its options. A data set of `sources` may have `stages` and options of its own.
    """

    if TYPE_CHECKING:
        stages: list[str] = field(default_factory=list)

        def __init__(self, **values: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

    input: str | None = None
    """Folder, here or a URL, in which each file `NAME.jsonl`, `.csv`, `.tsv` (each also `.gz`, `.zst`) or `.parquet`,
    and each folder NAME of such files of one kind or of WebDataset tars (`.tar`, `.tar.gz`), is the data set NAME; or
    one such file; or `hf:NAME[:CONFIG[:SPLIT]]`, a data set of the Hugging Face hub or in its format on this disk.
    null: there are only the data sets of `sources`."""
    output: str
    """Folder for the shards: one sub-folder a data set. A finished data set is not made again."""
    plugins: Strings = field(default_factory=list)
    """Python modules with stages of your own, `my_stages` or `package.module`: installed, or in this folder."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    max_unreadable: Share = 0.01
    """Share of unreadable rows of a data set above which the job stops; 0 to 1."""
    keep_dropped: bool = False
    """Also write the dropped rows, with `stage`, `reason` and `note`, as shards in the data set's folder `dropped`; of
    a data set of which nothing is left, in `.NAME.dropped` beside the others."""
    shard_samples: Positive = 50_000
    """Samples in a shard."""
    seed: Seed = 0
    """Seed of the shuffle, the MinHash permutations, the pools and the draw of negatives."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Tasks that run at once; 0: one per core, on a Ray cluster as many as it has CPUs."""
    executor: Literal["local", "ray"] = "local"
    """Where the work runs: in processes on this machine, or as tasks of a Ray cluster (`pip install 'jemb[ray]'`). The
    result is the same."""
    ray: RayConfig = field(default_factory=RayConfig)
    overwrite: bool = False
    """Replace data sets in `output` that were made from other input or with other settings."""

    def __new__(cls, **values: Any) -> PrepareConfig:
        """Of the class that has the stages of `plugins` too."""
        plugins, stages = (values.get(name) or [] for name in ("plugins", "stages"))
        made: PrepareConfig = object.__new__(cls.whole(*(_as_list(some) for some in (plugins, stages))))
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (asdict(self),)

    @staticmethod
    def whole(plugins: Sequence[str] = (), stages: Sequence[str] = ()) -> type[PrepareConfig]:
        """The class with the options of all stages there are. plugins: modules to import first; so are those of
        `stages` that are named as MODULE:NAME."""
        modules = [*plugins, *(stage.partition(":")[0] for stage in stages if ":" in stage)]
        return _whole(tuple(all_stages(modules).values()))

    def of(self, name: str) -> PrepareConfig:
        """The config as it is for one data set: with the stages and options that `sources.NAME` has of its own."""
        source = self.sources.get(name)
        if source is None:
            return self
        changes: dict[str, Any] = {"sources": {}}
        if source.stages is not None:
            changes["stages"] = source.stages
            # An option that wants its stage is there for other data sets.
            for stage, about in all_stages(self.plugins).items():
                if about.wanted_with and stage not in source.stages:
                    changes[stage] = type(getattr(self, stage))()
        for group in ("fields", *all_stages(self.plugins)):
            if given := getattr(source, group, None):
                usual = getattr(self, group)
                try:
                    changes[group] = type(usual)(**_values(usual) | given)
                except ValueError as error:
                    raise ValueError(f"sources.{name}.{group}: {error}") from None
        return replace(self, **changes)

    def _check_stages(self) -> None:
        chosen = [*self.stages, *(stage for source in self.sources.values() for stage in source.stages or ())]
        for name, stage in all_stages(self.plugins).items():
            for option in stage.wanted_with:
                if getattr(getattr(self, name), option) and name not in chosen:
                    raise ValueError(
                        f"{name}.{option} is given, but {name} is not among the stages; wanted e.g. "
                        f"stages=[{','.join(other for other in all_stages() if other in {name, *self.stages})}]"
                    )
        for name in self.sources:
            self.of(name)


def _values(config: Any) -> dict[str, Any]:
    return {item.name: getattr(config, item.name) for item in fields(config)}


def _made_again(values: dict[str, Any]) -> PrepareConfig:
    return PrepareConfig(**values)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else list(value) if isinstance(value, tuple) else value


@cache
def _whole(stages: tuple[Stage, ...]) -> type[PrepareConfig]:
    """`PrepareConfig` with fields for the stages."""
    names = [stage.name for stage in stages]
    of_function = {
        f"{function.__module__}:{function.__name__}": stage.name for stage in stages if (function := stage.function)
    }

    def by_name(value: Any) -> Any:
        """MODULE:NAME stands for the stage that the function is."""
        value = _as_list(value)
        return [of_function.get(item, item) for item in value] if isinstance(value, list) else value

    choice: Any = Literal.__getitem__(tuple(names))  # made at run time, which no checker of types can follow
    some: Any = Annotated[list[choice], BeforeValidator(by_name)]
    own: dict[str, Any] = {
        stage.name: (
            dict[str, Any],
            {},
            f"Options of {stage.name} for this data set, in the place of `{stage.name}.OPTION`.",
        )
        for stage in stages
        if stage.options
    }
    source = _extended(
        SourceConfig,
        {"stages": (some | None, None, "Filters to run for this data set; null: as `stages`.")} | own,
        {name: {"key": "OPTION"} for name in own},
    )

    def as_values(value: Any) -> Any:
        """A `SourceConfig` that was made from Python knows no stages."""
        plain = isinstance(value, SourceConfig) and not isinstance(value, source)
        return _values(value) if plain else value

    sources = dict[str, Annotated[source, BeforeValidator(as_values)]]  # type: ignore[valid-type]
    default = [stage.name for stage in stages if stage.default]
    text = (
        f"Filters to run, out of {', '.join(names)}; they run in this order whatever the order given. Unreadable rows "
        "are always left out."
    )
    options_of = {stage.name: (stage.options, stage.options, "") for stage in stages if stage.options}
    return _extended(PrepareConfig, {"stages": (some, default, text), **options_of, "sources": (sources, {}, "")}, {})


def _extended(base: type[Any], added: dict[str, tuple[Any, Any, str]], extra: Mapping[str, Any]) -> type[Any]:
    """A subclass with more fields, each (type, default or its factory, meaning). A stage's name may be that of a field
    here: then the field wins, and the stage is refused."""
    hints = get_type_hints(base, include_extras=True)
    every: dict[str, tuple[Any, Any, str]] = {}
    for item in fields(base):
        default = item.default_factory if item.default_factory is not MISSING else item.default
        meaning = (base.__pydantic_fields__[item.name].description or "").partition("\n\n")[0]
        every[item.name] = (hints[item.name], default, meaning)
    if taken := (every.keys() & added.keys()) - {"sources"}:
        raise ValueError(f"stage {min(taken)!r}: jemb prepare has an option of that name; wanted another name")
    types: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for name, (hint, default, meaning) in (every | added).items():
        key = {"json_schema_extra": extra[name]} if name in extra else {}
        types[name] = Annotated[hint, Field(description=meaning or None, **key)]
        if isinstance(default, list | dict):
            defaults[name] = field(default_factory=partial(deepcopy, default))
        elif default is not MISSING:
            defaults[name] = field(default_factory=default) if callable(default) else default
    checks = {"__post_init__": lambda self: self._check_stages()}
    names = {"__doc__": base.__doc__, "__module__": base.__module__, "__annotations__": types, **defaults}
    return options(type(base.__name__, (base,), names | (checks if base is PrepareConfig else {})))
