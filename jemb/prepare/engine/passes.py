"""A stage as one or two passes over the table, each of which leaves verdicts beside the pieces.

Before: `read.py` has made the pieces. After: `run.py` counts what each stage kept and dropped. A pass returns
{"dropped": {reason: rows}, "statistics": {…}}; once done, it only reads them again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jemb.core.files import read_json, write_json
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import BESIDE, Dropped, Rows, Table, Verdict
from jemb.prepare.engine.verdicts import add_up, write_dropped, write_verdict
from jemb.prepare.registry import Stage, StageInputs

VERDICT = "verdict.json"
"""Marker of a finished pass: its counts by reason, and its statistics."""
LASTING = (VERDICT, BESIDE, "drops-*.arrow", "negatives-*.arrow")
"""What stays of a pass. Signatures and vectors have done their service, and are many times as much."""
Result = dict[str, Any]


def passes(stage: Stage, options: Any, inputs: StageInputs) -> list[Callable[[Table, Job], Result]]:
    """In order."""
    found: list[Callable[[Table, Job], Result]] = []
    if stage.each:
        each = partial(stage.each, options=options, inputs=inputs)
        found.append(partial(run_each, stage.name, each, columns=stage.columns, gpu=stage.gpu))
    if stage.whole:
        found.append(partial(_run_whole, stage.whole, options, inputs))
    return found


def run_each(
    name: str, each: Callable[[Rows], Verdict], table: Table, job: Job, columns: tuple[str, ...], *, gpu: bool = False
) -> Result:
    """A pass of a function of the rows of one piece."""

    def judge() -> Result:
        function = partial(_judge, table, job.folder, each, columns)
        results = job.map(name.replace("_", " "), function, range(table.num_pieces), sizes=table.counts(), gpu=gpu)
        return {part: add_up(result[part] for result in results) for part in ("dropped", "statistics")}

    return _once(job, judge)


def _run_whole(whole: Callable[..., Any], options: Any, inputs: StageInputs, table: Table, job: Job) -> Result:
    def judge() -> Result:
        found = whole(table, job, options, inputs)
        return write_dropped(job.folder, table, [found] if isinstance(found, Dropped) else found)

    return _once(job, judge)


def _once(job: Job, judge: Callable[[], Result]) -> Result:
    marker = job.folder / VERDICT
    if marker.exists():
        return dict(read_json(marker))
    result = judge()
    write_json(marker, result)
    for path in job.folder.iterdir():
        if path.is_dir() and path.name != BESIDE:
            shutil.rmtree(path)
        elif not any(map(path.match, LASTING)):
            path.unlink()
    return result


def _judge(
    table: Table, folder: Path, each: Callable[[Rows], Verdict], columns: tuple[str, ...], piece: int
) -> dict[str, Any]:
    rows = table.read(piece, columns)
    return write_verdict(folder, piece, rows, each(rows))
