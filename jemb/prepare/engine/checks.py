"""What `prepare` refuses or warns of: an output that is somebody else's, unreadable rows, a stage that drops much."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jemb.core.errors import InputError
from jemb.core.files import write_atomic
from jemb.prepare.engine.plan import changes, is_origin
from jemb.prepare.engine.read import Reading
from jemb.prepare.options import PrepareConfig
from jemb.prepare.registry import Stage, all_stages
from jemb.prepare.source.sources import MANIFEST, Source
from jemb.shards import Manifest, ShardReader, StageCount, read_manifest
from jemb.tables.whole import counted_in

log = logging.getLogger(__name__)

LOSS = 0.2
"""Share of a data set that a stage may drop without a warning."""


def warn_of_losses(name: str, stage: Stage, count: StageCount) -> None:
    """Where a stage drops much of a data set, say so, with what is likely behind it, and a few of the rows."""
    lost = sum(count.dropped.values())
    if lost <= LOSS * (count.kept + lost):
        return
    rows = [row for rows in count.statistics["examples"].values() for row in rows][:3]
    shown = [f"{row['reason']} {row['note']}: {row['query'][:60]!r} / {row['positive'][:60]!r}" for row in rows]
    log.warning(
        "%s: %s drops %d of %d rows (%.0f %%)%s. The report has more; sources.%s.stages=[…] leaves a stage out for "
        "this data set. For example:\n  %s",
        name, stage.name, lost, count.kept + lost, 100 * lost / (count.kept + lost),
        f"; the likely cause: {stage.advice}" if stage.advice else "", name, "\n  ".join(shown),
    )  # fmt: skip


def check_readable(source: Source, reading: Reading, listing: Path, allowed: float) -> None:
    """`InputError` when no row can be read, or too many cannot; they are then listed in `listing`."""
    unreadable = reading.unreadable
    total = reading.rows + len(unreadable)
    if not total:
        raise InputError(f"{source.where}: holds no rows; wanted at least one, or remove it from the input")
    share = len(unreadable) / total
    # Of a file that breaks off nobody knows the share: only who accepts any loss accepts that.
    if reading.rows and share <= allowed and (reading.broken is None or allowed == 1):
        return
    write_atomic(listing, listed(unreadable))
    if reading.broken is not None:
        lost = reading.broken
        raise InputError(
            f"{lost['file']}: breaks off at {counted_in(source.format)} {lost['line']}: {lost['reason']}; an unknown "
            "number of rows is lost. Get the file again, or give max_unreadable=1 to go on with the "
            f"{reading.rows} rows that can be read (the others are listed in {listing})"
        )
    first = unreadable[0]
    raise InputError(
        f"{source.where}: {len(unreadable)} of {total} rows cannot be read ({share:.1%}; max_unreadable allows "
        f"{allowed:.1%}). The first: {source.at(first)}: {first['reason']}. All are listed in "
        f"{listing}. Repair them, or leave them out with a larger max_unreadable"
    )


def check_output(output: Path, config: PrepareConfig, sources: Sequence[Source]) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"output={output}: is a file; wanted a folder")
    places = [config.input, *(source.where for source in sources)]
    if any(place is not None and os.path.realpath(output) == os.path.realpath(place) for place in places):
        raise InputError(f"output={output}: is the input folder; wanted another")
    there = next(folder for folder in (output, *output.parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"output={output}: {there} cannot be written to; wanted a folder of yours")


def finished(folder: Path, made_from: dict[str, Any], overwrite: bool) -> Manifest | None:
    """The manifest of a data set that need not be made again; `InputError` when something else is in its place."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / MANIFEST).is_file() or not is_origin(made_from_then := read_manifest(folder).source):
        # Not even overwrite=true may replace this: it is somebody's work.
        raise InputError(f"{folder}: was not made by jemb prepare; move it away or choose another output")
    changed = changes(made_from_then, made_from)
    try:
        manifest = ShardReader(folder).manifest
    except InputError as error:
        changed.append(str(error))
    if not changed:
        log.info("%s: finished before, left as it is", folder)
        return manifest
    if overwrite:
        return None
    raise InputError(
        f"{folder}: is there already, but not what is asked for: {'; '.join(changed)}. "
        "Give overwrite=true to make it again, or another output"
    )


def warn_of_others(output: Path, sources: Sequence[Source]) -> None:
    """Training on `output` would use these too."""
    names = {source.name for source in sources}
    others = [path.parent.name for path in sorted(output.glob(f"[!.]*/{MANIFEST}"))]
    others = [name for name in others if name not in names]
    if others:
        log.warning("%s: also holds %s, which this input does not", output, ", ".join(others))


def warn_of_idle_options(config: PrepareConfig) -> None:
    """Options of stages that no data set goes through, or not the one they are given for."""
    chosen = {*config.stages, *(stage for source in config.sources.values() for stage in source.stages or ())}
    for name, stage in all_stages(config.plugins).items():
        if stage.options is None:
            continue
        given, usual = asdict(getattr(config, name)), asdict(stage.options())
        idle = [option for option in given if given[option] != usual[option]]
        if idle and name not in chosen:
            log.warning("%s.%s=%s does nothing: %s is not among the stages", name, idle[0], given[idle[0]], name)
        for source, own in config.sources.items():
            stages = config.stages if own.stages is None else own.stages
            if (more := getattr(own, name, None)) and name not in stages:
                log.warning(
                    "sources.%s.%s.%s does nothing: %s is not among the stages of %s",
                    source, name, next(iter(more)), name, source,
                )  # fmt: skip


def listed(unreadable: Iterable[Mapping[str, Any]]) -> str:
    """JSON lines of file, line, reason and text."""
    shown = ({name: row[name] for name in ("file", "line", "reason", "text")} for row in unreadable)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in shown)
