"""Results as files that mteb reads: `FOLDER/MODEL/TASK.json`, each a `TaskResult` (`TaskResult.from_disk`).

Before: `comparison.py`. After: mteb's own tools, or another program that knows its format.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jemb
from jemb.core.files import write_json
from jemb.evaluate.comparison import Cell, Comparison, short_names


def write_task_results(comparison: Comparison, folder: Path) -> None:
    """One file for each model and task. Other files in `folder` stay."""
    models, tasks = short_names(comparison.models), short_names(comparison.tasks)
    for model, done in comparison.cells.items():
        for task, cells in done.items():
            main, seconds = comparison.main[task], comparison.seconds[model][task]
            record = comparison.measured[model][task].record
            result = dict(record) if record is not None else _local(tasks[task], main, cells, seconds)
            result["jemb"] = {"version": jemb.__version__, "model": model, "task": task, **_percents(cells)}
            write_json(folder / file_name(models[model]) / f"{file_name(tasks[task])}.json", result)


def file_name(name: str) -> str:
    """A name for a file: letters, digits, `.`, `-`, `_`, no `.` first; `/` becomes `__`, as in mteb."""
    return re.sub(r"[^\w.\-]+", "_", name.removeprefix("mteb:").replace("/", "__")).strip("_").lstrip(".")[-80:] or "_"


def _local(task: str, main: str, cells: Mapping[str, Cell], seconds: float) -> dict[str, Any]:
    """A task of local files as mteb would tell it, in shares of 1. What mteb cannot know of a file is left open."""
    scores = {metric: cell.value / 100 for metric, cell in cells.items()}
    known = {"main_score": scores[main], "hf_subset": "default", "languages": ["und-Zyyy"]}
    return {
        "dataset_revision": "local",
        "task_name": task,
        "mteb_version": None,
        "scores": {"test": [{**scores, **known}]},
        "evaluation_time": seconds,
        "kg_co2_emissions": None,
        "date": time.time(),
    }


def _percents(cells: Mapping[str, Cell]) -> dict[str, Any]:
    """Metrics of ours, which the file of an mteb task does not have: widths, and intervals."""
    return {
        "percent": {metric: cell.value for metric, cell in cells.items()},
        "intervals": {metric: list(cell.interval) for metric, cell in cells.items() if cell.interval},
    }
