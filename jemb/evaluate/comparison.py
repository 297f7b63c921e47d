"""The scores of one or several models side by side, with intervals: as values for JSON, as text for a terminal, and as
the files that mteb reads.

Before: `run.py` fills it. After: the output, and `report.py`.
"""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import jemb
from jemb.core.files import write_json
from jemb.evaluate.measure import Bootstrap, Interval, Measured, values
from jemb.report import text_table

ENDING = re.compile(r"\.(jsonl|tsv|csv|parquet)(\.gz|\.zst)?$")

COLUMNS = 80
"""Of a terminal: where it can be had, no line of the table is longer."""

Results = dict[str, dict[str, float]]
"""{task as the user wrote it: {metric: percent}}."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A metric of a model on a task, in percent. interval: None where the score's items are not known.
    difference: to the first model on the same items, with its interval; None for that model itself."""

    value: float
    interval: Interval | None = None
    difference: tuple[float, Interval | None] | None = None

    def shown(self) -> str:
        """`86.72 [85.1, 88.2]`."""
        return f"{self.value:.2f}" + (f" [{self.interval[0]:.1f}, {self.interval[1]:.1f}]" if self.interval else "")

    def shown_difference(self) -> str:
        """`+0.38 [-0.2, +0.9]`; nothing for the first model itself."""
        if self.difference is None:
            return ""
        difference, interval = self.difference
        return f"{difference:+.2f}" + (f" [{interval[0]:+.1f}, {interval[1]:+.1f}]" if interval else "")


@dataclass
class Comparison:
    """What every model got. The first model is the one the others are compared with."""

    models: list[str]
    """As the user wrote them."""
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    measured: dict[str, dict[str, Measured]] = field(default_factory=dict, repr=False)
    """{model: {task: …}}; a task that a model cannot do is not there."""
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """{model: {task: …}}: how long it took."""
    main: dict[str, str] = field(default_factory=dict)
    """{task: the metric that stands for it}."""
    cells: dict[str, dict[str, dict[str, Cell]]] = field(default_factory=dict)
    """{model: {task: {metric: …}}}."""

    def add(self, model: str, task: str, main: str, measured: Measured, seconds: float) -> None:
        """One model's scores on one task. `Failure` where one is not finite."""
        values(task, measured)
        first = self.measured.get(self.models[0], {}).get(task)
        cells = {}
        for metric, score in measured.scores.items():
            baseline = first.scores.get(metric) if first else None
            difference = self.bootstrap.difference(score, baseline) if baseline else None
            cells[metric] = Cell(score.value, self.bootstrap.interval(score), difference)
        self.main[task] = main
        self.measured.setdefault(model, {})[task] = measured
        self.seconds.setdefault(model, {})[task] = seconds
        self.cells.setdefault(model, {})[task] = cells

    @property
    def tasks(self) -> list[str]:
        """Every task that any model did, in order."""
        return list(self.main)

    @property
    def scores(self) -> dict[str, Results]:
        """{model: {task: {metric: percent}}}."""
        return self._nested(lambda cell: cell.value)

    def metrics(self, task: str) -> list[str]:
        """The metrics of a task."""
        return next(list(tasks[task]) for tasks in self.cells.values() if task in tasks)

    def cell(self, model: str, task: str, metric: str) -> Cell | None:
        return self.cells.get(model, {}).get(task, {}).get(metric)

    def output(self) -> dict[str, Any]:
        """What the output file holds: for one model {task: {metric: percent}}, for several that and more by model.

        `scores` {model: {task: {metric: percent}}}, `intervals` {… [low, high]} and, for all models but the first,
        `differences` {… [difference, low, high]}; `bootstrap` says how the intervals were made.
        """
        if len(self.models) == 1:
            return dict(self.scores.get(self.models[0], {}))
        facts = {"samples": self.bootstrap.samples, "level": self.bootstrap.level, "seed": self.bootstrap.seed}
        return {
            "scores": self.scores,
            "intervals": self._nested(lambda cell: cell.interval and list(cell.interval)),
            "differences": self._nested(
                lambda cell: cell.difference and [cell.difference[0], *(cell.difference[1] or (None, None))]
            ),
            "bootstrap": {**facts, "baseline": self.models[0]},
        }

    def _nested(self, value: Callable[[Cell], Any]) -> dict[str, dict[str, dict[str, Any]]]:
        """{model: {task: {metric: value}}} of what is not None."""
        out: dict[str, dict[str, dict[str, Any]]] = {}
        for model, tasks in self.cells.items():
            for task, cells in tasks.items():
                if found := {metric: value(cell) for metric, cell in cells.items() if value(cell) is not None}:
                    out.setdefault(model, {})[task] = found
        return out


def table(comparison: Comparison) -> str:
    """The comparison as aligned text: a line for each metric of each task, a second one for the differences."""
    models, tasks = short_names(comparison.models), short_names(comparison.tasks)
    rows = [["task", "metric", *(["percent"] if len(models) == 1 else (_cut(name, 24) for name in models.values()))]]
    for task in comparison.tasks:
        shown = tasks[task]
        for metric in comparison.metrics(task):
            cells = [comparison.cell(model, task, metric) for model in models]
            rows.append([shown, metric, *(cell.shown() if cell else "–" for cell in cells)])
            shown = ""
            if len(models) > 1:
                rows.append(["", "  difference", *(cell.shown_difference() if cell else "" for cell in cells)])
    others = sum(max(len(row[column]) for row in rows) + 2 for column in range(1, len(rows[0])))
    lines = [text_table([[_cut(name, max(24, COLUMNS - others)), *cells] for name, *cells in rows])]
    if comparison._nested(lambda cell: cell.interval):
        lines += ["", *textwrap.wrap(explain(comparison), COLUMNS)]
    return "\n".join(lines)


def explain(comparison: Comparison) -> str:
    """How the intervals were made, in words."""
    made = comparison.bootstrap
    words = (
        f"In brackets: {100 * made.level:g} % of {made.samples:,} bootstrap samples (percentiles, seed {made.seed}) "
        "of a task's queries or pairs; training anew would vary the scores further."
    )
    if len(comparison.models) > 1:
        words += (
            f" Differences are to {comparison.models[0]} and paired: both models on the same samples. Where 0 is "
            "outside the brackets, these items tell the two models apart."
        )
    return words


def short_names(names: list[str]) -> dict[str, str]:
    """{name: its end, where no other has that, else all of it}: `sts:stsb_dev` for `sts:/data/stsb_dev.jsonl.gz`."""
    ends = [_end(name) for name in names]
    return {
        name: end if ends.count(end) == 1 and end not in names else name for name, end in zip(names, ends, strict=True)
    }


def write_task_results(comparison: Comparison, folder: Path) -> None:
    """FOLDER/MODEL/TASK.json for each model and task, which mteb's `TaskResult.from_disk` reads; others there stay."""
    models, tasks = short_names(comparison.models), short_names(comparison.tasks)
    for model, done in comparison.cells.items():
        for task, cells in done.items():
            scores = {metric: cell.value / 100 for metric, cell in cells.items()}
            # A task of local files as mteb would tell it, in shares of 1; what it cannot know of a file is left open.
            known = {"main_score": scores[comparison.main[task]], "hf_subset": "default", "languages": ["und-Zyyy"]}
            local = {
                "dataset_revision": "local",
                "task_name": tasks[task],
                "mteb_version": None,
                "scores": {"test": [{**scores, **known}]},
                "evaluation_time": comparison.seconds[model][task],
                "kg_co2_emissions": None,
                "date": time.time(),
            }
            # Ours, which the file of an mteb task does not have: widths, and intervals.
            ours = {
                "version": jemb.__version__,
                "model": model,
                "task": task,
                "percent": {metric: cell.value for metric, cell in cells.items()},
                "intervals": {metric: list(cell.interval) for metric, cell in cells.items() if cell.interval},
            }
            result = {**(comparison.measured[model][task].record or local), "jemb": ours}
            write_json(folder / file_name(models[model]) / f"{file_name(tasks[task])}.json", result)


def file_name(name: str) -> str:
    """A name for a file: letters, digits, `.`, `-`, `_`, no `.` first; `/` becomes `__`, as in mteb."""
    return re.sub(r"[^\w.\-]+", "_", name.removeprefix("mteb:").replace("/", "__")).strip("_").lstrip(".")[-80:] or "_"


def _end(name: str) -> str:
    kind, colon, path = name.partition(":") if ":" in name else ("", "", name)
    if kind == "mteb":
        return name
    parts = PurePath(path).parts
    last = parts[-2:] if parts[-1:] == ("model",) else parts[-1:]  # as it is called in every run
    return kind + colon + ENDING.sub("", "/".join(last))


def _cut(name: str, width: int) -> str:
    """Of a longer name the kind before the colon and the end, which tell more than the middle."""
    kind, colon, rest = name.rpartition(":")
    room = width - len(kind + colon) - 1
    return name if len(name) <= width else f"{kind}{colon}…{rest[-room:]}" if room > 8 else f"…{name[1 - width :]}"
