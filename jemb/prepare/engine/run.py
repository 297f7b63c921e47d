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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jemb.core.errors import InputError
from jemb.core.files import alone, replace_folder, write_atomic
from jemb.core.progress import track
from jemb.core.records import Kind
from jemb.prepare.engine.examples import find_examples
from jemb.prepare.engine.executor import Executor, LocalExecutor
from jemb.prepare.engine.identity import changes, is_origin, origin
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.passes import passes, run_each
from jemb.prepare.engine.read import Reading, read
from jemb.prepare.engine.table import Rows, Table, Verdict
from jemb.prepare.engine.write import write_dropped, write_shards
from jemb.prepare.options import PrepareConfig
from jemb.prepare.registry import Stage, StageInputs, Tools, all_stages
from jemb.prepare.report.page import write_report
from jemb.prepare.report.summary import family, summary_table
from jemb.prepare.source.check import check
from jemb.prepare.source.sources import Source, find_sources
from jemb.shards import Manifest, ShardReader, StageCount, read_manifest, write_manifest

log = logging.getLogger(__name__)

WORK = ".work"
DROPPED = "dropped"
UNREADABLE = "unreadable.jsonl"
MANIFEST = "manifest.json"
REPORT = "report.html"
LOSS = 0.2
"""Share of a data set that a stage may drop without a warning."""


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
    plans = _plan(config, sources, tools)
    with alone(output, "jemb prepare"):
        manifests: list[Manifest] = []
        made = 0
        for plan in plans:
            if not plan.across:  # with it, what a data set should be depends on those before it
                _finished(output / plan.source.name, plan.made_from, config.overwrite)
        _warn_of_others(output, sources)
        with _executor(config, output) as executor:
            for plan in track(plans, "prepare" if len(plans) > 1 else None, len(plans), "data set"):
                name = plan.source.name
                if plan.across:
                    plan.add_others({other.name: other.fingerprint for other in manifests if other.shards}, output)
                manifest = _finished(output / name, plan.made_from, config.overwrite)
                if manifest is None:
                    manifest = _Making(plan, output, executor).run()
                    made += 1
                shutil.rmtree(output / WORK / name, ignore_errors=True)
                manifests.append(manifest)
        shutil.rmtree(output / WORK, ignore_errors=True)
        if made or not (output / REPORT).exists():
            write_report(manifests, output / REPORT)
    if not any(manifest.num_samples for manifest in manifests):
        raise InputError(f"{config.output}: the filters leave nothing of any data set\n{summary_table(manifests)}")
    return manifests


@dataclass(slots=True)
class _Step:
    """A stage of one data set. settings: what decides what it keeps, for the record."""

    stage: Stage
    options: Any
    inputs: StageInputs
    settings: dict[str, Any]


@dataclass(slots=True)
class _Plan:
    """What is to be made of one source. across: the stages that look at the data sets before it."""

    source: Source
    config: PrepareConfig
    steps: list[_Step]
    made_from: dict[str, Any]

    @property
    def across(self) -> list[_Step]:
        return [step for step in self.steps if step.stage.across and getattr(step.options, step.stage.across)]

    @property
    def adds_negatives(self) -> bool:
        return any(step.stage.adds_negatives for step in self.steps)

    def add_others(self, fingerprints: dict[str, str], output: Path) -> None:
        folders = tuple(output / name for name in fingerprints)
        for step in self.across if fingerprints else ():
            self.made_from["settings"][f"{step.stage.name}.others"] = fingerprints
            step.inputs = replace(step.inputs, others=folders)


def _plan(config: PrepareConfig, sources: Sequence[Source], tools: Tools) -> list[_Plan]:
    """Of each source, with the options that are its own. Raises `InputError` where a stage cannot work."""
    stages = all_stages(config.plugins)
    ready: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {}
    plans: list[_Plan] = []
    for source in sources:
        own = config.of(source.name)
        steps: list[_Step] = []
        for name, stage in stages.items():
            if name not in own.stages:
                continue
            options = getattr(own, name) if stage.options else None
            key = (name, repr(options))
            if key not in ready:
                ready[key] = stage.before(options, tools) if stage.before else (None, {})
            prepared, settings = ready[key]
            inputs = StageInputs(config.seed, tools, prepared)
            steps.append(_Step(stage, options, inputs, stage.settings(options) | settings))
        settings_of = {step.stage.name: step.settings for step in steps}
        plans.append(_Plan(source, own, steps, origin(source, own, settings_of)))
    return plans


def _executor(config: PrepareConfig, output: Path) -> Executor:
    if config.executor == "ray":
        from jemb.prepare.engine.ray_executor import RayExecutor

        return RayExecutor(config.ray.address, config.workers, output)
    return LocalExecutor(config.workers)


@dataclass(slots=True)
class _Making:
    """One data set from its files to its folder."""

    plan: _Plan
    output: Path
    executor: Executor
    chain: list[Any] = field(default_factory=list)

    @property
    def source(self) -> Source:
        return self.plan.source

    @property
    def config(self) -> PrepareConfig:
        return self.plan.config

    @property
    def made_from(self) -> dict[str, Any]:
        return self.plan.made_from

    def run(self) -> Manifest:
        settings = self.made_from["settings"]
        self.chain = [self.made_from["files"], {name: value for name, value in settings.items() if _decides_rows(name)}]
        reading = read(self.source, self._job("read"))
        _check_readable(self.source, reading, self._beside(UNREADABLE), self.config.max_unreadable)
        table, counts, verdicts = self._with_negatives(reading)
        for step in self.plan.steps:
            stage = step.stage.name
            self.chain.append(
                {name: value for name, value in settings.items() if name.startswith(f"{stage}.")} | {"": stage}
            )
            reasons: dict[str, int] = {}
            statistics: dict[str, Any] = {}
            verdicts[stage] = []
            steps = passes(step.stage, step.options, step.inputs)
            for number, one in enumerate(steps):
                job = self._job(f"{stage}-{number}" if len(steps) > 1 else stage)
                result = one.run(table, job)
                reasons |= result["dropped"]
                statistics |= result["statistics"]
                verdicts[stage].append(job.folder)
                table = table.judged(job.folder)
            reasons = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
            counts.append(StageCount(stage, sum(table.counts()), reasons, step.settings, statistics))
            log.info("%s: %s keeps %s", self.source.name, stage, _words(counts[-1]))
        examples = find_examples(table, verdicts, self._job("examples"), self.config.seed)
        counts = [
            replace(count, statistics={**count.statistics, "examples": examples.get(count.name, {})})
            for count in counts
        ]
        for step, count in zip(self.plan.steps, counts[1:], strict=True):
            _warn_of_losses(self.source.name, step.stage, count)
        kind: Kind = "triplets" if reading.triplets or self.plan.adds_negatives else "pairs"
        return self._write(
            table, verdicts, Manifest(self.source.name, kind, (), tuple(counts), self.made_from), reading
        )

    def _with_negatives(self, reading: Reading) -> tuple[Table, list[StageCount], dict[str, list[Path]]]:
        """Once a data set has negatives, a row without one cannot stay, unless a later stage finds it some."""
        table = reading.table
        reasons = {"unreadable": len(reading.unreadable)}
        verdicts: dict[str, list[Path]] = {"read": []}
        if 0 < reading.triplets < reading.rows and not self.plan.adds_negatives:
            job = self._job("negatives")
            reasons |= run_each("negatives", _need_negatives, table, job, ("negatives",))["dropped"]
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


def _warn_of_losses(name: str, stage: Stage, count: StageCount) -> None:
    """Where a stage drops much of a data set, say so, with what is likely behind it, and a few of the rows."""
    lost = sum(count.dropped.values())
    if lost <= LOSS * (count.kept + lost):
        return
    found = count.statistics["examples"]
    rows = [row for reason in sorted(found, key=lambda reason: -len(found[reason])) for row in found[reason]][:3]
    shown = [f"{row['reason']} {row['note']}: {row['query'][:60]!r} / {row['positive'][:60]!r}" for row in rows]
    log.warning(
        "%s: %s drops %d of %d rows (%.0f %%)%s. The report has more; sources.%s.stages=[…] leaves a stage out for "
        "this data set. For example:\n  %s",
        name, stage.name, lost, count.kept + lost, 100 * lost / (count.kept + lost),
        f"; the likely cause: {stage.advice}" if stage.advice else "", name, "\n  ".join(shown),
    )  # fmt: skip


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
    if any(place is not None and os.path.realpath(output) == os.path.realpath(place) for place in places):
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
