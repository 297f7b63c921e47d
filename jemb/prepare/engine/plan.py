"""What is to be made of each source: its stages in order, their options, what they need, and what decides the rows.

Before: `source/sources.py` has found the sources. After: `run.py` makes the data sets. What a data set was made from,
the bytes of its input and the settings that decide its content, is kept in the manifest's `source` and compared, so
that a finished data set is neither made twice nor taken for another.
"""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jemb.prepare.options import PrepareConfig
from jemb.prepare.registry import Stage, StageInputs, Tools, all_stages
from jemb.prepare.source.sources import Source
from jemb.tables.hub import hub_state
from jemb.tables.places import base_name, each, is_url, look, open_bytes

RULES = 3
"""Raised whenever a stage comes to keep other rows for the same settings."""


@dataclass(slots=True)
class Step:
    """A stage of one data set. settings: what decides what it keeps, for the record."""

    stage: Stage
    options: Any
    inputs: StageInputs
    settings: dict[str, Any]


@dataclass(slots=True)
class Plan:
    """What is to be made of one source. across: the stages that look at the data sets before it."""

    source: Source
    config: PrepareConfig
    steps: list[Step]
    made_from: dict[str, Any]

    @property
    def across(self) -> list[Step]:
        return [step for step in self.steps if step.stage.across and getattr(step.options, step.stage.across)]

    def add_others(self, fingerprints: dict[str, str], output: Path) -> None:
        """Tell those stages which data sets there are."""
        for step in self.across if fingerprints else ():
            self.made_from["settings"][f"{step.stage.name}.others"] = fingerprints
            step.inputs = replace(step.inputs, others=tuple(output / name for name in fingerprints))


def plan_all(config: PrepareConfig, sources: Sequence[Source], tools: Tools) -> list[Plan]:
    """Of each source, with the options that are its own. Raises `InputError` where a stage cannot work."""
    stages = all_stages(config.plugins)
    ready: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {}
    plans: list[Plan] = []
    for source in sources:
        own = config.of(source.name)
        steps: list[Step] = []
        for name in (name for name in stages if name in own.stages):
            stage = stages[name]
            options = getattr(own, name) if stage.options else None
            key = (name, repr(options))
            if key not in ready:
                ready[key] = stage.before(options, tools) if stage.before else (None, {})
            prepared, settings = ready[key]
            inputs = StageInputs(config.seed, tools, prepared)
            steps.append(Step(stage, options, inputs, stage.settings(options) | settings))
        settings_of = {step.stage.name: step.settings for step in steps}
        plans.append(Plan(source, own, steps, origin(source, own, settings_of)))
    return plans


def origin(source: Source, config: PrepareConfig, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """JSON value: format, files and settings. stages: stage -> option -> value.

    Of a local file: name, bytes, sha256; of a remote one: name, bytes and what the server says changes with its content
    (`tag`); of a Hugging Face data set: name, config, split, fingerprint. No folders, so input may move. Where one is
    given also the licence, which makes no other data set.
    """
    made_from = {
        "format": source.format,
        "files": each(partial(describe, source.format), source.paths),
        "settings": settings(source, config, stages),
    }
    return made_from | ({"license": source.license} if source.license else {})


def describe(kind: str, path: str) -> dict[str, Any]:
    """What a file, URL or Hugging Face data set of that kind holds, without its folder."""
    if kind == "hf":
        return hub_state(path)
    if is_url(path):
        found = look(path)
        return {"file": found.name, "bytes": found.size, "tag": found.tag}
    with open_bytes(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file": base_name(path), "bytes": file.tell(), "sha256": digest}


def settings(source: Source, config: PrepareConfig, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The options that decide what is written, by dotted name: not workers, batch size or limits that only stop a job,
    and only those of stages that run. Of fields, constants and limit those that count for this data set."""
    values: dict[str, Any] = {"rules": RULES, "stages": list(stages), "seed": config.seed}
    values |= {"shard_samples": config.shard_samples, "keep_dropped": config.keep_dropped}
    values |= {} if source.limit is None else {"limit": source.limit}
    parts = {"fields": asdict(source.fields), "constants": source.constants, **stages}
    return values | {f"{part}.{name}": value for part, own in parts.items() for name, value in own.items()}


def is_origin(value: Mapping[str, Any]) -> bool:
    """Whether a manifest's `source` is an `origin`, and so the data set ours to replace."""
    return isinstance(value.get("settings"), dict) and isinstance(value.get("files"), list)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two origins, in words; empty when nothing does."""
    before, now = old["settings"], new["settings"]
    names = sorted(before.keys() | now.keys())
    found = [(name, before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)]
    if (files := [file["file"] for file in old["files"]]) != (new_files := [file["file"] for file in new["files"]]):
        found.append(("input", files, new_files))
    else:
        found += [(a["file"], a, b) for a, b in zip(old["files"], new["files"], strict=True) if a != b]
    return [f"{name} was {reprlib.repr(a)}, now {reprlib.repr(b)}" for name, a, b in found]
