"""A stage as one or two passes over the table, each of which leaves verdicts beside the pieces.

Before: `read.py` has made the pieces. After: `run.py` counts what each stage kept and dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jemb.core.files import read_json, write_json
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import (
    Dropped,
    Rows,
    Table,
    Verdict,
    add_up,
    is_verdict,
    write_dropped,
    write_verdict,
)
from jemb.prepare.registry import Stage, StageInputs

VERDICT = "verdict.json"
"""Marker of a finished pass: its counts by reason, and its statistics."""
Each = Callable[[Rows], Verdict]


@dataclass(frozen=True, slots=True)
class Pass:
    """One of a stage's functions, bound to its options."""

    stage: Stage
    options: Any
    inputs: StageInputs
    by_piece: bool

    def run(self, table: Table, job: Job) -> dict[str, Any]:
        """Leave the verdicts in the job's folder; {"dropped": {reason: rows}, "statistics": {…}}. Once done, only
        read."""
        stage = self.stage
        if self.by_piece:
            assert stage.each is not None
            each = partial(stage.each, options=self.options, inputs=self.inputs)
            return run_each(stage.name, each, table, job, stage.columns, gpu=stage.gpu)

        def find() -> dict[str, Any]:
            assert stage.whole is not None
            found = stage.whole(table, job, self.options, self.inputs)
            return write_dropped(job.folder, table, [found] if isinstance(found, Dropped) else found)

        return _once(job, find)


def passes(stage: Stage, options: Any, inputs: StageInputs) -> list[Pass]:
    """In order."""
    return [Pass(stage, options, inputs, kind) for kind in (True, False) if (stage.each if kind else stage.whole)]


def run_each(
    name: str, each: Each, table: Table, job: Job, columns: tuple[str, ...], *, gpu: bool = False
) -> dict[str, Any]:
    """As `Pass.run`, for a function of the rows of a piece."""

    def judge() -> dict[str, Any]:
        function = partial(_judge, table, job.folder, each, columns)
        results = job.map(name.replace("_", " "), function, range(table.num_pieces), sizes=table.counts(), gpu=gpu)
        return {part: add_up(result[part] for result in results) for part in ("dropped", "statistics")}

    return _once(job, judge)


def _once(job: Job, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    marker = job.folder / VERDICT
    if marker.exists():
        return dict(read_json(marker))
    result = work()
    write_json(marker, result)
    for path in job.folder.iterdir():  # signatures and vectors have done their service, and are many times the verdicts
        if path != marker and not is_verdict(path):
            path.unlink()
    return result


def _judge(table: Table, folder: Path, each: Each, columns: tuple[str, ...], piece: int) -> dict[str, Any]:
    rows = table.read(piece, columns)
    return write_verdict(folder, piece, rows, each(rows))
