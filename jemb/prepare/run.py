"""The runner: from the input folder to finished data sets, one after another.

Before: `app/` has the config. After: `data/` and `train/` read the shards. A data set is made in a temporary folder and
renamed when whole, so a killed run costs the data set it was at, and the next run goes on there.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jemb.config import PrepareConfig
from jemb.errors import InputError
from jemb.files import whole_folder, write_atomic
from jemb.prepare.consistency import Encode, keep_consistent
from jemb.prepare.exact import keep_unique
from jemb.prepare.formats import Unreadable
from jemb.prepare.identity import STAGE_NAMES, changes, is_origin, origin, stage_settings
from jemb.prepare.language import identifier, keep_language
from jemb.prepare.near_duplicates import keep_representatives
from jemb.prepare.order import shuffled
from jemb.prepare.sources import Source, find_sources, read_rows
from jemb.prepare.stage import Drop, Outcome, Stage
from jemb.prepare.summary import summary_table
from jemb.prepare.workers import Workers
from jemb.records import Kind, Sample
from jemb.shards import Manifest, ShardReader, ShardWriter, StageCount, read_manifest

log = logging.getLogger(__name__)

DROPPED = "dropped.jsonl.gz"
UNREADABLE = "unreadable.jsonl"
MANIFEST = "manifest.json"


def prepare(config: PrepareConfig, make_encoder: Callable[[str], Encode]) -> list[Manifest]:
    """Make each data set of `config.input` in `config.output`; those that are finished already are left as they are.

    make_encoder: `consistency.encoder` to a function from texts to unit vectors; called at most once, and only if a
    data set is to be made. Returns the manifests by name; a data set of which nothing is left has one without shards,
    and no folder. Raises `InputError` before any work when input and output do not fit each other, and at the data set
    that has too many unreadable rows or none at all; what was finished before stays.
    """
    output = Path(config.output)
    sources = find_sources(Path(config.input), leave_out=output)
    if output.exists() and not output.is_dir():
        raise InputError(f"output={output}: is a file; wanted a folder")
    if output.resolve() == Path(config.input).resolve():
        raise InputError(f"output={output}: is the input folder; wanted another")
    with _alone(output):
        _remove_leftovers(output, sources)
        origins = {source.name: origin(source, config) for source in sources}
        finished = {s.name: _finished(output / s.name, origins[s.name], config.overwrite) for s in sources}
        _warn_of_others(output, sources)
        with Workers(config.workers) as workers:
            stages = _stages(config, make_encoder, workers) if None in finished.values() else []
            manifests = [
                finished[source.name] or _make(source, origins[source.name], stages, config)
                for source in tqdm(sources, desc="prepare", unit="data set", disable=None)
            ]
    if not any(manifest.num_samples for manifest in manifests):
        raise InputError(f"{config.input}: the filters leave nothing of any data set\n{summary_table(manifests)}")
    return manifests


def _stages(config: PrepareConfig, make_encoder: Callable[[str], Encode], workers: Workers) -> list[Stage]:
    """The chosen filters in the paper's order, ready to run."""
    runs: dict[str, Callable[[Sequence[Sample]], Outcome]] = {}
    if "exact" in config.stages:
        runs["exact"] = keep_unique
    if "near_duplicates" in config.stages:
        mapper = partial(workers.map, what="near duplicates")
        runs["near_duplicates"] = partial(
            keep_representatives, config=config.near_duplicates, seed=config.seed, mapper=mapper
        )
    if "language" in config.stages:
        options = config.language
        runs["language"] = partial(
            keep_language,
            identify=identifier(options.allowed, options.model),
            threshold=options.threshold,
            sides=options.sides,
            keep_unsure=options.unsure == "keep",
            mapper=partial(workers.map, what="language"),
        )
    if "consistency" in config.stages:
        runs["consistency"] = partial(
            keep_consistent,
            encode=make_encoder(config.consistency.encoder),
            top_k=config.consistency.top_k,
            pool_size=config.consistency.pool_size,
            seed=config.seed,
        )
    return [Stage(name, runs[name], stage_settings(name, config)) for name in STAGE_NAMES if name in runs]


def _make(source: Source, made_from: dict[str, Any], stages: list[Stage], config: PrepareConfig) -> Manifest:
    """One data set from its files to its folder."""
    rows, unreadable = _read(source, config)
    kind: Kind = "triplets" if any(row.negatives for row in rows) else "pairs"
    outcome = _with_negatives(rows) if kind == "triplets" else Outcome(rows)
    fields = {name: value for name, value in made_from["settings"].items() if name.startswith("fields.")}
    reasons = {"unreadable": len(unreadable), **outcome.reasons()}
    counts = [StageCount("read", len(outcome.kept), reasons, fields)]
    dropped = [("read", drop) for drop in outcome.dropped]
    for stage in stages:
        outcome = stage.run(outcome.kept)
        counts.append(stage.count(outcome))
        dropped += [(stage.name, drop) for drop in outcome.dropped]
        log.info("%s: %s keeps %d, drops %s", source.name, stage.name, len(outcome.kept), outcome.reasons())
    folder = Path(config.output) / source.name
    if not outcome.kept:
        log.warning("%s: the filters leave nothing; no shards are written", source.name)
        shutil.rmtree(folder, ignore_errors=True)
        if config.keep_dropped:
            write_atomic(_beside(folder, DROPPED), _dropped_rows(dropped))
        return Manifest(source.name, kind, (), tuple(counts), made_from)
    with whole_folder(folder) as temporary:
        with ShardWriter(temporary, source.name, kind, config.shard_samples) as writer:
            for row in shuffled(outcome.kept, config.seed, "shuffle"):
                writer.write(row)
            manifest = writer.close(counts, made_from)
        if unreadable:
            (temporary / UNREADABLE).write_bytes(_json_lines(row.to_json() for row in unreadable))
        if config.keep_dropped:
            (temporary / DROPPED).write_bytes(_dropped_rows(dropped))
    for name in (UNREADABLE, DROPPED):
        _beside(folder, name).unlink(missing_ok=True)
    return manifest


def _read(source: Source, config: PrepareConfig) -> tuple[list[Sample], list[Unreadable]]:
    """All rows of `source`; `InputError` when there is none or too many of them cannot be read."""
    rows: list[Sample] = []
    unreadable: list[Unreadable] = []
    reader = read_rows(source, config.fields)
    for row in tqdm(reader, desc=f"{source.name}: read", unit="row", leave=False, disable=None):
        if isinstance(row, Sample):
            rows.append(row)
        else:
            unreadable.append(row)
    total = len(rows) + len(unreadable)
    where = source.paths[0] if len(source.paths) == 1 else source.paths[0].parent
    if not total:
        raise InputError(f"{where}: holds no rows; wanted at least one, or remove it from the input")
    share = len(unreadable) / total
    lost = next((row for row in unreadable if row.rest_lost), None)
    # Of a file that breaks off nobody knows the share: only who accepts any loss accepts that.
    if rows and share <= config.max_unreadable and (lost is None or config.max_unreadable == 1):
        return rows, unreadable
    listing = _beside(Path(config.output) / source.name, UNREADABLE)
    write_atomic(listing, _json_lines(row.to_json() for row in unreadable))
    if lost is not None:
        raise InputError(
            f"{lost.file}: breaks off at row or line {lost.line}: {lost.reason}; an unknown number of rows is lost. "
            f"Get the file again, or give max_unreadable=1 to go on with the {len(rows)} rows that can be read "
            f"(the others are listed in {listing})"
        )
    first = unreadable[0]
    raise InputError(
        f"{where}: {len(unreadable)} of {total} rows cannot be read ({share:.1%}; max_unreadable allows "
        f"{config.max_unreadable:.1%}). The first: {first.file.name} line {first.line}: {first.reason}. All are listed "
        f"in {listing}. Repair them, or give a larger max_unreadable to leave them out"
    )


def _with_negatives(rows: list[Sample]) -> Outcome:
    """In a data set of triplets a row without a negative cannot stay."""
    outcome = Outcome()
    for row in rows:
        if row.negatives:
            outcome.kept.append(row)
        else:
            outcome.dropped.append(Drop(row, "no_negative"))
    return outcome


def _finished(folder: Path, made_from: dict[str, Any], overwrite: bool) -> Manifest | None:
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


def _warn_of_others(output: Path, sources: list[Source]) -> None:
    """Training on `output` would use these too."""
    names = {source.name for source in sources}
    others = [path.parent.name for path in sorted(output.glob(f"[!.]*/{MANIFEST}"))]
    others = [name for name in others if name not in names]
    if others:
        log.warning("%s: also holds %s, which this input does not", output, ", ".join(others))


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Keep a second run out of `output`. The lock ends with the process, whatever ends it."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{output}: another jemb prepare is at work there; wait for it") from None
        yield


def _remove_leftovers(output: Path, sources: list[Source]) -> None:
    """Temporary folders of killed runs: nobody else is at work here, so they are nobody's."""
    starts = tuple(f".{source.name}." for source in sources)
    for path in output.iterdir():
        if path.name.startswith(starts) and path.suffix in (".tmp", ".old"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _beside(folder: Path, name: str) -> Path:
    """Where `name` lies for a data set that was not made."""
    return folder.with_name(f"{folder.name}.{name}")


def _json_lines(values: Iterable[Any]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def _dropped_rows(dropped: list[tuple[str, Drop]]) -> bytes:
    """Gzip of a JSON line for each row: why it was left out, and the row."""
    lines = _json_lines(
        {
            "key": drop.sample.key,
            "stage": stage,
            "reason": drop.reason,
            "note": drop.note,
            "query": drop.sample.query,
            "positive": drop.sample.positive,
            "negatives": list(drop.sample.negatives),
            "extra": dict(drop.sample.extra),
        }
        for stage, drop in dropped
    )
    return gzip.compress(lines, mtime=0)  # no time in the header: the same rows give the same bytes
