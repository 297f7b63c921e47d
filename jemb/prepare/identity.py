"""What a prepared data set was made from: the bytes of its input and the settings that decide its content.

`run.py` keeps it in the manifest's `source` and compares it, so that a finished data set is neither made twice nor
taken for another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from jemb.config import PrepareConfig
from jemb.prepare.sources import Source

RULES = 1
"""Raised whenever a stage comes to keep other rows for the same settings."""
STAGE_NAMES = ("exact", "near_duplicates", "language", "consistency")
"""The filters in the paper's order."""


def origin(source: Source, config: PrepareConfig) -> dict[str, Any]:
    """JSON value: format, files (name, bytes, sha256; no folders, so input may move) and settings."""
    files = []
    for path in source.paths:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append({"file": path.name, "bytes": path.stat().st_size, "sha256": digest})
    return {"format": source.format.removeprefix("."), "files": files, "settings": settings(config)}


def is_origin(value: Mapping[str, Any]) -> bool:
    """Whether a manifest's `source` is an `origin`, and so the data set ours to replace."""
    return isinstance(value.get("settings"), dict) and isinstance(value.get("files"), list)


def settings(config: PrepareConfig) -> dict[str, Any]:
    """The options that decide what is written, by dotted name: not workers, batch size or limits that only stop a job,
    and only those of stages that run."""
    chosen = [name for name in STAGE_NAMES if name in config.stages]
    values: dict[str, Any] = {"rules": RULES, "stages": chosen, "seed": config.seed}
    values |= {"shard_samples": config.shard_samples, "keep_dropped": config.keep_dropped}
    values |= {f"fields.{name}": value for name, value in asdict(config.fields).items()}
    for stage in chosen:
        values |= {f"{stage}.{name}": value for name, value in stage_settings(stage, config).items()}
    return values


def stage_settings(stage: str, config: PrepareConfig) -> dict[str, Any]:
    """The options of one stage that decide what it keeps."""
    if stage == "exact":
        return {}
    values = asdict(getattr(config, stage))
    values.pop("batch_size", None)
    return values


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two origins, in words; empty when nothing does."""
    before, now = old["settings"], new["settings"]
    found = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    return found + _changed_files(old["files"], new["files"])


def _changed_files(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    if old == new:
        return []
    if [file["file"] for file in old] != [file["file"] for file in new]:
        return [f"input was {_names(old)}, now {_names(new)}"]
    return [
        f"{a['file']} was {a['bytes']} bytes with sha256 {a['sha256'][:12]}, "
        f"now {b['bytes']} bytes with {b['sha256'][:12]}"
        for a, b in zip(old, new, strict=True)
        if a != b
    ]


def _names(files: list[dict[str, Any]]) -> str:
    names = [str(file["file"]) for file in files]
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} files from {names[0]} to {names[-1]}"
