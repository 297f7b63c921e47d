"""The runner: from the input to finished data sets, one after another.

Before: `app/` has the config. After: `data/` and `train/` read the shards. All that is not finished lies in
`OUTPUT/.work/NAME`, a folder for each stage, named by all that decides its content: a killed run goes on where it was,
and after a change of settings the stages before the change are not run again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from jemb.config import PrepareConfig
from jemb.errors import InputError
from jemb.files import alone, replace_folder, write_atomic
from jemb.prepare.decontaminate import choose_texts, digest
from jemb.prepare.examples import find_examples
from jemb.prepare.executor import Executor, LocalExecutor
from jemb.prepare.identity import changes, is_origin, origin, stage_settings
from jemb.prepare.job import Job
from jemb.prepare.read import Reading, read
from jemb.prepare.report import write_report
from jemb.prepare.source.check import check
from jemb.prepare.source.sources import Source, find_sources
from jemb.prepare.stages import Each, Given, passes, run_pass
from jemb.prepare.summary import family, summary_table
from jemb.prepare.table import Rows, Table, Verdict
from jemb.prepare.tools import Tools
from jemb.prepare.write import write_dropped, write_shards
from jemb.records import Kind
from jemb.shards import Manifest, ShardReader, StageCount, read_manifest, write_manifest

log = logging.getLogger(__name__)

WORK = ".work"
DROPPED = "dropped"
UNREADABLE = "unreadable.jsonl"
MANIFEST = "manifest.json"
REPORT = "report.html"


def prepare(config: PrepareConfig, tools: Tools) -> list[Manifest]:
    """Make each data set of the input in `config.output`; those that are finished already are left as they are.

    Returns the manifests by name; a data set of which nothing is left has one without shards, and no folder. Writes
    `report.html` beside them. Raises `InputError` before any work when the input cannot be used or the output holds
    something else, and at the data set that has too many unreadable rows; what was finished before stays.
    """
    output = Path(config.output).absolute()
    sources = find_sources(config)
    _check_output(output, config, sources)
    check(sources)
    texts = _evaluation_texts(config, tools)
    origins = {source.name: _origin(source, config, texts) for source in sources}
    with alone(output, "jemb prepare"):
        manifests: list[Manifest] = []
        made = 0
        if not config.exact.across:  # with it, what a data set should be depends on those before it
            for source in sources:
                _finished(output / source.name, origins[source.name], config.overwrite)
        _warn_of_others(output, sources)
        with _executor(config, output) as executor:
            for source in tqdm(sources, desc="prepare", unit="data set", disable=None):
                made_from = origins[source.name]
                others = [manifest for manifest in manifests if manifest.shards] if config.exact.across else []
                if others:
                    made_from["settings"]["exact.others"] = {other.name: other.fingerprint for other in others}
                manifest = _finished(output / source.name, made_from, config.overwrite)
                if manifest is None:
                    folders = tuple(output / other.name for other in others)
                    given = Given(config, tools, texts, folders)
                    manifest = _Making(source, made_from, given, output, executor).run()
                    made += 1
                shutil.rmtree(output / WORK / source.name, ignore_errors=True)
                manifests.append(manifest)
        shutil.rmtree(output / WORK, ignore_errors=True)
        if made or not (output / REPORT).exists():
            write_report(manifests, output / REPORT)
    if not any(manifest.num_samples for manifest in manifests):
        raise InputError(f"{config.output}: the filters leave nothing of any data set\n{summary_table(manifests)}")
    return manifests


def _evaluation_texts(config: PrepareConfig, tools: Tools) -> list[str]:
    """What the training data may not hold. Raises `InputError` where a path or task is wrong, before any work."""
    if "decontaminate" not in config.stages:
        return []
    if not config.decontaminate.against:
        raise InputError("stage decontaminate: give decontaminate.against=[PATH, mteb:TASK, …], the evaluation texts")
    found = (text for entry in config.decontaminate.against for text in tools.evaluation_texts(entry))
    texts = choose_texts(found, config.decontaminate.min_words)
    if not texts:
        raise InputError(
            f"decontaminate.against={config.decontaminate.against}: no text of at least "
            f"{config.decontaminate.min_words} words in there (decontaminate.min_words)"
        )
    return texts


def _origin(source: Source, config: PrepareConfig, texts: Sequence[str]) -> dict[str, Any]:
    made_from = origin(source, config)
    if texts:
        made_from["settings"]["decontaminate.texts"] = digest(texts)
    return made_from


def _executor(config: PrepareConfig, output: Path) -> Executor:
    if config.executor == "ray":
        from jemb.prepare.ray_executor import RayExecutor

        return RayExecutor(config.ray.address, config.workers, output)
    return LocalExecutor(config.workers)


@dataclass(slots=True)
class _Making:
    """One data set from its files to its folder."""

    source: Source
    made_from: dict[str, Any]
    given: Given
    output: Path
    executor: Executor
    chain: list[Any] = field(default_factory=list)

    @property
    def config(self) -> PrepareConfig:
        return self.given.config

    def run(self) -> Manifest:
        settings = self.made_from["settings"]
        self.chain = [self.made_from["files"], {name: value for name, value in settings.items() if _decides_rows(name)}]
        reading = read(self.source, self._job("read"))
        _check_readable(self.source, reading, self._beside(UNREADABLE), self.config.max_unreadable)
        table, counts, verdicts = self._with_negatives(reading)
        for stage, steps in passes(self.given).items():
            self.chain.append(
                {name: value for name, value in settings.items() if name.startswith(f"{stage}.")} | {"": stage}
            )
            reasons: dict[str, int] = {}
            statistics: dict[str, Any] = {}
            verdicts[stage] = []
            for number, step in enumerate(steps):
                job = self._job(f"{stage}-{number}" if len(steps) > 1 else stage)
                result = run_pass(step, table, job)
                reasons |= result["dropped"]
                statistics |= result["statistics"]
                verdicts[stage].append(job.folder)
                table = table.judged(job.folder)
            reasons = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
            counts.append(
                StageCount(stage, sum(table.counts()), reasons, stage_settings(stage, self.config), statistics)
            )
            log.info("%s: %s keeps %s", self.source.name, stage, _words(counts[-1]))
        examples = find_examples(table, verdicts, self._job("examples"), self.config.seed)
        counts = [
            StageCount(c.name, c.kept, c.dropped, c.settings, {**c.statistics, "examples": examples.get(c.name, {})})
            for c in counts
        ]
        kind: Kind = "triplets" if reading.triplets or {"negation", "mine"} & set(self.config.stages) else "pairs"
        return self._write(
            table, verdicts, Manifest(self.source.name, kind, (), tuple(counts), self.made_from), reading
        )

    def _with_negatives(self, reading: Reading) -> tuple[Table, list[StageCount], dict[str, list[Path]]]:
        """Once a data set has negatives, a row without one cannot stay, unless a later stage finds it some."""
        table = reading.table
        reasons = {"unreadable": len(reading.unreadable)}
        verdicts: dict[str, list[Path]] = {"read": []}
        if 0 < reading.triplets < reading.rows and not {"negation", "mine"} & set(self.config.stages):
            job = self._job("negatives")
            reasons |= run_pass(Each("negatives", _need_negatives), table, job)["dropped"]
            verdicts["read"], table = [job.folder], table.judged(job.folder)
            log.warning(
                "%s: %d of %d rows have hard negatives, so it becomes a data set of triplets; the %d rows without are "
                "dropped (no_negative). For pairs, point fields.negative and fields.negatives elsewhere",
                self.source.name, reading.triplets, reading.rows, reasons["no_negative"],
            )  # fmt: skip
        fields = {name: value for name, value in self.made_from["settings"].items() if name.startswith("fields.")}
        count = StageCount("read", sum(table.counts()), reasons, fields)
        return table, [count], verdicts

    def _write(self, table: Table, verdicts: dict[str, list[Path]], manifest: Manifest, reading: Reading) -> Manifest:
        folder = self.output / self.source.name
        job = self._job(f"write-{self.config.shard_samples}-{self.config.keep_dropped}")
        result = job.folder / "result"
        if not result.exists():  # its markers stand for files in there
            shutil.rmtree(job.folder, ignore_errors=True)
            result.mkdir(parents=True)
        dropped = job.folder / DROPPED if not sum(table.counts()) else result / DROPPED
        if self.config.keep_dropped:
            dropped.mkdir(exist_ok=True)
            shards = write_dropped(table, verdicts, job, dropped)
            if shards:
                write_manifest(
                    dropped, Manifest(self.source.name, "pairs", tuple(shards), manifest.stages, self.made_from)
                )
        if not sum(table.counts()):
            where = f"; the dropped rows are in {self._lone_drops}" if self.config.keep_dropped else ""
            log.warning("%s: the filters leave nothing; no shards are written%s", self.source.name, where)
            shutil.rmtree(folder, ignore_errors=True)
            if (dropped / MANIFEST).exists():
                replace_folder(dropped, self._lone_drops)
            return manifest
        shards = write_shards(table, job, result, self.config.shard_samples, self.config.seed)
        for leftover in result.rglob(".*.tmp"):  # of a process that was killed as it wrote a shard
            leftover.unlink(missing_ok=True)
        manifest = Manifest(manifest.name, manifest.kind, tuple(shards), manifest.stages, manifest.source)
        write_manifest(result, manifest)
        if reading.unreadable:
            write_atomic(result / UNREADABLE, _json_lines(reading.unreadable))
        replace_folder(result, folder)
        self._beside(UNREADABLE).unlink(missing_ok=True)
        shutil.rmtree(self._lone_drops, ignore_errors=True)
        return manifest

    @property
    def _lone_drops(self) -> Path:
        """Where the dropped rows lie of a data set of which nothing is left. Hidden, or it would be trained on."""
        return self.output / f".{self.source.name}.{DROPPED}"

    def _job(self, step: str) -> Job:
        """The work folder of a step: its name changes with everything that came before it."""
        digest = hashlib.sha256(json.dumps(self.chain, sort_keys=True, default=str).encode()).hexdigest()[:12]
        folder = self.output / WORK / self.source.name / f"{step}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        return Job(folder, self.executor, self.source.name)

    def _beside(self, name: str) -> Path:
        """Where `name` lies for a data set that was not made."""
        return self.output / f"{self.source.name}.{name}"


def _decides_rows(setting: str) -> bool:
    """Whether it matters to every stage; the settings of a stage matter to it and those after it."""
    return setting in ("rules", "seed") or setting.startswith(("fields.", "constants.", "limit"))


def _need_negatives(rows: Rows) -> Verdict:
    return Verdict({position: ("no_negative", "") for position, texts in enumerate(rows.negatives) if not texts})


def _words(count: StageCount) -> str:
    families: Counter[str] = Counter()
    for reason, number in count.dropped.items():
        families[family(reason)] += number
    drops = ", ".join(f"{number:,} {reason}" for reason, number in families.items() if number)
    return f"{count.kept:,}, drops {drops or 'none'}"


def _check_readable(source: Source, reading: Reading, listing: Path, allowed: float) -> None:
    """`InputError` when no row can be read, or too many cannot; they are then listed in `listing`."""
    unreadable = reading.unreadable
    total = reading.rows + len(unreadable)
    if not total:
        raise InputError(f"{source.where}: holds no rows; wanted at least one, or remove it from the input")
    share = len(unreadable) / total
    # Of a file that breaks off nobody knows the share: only who accepts any loss accepts that.
    if reading.rows and share <= allowed and (reading.broken is None or allowed == 1):
        return
    write_atomic(listing, _json_lines(unreadable))
    if reading.broken is not None:
        lost = reading.broken
        way_out = (
            f"give max_unreadable=1 to go on with the {reading.rows} rows that can be read" if reading.rows else ""
        )
        raise InputError(
            f"{lost['file']}: breaks off at row or line {lost['line']}: {lost['reason']}; an unknown number of rows is "
            f"lost. Get the file again{', or ' if way_out else ''}{way_out} (the others are listed in {listing})"
        )
    first = unreadable[0]
    raise InputError(
        f"{source.where}: {len(unreadable)} of {total} rows cannot be read ({share:.1%}; max_unreadable allows "
        f"{allowed:.1%}). The first: {first['file']} line {first['line']}: {first['reason']}. All are listed in "
        f"{listing}. "
        + ("Repair them, or give a larger max_unreadable to leave them out" if reading.rows else "Repair them")
    )


def _check_output(output: Path, config: PrepareConfig, sources: Sequence[Source]) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"output={output}: is a file; wanted a folder")
    places = [config.input, *(source.where for source in sources)]
    if any(place is not None and output.resolve() == Path(place).resolve() for place in places):
        raise InputError(f"output={output}: is the input folder; wanted another")
    there = next(folder for folder in (output, *output.parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"output={output}: {there} cannot be written to; wanted a folder of yours")


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


def _warn_of_others(output: Path, sources: Sequence[Source]) -> None:
    """Training on `output` would use these too."""
    names = {source.name for source in sources}
    others = [path.parent.name for path in sorted(output.glob(f"[!.]*/{MANIFEST}"))]
    others = [name for name in others if name not in names]
    if others:
        log.warning("%s: also holds %s, which this input does not", output, ", ".join(others))


def _json_lines(values: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
