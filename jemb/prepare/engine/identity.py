"""What a prepared data set was made from: the bytes of its input and the settings that decide its content.

`run.py` keeps it in the manifest's `source` and compares it, so that a finished data set is neither made twice nor
taken for another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from jemb.prepare.options import FIELD_OPTIONS, PrepareConfig
from jemb.prepare.source.sources import Source
from jemb.tables.hub import hub_name, hub_state
from jemb.tables.places import base_name, each, is_url, look, open_bytes

Settings = Mapping[str, Mapping[str, Any]]
"""Stage -> option -> value."""
RULES = 3
"""Raised whenever a stage comes to keep other rows for the same settings."""


def origin(source: Source, config: PrepareConfig, stages: Settings) -> dict[str, Any]:
    """JSON value: format, files and settings.

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
        return hub_state(hub_name(path))
    if is_url(path):
        found = look(path)
        return {"file": found.name, "bytes": found.size, "tag": found.tag}
    with open_bytes(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file": base_name(path), "bytes": file.tell(), "sha256": digest}


def is_origin(value: Mapping[str, Any]) -> bool:
    """Whether a manifest's `source` is an `origin`, and so the data set ours to replace."""
    return isinstance(value.get("settings"), dict) and isinstance(value.get("files"), list)


def settings(source: Source, config: PrepareConfig, stages: Settings) -> dict[str, Any]:
    """The options that decide what is written, by dotted name: not workers, batch size or limits that only stop a job,
    and only those of stages that run. Of fields, constants and limit those that count for this data set."""
    values: dict[str, Any] = {"rules": RULES, "stages": list(stages), "seed": config.seed}
    values |= {"shard_samples": config.shard_samples, "keep_dropped": config.keep_dropped}
    # What was not looked for in earlier versions is told where it is named, so that what they made stays finished.
    asked = {name: value for name, value in asdict(source.fields).items() if name in FIELD_OPTIONS[:4] or name != value}
    values |= {f"fields.{name}": value for name, value in asked.items()}
    values |= {f"constants.{name}": value for name, value in source.constants.items()}
    if source.limit is not None:
        values["limit"] = source.limit
    for stage, own in stages.items():
        values |= {f"{stage}.{name}": value for name, value in own.items()}
    return values


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two origins, in words; empty when nothing does."""
    before, now = old["settings"], new["settings"]
    found = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if _or_none(before.get(name)) != _or_none(now.get(name))
    ]
    return found + _changed_files(old["files"], new["files"])


def _or_none(value: Any) -> Any:
    """An option that is off is as good as one that an earlier version did not have."""
    return None if value is False else value


def _changed_files(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    if old == new:
        return []
    if [file["file"] for file in old] != [file["file"] for file in new]:
        return [f"input was {_names(old)}, now {_names(new)}"]
    return [f"{a['file']} was {_state(a)}, now {_state(b)}" for a, b in zip(old, new, strict=True) if a != b]


def _state(file: Mapping[str, Any]) -> str:
    if "sha256" in file:
        return f"{file['bytes']} bytes with sha256 {file['sha256'][:12]}"
    return ", ".join(f"{name} {value}" for name, value in file.items() if name != "file")


def _names(files: list[dict[str, Any]]) -> str:
    names = [str(file["file"]) for file in files]
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} files from {names[0]} to {names[-1]}"
