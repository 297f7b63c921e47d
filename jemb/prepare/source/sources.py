"""Which data sets there are to prepare: what is in the input, what is named one by one, and what is particular to each.

Before: the options. After: `check.py` looks whether they can be read, `parts.py` reads them.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from jemb.config import suggest
from jemb.core.errors import InputError
from jemb.prepare.options import FieldsConfig, PrepareConfig
from jemb.prepare.registry import all_stages
from jemb.prepare.source.record_fields import OWN_FIELDS
from jemb.shards import Manifest
from jemb.tables.hub import HubName, is_saved
from jemb.tables.places import Found, base_name, is_url, join, list_folder, look, open_bytes, to_local
from jemb.tables.whole import TABLE_ENDINGS, TAR_ENDINGS, counted_in, kind_of

log = logging.getLogger(__name__)

ENDINGS = {**TABLE_ENDINGS, **TAR_ENDINGS}
"""End of a file name -> format."""
MANIFEST = "manifest.json"
WANTED = (
    "wanted NAME.jsonl, .csv, .tsv (also .gz, .zst) or .parquet files, folders of such files, "
    "or folders of WebDataset tars"
)
MAX_NAME = 200
"""Bytes of a data set's name; what lies beside its folder has a longer one, and no file system takes more than 255."""
LEFT_BY_PREPARE = ".unreadable.jsonl"
"""What `jemb prepare` leaves beside data sets; the output of one preparation may be the input of the next."""


@dataclass(frozen=True, slots=True)
class Source:
    """One data set to be. Picklable.

    format: jsonl, csv, tsv, parquet, tar or hf. paths: its files (paths or URLs) in the order they are read; of hf the
    one name. constants: field -> text that every sample gets. limit: rows to take; None: all. documents: a record may
    lack the query, as a stage will make one.
    """

    name: str
    format: str
    paths: tuple[str, ...]
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    constants: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    license: str | None = None
    documents: bool = False

    @property
    def where(self) -> str:
        """What to call it in messages: its file, or the folder of its files."""
        return self.paths[0] if len(self.paths) == 1 else self.paths[0].rpartition("/")[0]

    def at(self, bad: Mapping[str, Any]) -> str:
        """Where one of its records is that cannot be read: its file, and the line or row there."""
        return f"{bad['file']} {counted_in(self.format)} {bad['line']}"


def find_sources(config: PrepareConfig) -> list[Source]:
    """The data sets of `config.input` and `config.sources`, by name, each with its fields, constants and limit.

    Raises `InputError` for a missing path, nothing found, two data sets of one name, a name in `sources` that is none,
    and options that contradict each other.
    """
    if config.input is None and not any(source.path for source in config.sources.values()):
        raise InputError("there is nothing to prepare: give input=… or sources.NAME.path=…")
    found = {} if config.input is None else find_in(to_local(config.input), Path(config.output))
    for name, options in config.sources.items():
        if options.path is not None:
            if name in found:
                raise InputError(f"sources.{name}.path: {found[name].where} is a data set {name!r} too; rename one")
            found[name] = replace(_one(to_local(options.path)), name=name)
        elif name not in found:
            known = ", ".join(found) or "none"
            raise InputError(
                f"sources.{name}: no data set {name!r} in input={config.input}{suggest(name, found)}; there: {known}. "
                f"Give sources.{name}.path=… for one that is elsewhere"
            )
    for name, source in found.items():
        # Line ends and bytes that are not UTF-8 are not printable; what lies beside the folder has a longer name.
        if not name.strip() or not name.isprintable() or name[0] == "." or "/" in name or len(name.encode()) > MAX_NAME:
            raise InputError(
                f"{source.where!a}: {name!a} cannot be the name of a data set and its folder; wanted at most "
                f"{MAX_NAME} bytes that can be printed, without '/', and without '.' at its start; rename it"
            )
    making = {name for name, stage in all_stages(config.plugins).items() if stage.source}
    sources = [_with_options(found[name], config) for name in sorted(found)]
    return [replace(one, documents=not making.isdisjoint(config.of(one.name).stages)) for one in sources]


def _with_options(source: Source, config: PrepareConfig) -> Source:
    if source.name not in config.sources:
        return Source(source.name, source.format, source.paths, config.fields)
    options, fields = config.sources[source.name], config.of(source.name).fields
    taken = sorted(set(OWN_FIELDS) & options.constants.keys())
    if taken:
        raise InputError(
            f"sources.{source.name}.constants.{taken[0]}: every sample has a field {taken[0]!r} of its own; "
            "wanted another name"
        )
    return Source(source.name, source.format, source.paths, fields, options.constants, options.limit, options.license)


def find_in(place: str, leave_out: Path | None = None) -> dict[str, Source]:
    """The data sets at `place` by name. leave_out: the output, which may lie inside."""
    if single := _file(place):
        return {single.name: single}
    entries = list_folder(place)
    if whole := _written(place, entries):
        return {whole.name: whole}
    found: dict[str, Source] = {}
    ignored: list[str] = []
    for entry in entries:
        is_output = leave_out and not is_url(place) and os.path.realpath(entry.place) == os.path.realpath(leave_out)
        if is_output and entry.is_folder:
            continue
        source = None
        if entry.is_folder:
            source = _folder(entry.place)
        elif entry.regular and not entry.name.endswith(LEFT_BY_PREPARE):
            kind = kind_of(entry.name, TABLE_ENDINGS)  # a tar is a part of a data set
            source = Source(kind[1], kind[0], (entry.place,)) if kind else None
        if source is None:
            ignored.append(entry.name)
        elif source.name in found:
            other = found[source.name].paths[0]
            raise InputError(f"{place}: {entry.name} and {other} would both be data set {source.name!r}; rename one")
        else:
            found[source.name] = source
    if not found and any(kind_of(entry.name, TAR_ENDINGS) for entry in entries):
        source = _folder(place)
        return {source.name: source} if source else {}
    if not found:
        there = f", only {', '.join(ignored)}" if ignored else ""
        raise InputError(f"{place}: no data set in it{there}; {WANTED}")
    if ignored:
        log.warning("%s: ignored %s; %s", place, ", ".join(ignored), WANTED)
    return found


def _one(place: str) -> Source:
    """The one data set that `place` is."""
    source = _file(place) or _folder(place)
    if source is None:
        raise InputError(f"{place}: not one data set; {WANTED}")
    return source


def _file(place: str) -> Source | None:
    """The data set in the file, or the files (`x-{000..099}.tar`), or of the hub that `place` names; None for a folder.

    Raises `InputError` for anything else.
    """
    if place.startswith("pipe:"):
        raise InputError(f"{place}: would run a command; wanted a path or URL (s3://, https://, hf:NAME, …)")
    if hub := HubName.parse(place):
        return Source(base_name(hub.name), "hf", (str(hub),))
    paths = tuple(braceexpand(place)) if "{" in place and not Path(place).exists() else (place,)
    found = [look(path) for path in paths]
    if found[0].is_folder and len(found) == 1:
        return None
    kinds = [kind_of(file.name, ENDINGS) if file.regular and not file.is_folder else None for file in found]
    first = kinds[0]
    for file, kind in zip(found, kinds, strict=True):
        if kind is None or first is None or kind[0] != first[0]:
            wrong = "another kind of file than the first" if kind else "unknown kind of file"
            raise InputError(f"{file.place}: {wrong}; {WANTED}")
    assert first
    name = first[1]
    if len(paths) > 1:
        ending = kind_of(base_name(place), ENDINGS)
        name = re.sub(r"[-_.]?\{.*\}", "", ending[1] if ending else name) or base_name(place.rpartition("/")[0])
    return Source(name, first[0], paths)


def _folder(place: str) -> Source | None:
    """The data set whose parts lie in a folder, if it is one. Raises `InputError` for parts of several kinds."""
    entries = list_folder(place)
    if whole := _written(place, entries):
        return whole
    kinds: dict[str, list[Found]] = {}
    for entry in entries:
        kind = kind_of(entry.name, ENDINGS) if entry.regular and not entry.is_folder else None
        kinds.setdefault(kind[0] if kind else "", []).append(entry)
    ignored = [file.name for file in kinds.pop("", []) if not file.name.startswith("_")]  # how Spark names its marks
    if len(kinds) > 1:
        names = " and ".join(files[0].name for files in kinds.values())
        raise InputError(f"{place}: holds {names}; wanted files of one kind, the parts of one data set")
    if kinds and ignored:
        log.warning("%s: ignored %s", place, ", ".join(ignored))
    return next((Source(base_name(place), kind, tuple(file.place for file in kinds[kind])) for kind in kinds), None)


def _written(place: str, entries: Sequence[Found]) -> Source | None:
    """The data set that a program wrote as the whole folder: jemb the shards its manifest names, whatever else lies
    there, or `save_to_disk` of the library datasets, of several splits `train`."""
    if not is_url(place) and is_saved(Path(place)):
        return Source(base_name(place), "hf", (f"hf:{Path(place).absolute()}",))
    path = next((entry.place for entry in entries if entry.name == MANIFEST and not entry.is_folder), None)
    if path is None:
        return None
    with open_bytes(path) as file:
        data = file.read()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None  # somebody else's file of that name
    if not isinstance(value, dict) or not {"shards", "fingerprint"} <= value.keys():
        return None
    manifest = Manifest.from_json(value, path)
    if not manifest.shards:
        raise InputError(f"{path}: names no shards; wanted a data set with samples")
    if manifest.files:
        log.warning("%s: a teacher's vectors lie beside these shards; they are not taken over (stage teacher)", path)
    return Source(base_name(place), "tar", tuple(join(place, shard.file) for shard in manifest.shards))
