"""The runner: from the input to finished data sets, one after another.

Before: `app/` has the config. After: `data/` and `train/` read the shards. All that is not finished lies in
`OUTPUT/.work/NAME`, a folder for each stage, named by all that decides its content: a killed run goes on where it was,
and after a change of settings the stages before the change are not run again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jemb.core.errors import InputError
from jemb.core.files import write_atomic
from jemb.core.folders import alone, replace_folder
from jemb.core.progress import track
from jemb.core.records import Kind
from jemb.prepare.engine.checks import (
    check_output,
    check_readable,
    finished,
    listed,
    warn_of_idle_options,
    warn_of_losses,
    warn_of_others,
)
from jemb.prepare.engine.executor import Executor, LocalExecutor
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.passes import passes, run_each
from jemb.prepare.engine.plan import Plan, Step, plan_all
from jemb.prepare.engine.read import Reading, read
from jemb.prepare.engine.table import BESIDE, Rows, Table, Verdict
from jemb.prepare.engine.write import find_examples, put_beside, write_dropped, write_shards
from jemb.prepare.options import PrepareConfig
from jemb.prepare.registry import MadeRows, Tools
from jemb.prepare.report.page import write_report
from jemb.prepare.report.summary import family, summary_table
from jemb.prepare.source.check import check
from jemb.prepare.source.sources import Source, find_sources
from jemb.shards import Manifest, StageCount, write_manifest
from jemb.tables.records import excerpt

log = logging.getLogger(__name__)

WORK = ".work"
DROPPED = "dropped"
UNREADABLE = "unreadable.jsonl"
REPORT = "report.html"


def prepare(config: PrepareConfig, tools: Tools) -> list[Manifest]:
    """Make each data set of the input in `config.output`; those that are finished already are left as they are.

    Returns the manifests by name; a data set of which nothing is left has one without shards, and no folder. Writes
    `report.html` beside them. Raises `InputError` before any work when the input cannot be used or the output holds
    something else, and at the data set that has too many unreadable rows; what was finished before stays.
    """
    output = Path(config.output).absolute()
    sources = find_sources(config)
    check_output(output, config, sources)
    check(sources)
    plans = plan_all(config, sources, tools)
    warn_of_idle_options(config)
    with alone(output, "jemb prepare"):
        manifests: list[Manifest] = []
        made = 0
        for plan in plans:
            if not plan.across:  # with it, what a data set should be depends on those before it
                finished(output / plan.source.name, plan.made_from, config.overwrite)
        warn_of_others(output, sources)
        with _executor(config, output) as executor:
            for plan in track(plans, "prepare" if len(plans) > 1 else None, len(plans), "data set"):
                name = plan.source.name
                plan.add_others({other.name: other.fingerprint for other in manifests if other.shards}, output)
                manifest = finished(output / name, plan.made_from, config.overwrite)
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


def _executor(config: PrepareConfig, output: Path) -> Executor:
    if config.executor == "ray":
        from jemb.prepare.engine.ray_executor import RayExecutor

        return RayExecutor(config.ray.address, config.workers, output)
    return LocalExecutor(config.workers)


@dataclass
class _Making:
    """One data set from its files to its folder. counts: what each stage kept and dropped; verdicts: stage -> folders
    of its verdicts; chain: all that decides the content of the next work folder; made: by a stage, of the source."""

    plan: Plan
    output: Path
    executor: Executor
    counts: list[StageCount] = field(default_factory=list)
    verdicts: dict[str, list[Path]] = field(default_factory=dict)
    chain: list[Any] = field(default_factory=list)
    kind: Kind = "pairs"
    made: MadeRows | None = None

    def run(self) -> Manifest:
        source, config, made_from = self.plan.source, self.plan.config, self.plan.made_from
        settings = made_from["settings"]
        self.chain = [made_from["files"], {name: value for name, value in settings.items() if _decides_rows(name)}]
        reading = self._read(source)
        check_readable(source, reading, self._beside(UNREADABLE), config.max_unreadable)
        adds_negatives = any(step.stage.adds_negatives for step in self.plan.steps)
        self.kind = reading.kind
        table = self._with_negatives(reading, adds_negatives)
        for step in self.plan.steps:
            table = self._run_step(step, table)
        examples = find_examples(table, self.verdicts, self._job("examples"), config.seed)
        counts = [
            replace(count, statistics={**count.statistics, "examples": examples.get(count.name, {})})
            for count in self.counts
        ]
        for step, count in zip(self.plan.steps, counts[1:], strict=True):
            warn_of_losses(source.name, step.stage, count)
        kind: Kind = reading.kind
        if table.has_scores():
            kind = "distill"
        elif kind == "pairs" and adds_negatives:
            kind = "triplets"
        return self._write(table, Manifest(source.name, kind, (), tuple(counts), made_from), reading)

    def _read(self, source: Source) -> Reading:
        """The source, or what a stage makes of it."""
        for step in self.plan.steps:
            if step.stage.source:
                self._add_to_chain(step)
                self.made = step.stage.source(source, self._job(step.stage.name), step.options, step.inputs)
                reading = read(self.made.source, self._job("read"))
                if not reading.rows and (lost := {why: n for why, n in self.made.dropped.items() if n}):
                    raise InputError(f"{source.where}: {step.stage.name} leaves no row; dropped are {lost}")
                return replace(reading, unreadable=[*self.made.unreadable, *reading.unreadable])
        return read(source, self._job("read"))

    def _add_to_chain(self, step: Step) -> None:
        name = step.stage.name
        settings = self.plan.made_from["settings"].items()
        self.chain.append(
            {setting: value for setting, value in settings if setting.startswith(f"{name}.")} | {"": name}
        )

    def _with_negatives(self, reading: Reading, adds_negatives: bool) -> Table:
        """Once a data set has negatives, a row without one cannot stay, unless a later stage finds it some."""
        table, name = reading.table, self.plan.source.name
        reasons = {"unreadable": len(reading.unreadable)}
        self.verdicts["read"] = []
        for field_name, number in reading.supervised.items():
            if 0 < number < reading.rows:
                record, query = reading.lacking[field_name]
                raise InputError(
                    f"{self.plan.source.where}: {number} of {reading.rows} rows have the field "
                    f"{getattr(self.plan.source.fields, field_name)!r} (fields.{field_name}); wanted all or none. The "
                    f"first without it is record {record} ({excerpt(query, 60)!r}). With fields.{field_name}=null it "
                    "is a field like any other"
                )
            if number:
                log.info("%s: its rows have the field %s: a data set of kind %s", name, field_name, reading.kind)
        if reading.kind == "labelled" and 0 < reading.alone < reading.rows:
            log.warning(
                "%s: %d of %d rows have no positive but their query, which is taken for one; give all a positive, or "
                "none", name, reading.alone, reading.rows,
            )  # fmt: skip
        if reading.kind in ("scored", "labelled") and reading.triplets:
            log.warning(
                "%s: %d of its rows have hard negatives, which objective=%s does not use",
                name, reading.triplets, reading.kind,
            )  # fmt: skip
        if reading.kind == "triplets" and reading.triplets < reading.rows and not adds_negatives:
            job = self._job("negatives")
            reasons |= run_each("negatives", _need_negatives, table, job, ("negatives",))["dropped"]
            self.verdicts["read"], table = [job.folder], table.judged(job.folder)
            log.warning(
                "%s: %d of %d rows have hard negatives, so it becomes a data set of triplets; the %d rows without are "
                "dropped (no_negative). For pairs, point fields.negative and fields.negatives elsewhere",
                name, reading.triplets, reading.rows, reasons["no_negative"],
            )  # fmt: skip
        settings = self.plan.made_from["settings"]
        fields = {name: value for name, value in settings.items() if name.startswith("fields.")}
        self.counts.append(StageCount("read", sum(table.counts()), reasons, fields))
        return table

    def _run_step(self, step: Step, table: Table) -> Table:
        name = step.stage.name
        self._add_to_chain(step)
        made = self.made if step.stage.source else None
        reasons: dict[str, int] = dict(made.dropped) if made else {}
        statistics: dict[str, Any] = dict(made.statistics) if made else {}
        self.verdicts[name] = []
        steps = passes(step.stage, step.options, replace(step.inputs, kind=self.kind))
        if step.stage.of_answers and self.kind in ("scored", "labelled"):
            steps = []
            log.warning(
                "%s: %s is not run, because it takes positives for right answers, and these rows are %s",
                self.plan.source.name, name, self.kind,
            )  # fmt: skip
        elif self.kind == "distill" and step.stage.adds_negatives and not any(map(_writes_scores, self.plan.steps)):
            log.warning(
                "%s: the negatives of %s get no scores, so objective=distill leaves them out; the stage cross_encoder "
                "with cross_encoder.write_scores=true scores all", self.plan.source.name, name,
            )  # fmt: skip
        for number, run in enumerate(steps):
            job = self._job(f"{name}-{number}" if len(steps) > 1 else name)
            result = run(table, job)
            reasons |= result["dropped"]
            statistics |= result["statistics"]
            self.verdicts[name].append(job.folder)
            table = table.judged(job.folder)
        reasons = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
        self.counts.append(StageCount(name, sum(table.counts()), reasons, step.settings, statistics))
        log.info("%s: %s keeps %s", self.plan.source.name, name, _words(self.counts[-1]))
        return table

    def _write(self, table: Table, manifest: Manifest, reading: Reading) -> Manifest:
        config, name = self.plan.config, self.plan.source.name
        folder = self.output / name
        rows = sum(table.counts())
        # Of a data set of which nothing is left. Hidden, or it would be trained on.
        lone_drops = self.output / f".{name}.{DROPPED}"
        shutil.rmtree(lone_drops, ignore_errors=True)
        job = self._job(f"write-{config.shard_samples}-{config.keep_dropped}")
        result = job.folder / "result"
        if not result.exists():  # its markers stand for files in there
            shutil.rmtree(job.folder, ignore_errors=True)
            result.mkdir(parents=True)
        dropped = result / DROPPED if rows else result
        if config.keep_dropped:
            dropped.mkdir(exist_ok=True)
            if shards := write_dropped(table, self.verdicts, job, dropped):
                write_manifest(dropped, replace(manifest, kind="pairs", shards=tuple(shards)))
        if not rows:
            where = f"; the dropped rows are in {lone_drops}" if config.keep_dropped else ""
            log.warning("%s: the filters leave nothing; no shards are written%s", name, where)
            shutil.rmtree(folder, ignore_errors=True)
            if config.keep_dropped:
                replace_folder(result, lone_drops)
            return manifest
        shards, given = write_shards(table, job, result, config.shard_samples, config.seed)
        files = tuple(
            put_beside(result, path)
            for verdicts in self.verdicts.values()
            for verdict in verdicts
            for path in sorted((verdict / BESIDE).glob("[!.]*"))
        )
        fields = tuple(sorted({*given, *(step.stage.gives for step in self.plan.steps if step.stage.gives)}))
        manifest = replace(manifest, shards=tuple(shards), fields=fields, files=files)
        for leftover in result.rglob(".*.tmp"):  # of a process that was killed as it wrote a shard
            leftover.unlink(missing_ok=True)
        write_manifest(result, manifest)
        if reading.unreadable:
            write_atomic(result / UNREADABLE, listed(reading.unreadable))
        replace_folder(result, folder)
        self._beside(UNREADABLE).unlink(missing_ok=True)
        return manifest

    def _job(self, step: str) -> Job:
        """The work folder of a step: its name changes with everything that came before it."""
        digest = hashlib.sha256(json.dumps(self.chain, sort_keys=True, default=str).encode()).hexdigest()[:12]
        folder = self.output / WORK / self.plan.source.name / f"{step}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        return Job(folder, self.executor, self.plan.source.name)

    def _beside(self, name: str) -> Path:
        """Where `name` lies for a data set that was not made."""
        return self.output / f"{self.plan.source.name}.{name}"


def _decides_rows(setting: str) -> bool:
    """Whether it matters to every stage; the settings of a stage matter to it and those after it."""
    return setting in ("rules", "seed") or setting.startswith(("fields.", "constants.", "limit"))


def _need_negatives(rows: Rows) -> Verdict:
    return Verdict({position: ("no_negative", "") for position, texts in enumerate(rows.negatives) if not texts})


def _writes_scores(step: Step) -> bool:
    return bool(step.stage.writes_scores and getattr(step.options, step.stage.writes_scores))


def _words(count: StageCount) -> str:
    families: Counter[str] = Counter()
    for reason, number in count.dropped.items():
        families[family(reason)] += number
    drops = ", ".join(f"{number:,} {reason}" for reason, number in families.items() if number)
    return f"{count.kept:,}, drops {drops or 'none'}"
