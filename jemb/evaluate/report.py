"""`report.html` of an evaluation: scores and differences with their intervals, for a reader who compares models.

Before: `comparison.py` has all that is shown. After: a browser.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jemb
from jemb.config import EvaluateConfig
from jemb.evaluate.bm25 import SETTINGS
from jemb.evaluate.comparison import Comparison, explain, short_names
from jemb.report import Report, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "jemb evaluate"
COLOURS = ("#2a78b8", "#d55e00", "#009e73", "#7e5fb5", "#e69f00", "#cc79a7", "#8d979f", "#8c564b")
PER_FIGURE = 12
"""Tasks in one picture."""
WIDTH = 3.9
"""Of a picture in inches: as wide as a phone, so that its letters are not made smaller there."""


def report_path(output: Path) -> Path:
    """`report.html` beside the output; `NAME.report.html` where another command's report has that place."""
    path = output.with_name("report.html")
    if path.exists() and f"<title>{TITLE}</title>" not in path.read_text(encoding="utf-8", errors="replace")[:4096]:
        return output.with_name(f"{output.stem}.report.html")
    return path


def write_report(comparison: Comparison, config: EvaluateConfig, path: Path) -> None:
    """One HTML file that needs no network."""
    models, tasks = short_names(comparison.models), short_names(comparison.tasks)
    what = models[comparison.models[0]] if len(models) == 1 else f"{len(models)} models"
    report = Report(TITLE, f"{what} on {len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}")
    add_scores(report, comparison)
    _add_variants(report, comparison)
    report.heading("All metrics")
    headers = ["metric", "model", "percent", "difference"][: 4 if len(models) > 1 else 3]
    for task, shown in tasks.items():
        main = comparison.main[task]
        found = [comparison.cell(model, task, main) for model in models]
        note = f"{main} " + ", ".join("–" if cell is None else f"{cell.value:.2f}" for cell in found)
        rows = [
            [metric, name, cell.shown(), cell.shown_difference()][: len(headers)]
            for metric in comparison.metrics(task)
            for model, name in models.items()
            if (cell := comparison.cell(model, task, metric))
        ]
        with report.details(shown, note):
            report.table(headers, rows, task)
    report.heading("How it was measured")
    report.text(explain(comparison))
    report.table(["", ""], _facts(comparison, config))
    report.write(path)


def add_scores(report: Report, comparison: Comparison) -> None:
    """The main metric of each task, as a table and as pictures, and the differences to the first model."""
    models, tasks = short_names(comparison.models), short_names(comparison.tasks)
    first = models[comparison.models[0]]
    cells = {task: [comparison.cell(model, task, main) for model in models] for task, main in comparison.main.items()}
    rows = [
        [f"{tasks[task]} {comparison.main[task]}", *(cell.value if cell else None for cell in found)]
        for task, found in cells.items()
    ]
    report.heading("Scores")
    report.table(["task and metric", *models.values()], rows, "Percent; higher is better.")
    for what in ["scores", "differences"][: len(models)]:
        if what == "differences":
            report.heading(f"Differences to {first}")
            report.text(
                f"Points that a model has more than {first} on the same items. Beyond the line at 0 it is better."
            )
        alt = f"Main metric of each task: {what} with their intervals"
        for start in range(0, len(tasks), PER_FIGURE):
            part = dict(list(tasks.items())[start : start + PER_FIGURE])
            report.figure(_whiskers(comparison, models, part, what == "differences"), alt, f"{alt}.")


def _whiskers(comparison: Comparison, models: dict[str, str], tasks: dict[str, str], differences: bool) -> Figure:
    """A group of points for each task, one for each model, each on the line that is its interval."""
    shown = {model: name for model, name in models.items() if not (differences and model == comparison.models[0])}
    rows = len(tasks) * (len(shown) + 1.6)
    figure, axes = new_axes(WIDTH, 0.9 + 0.17 * rows + 0.2 * len(shown))
    left_edge = axes.get_yaxis_transform()
    place = 0.0
    for task, label in tasks.items():
        main = comparison.main[task]
        axes.text(0, place, f"{label}  {main}", transform=left_edge, fontsize=8, va="center", parse_math=False)
        for model in shown:
            place -= 1
            cell = comparison.cell(model, task, main)
            point = cell and (cell.difference if differences else (cell.value, cell.interval))
            if point:
                value, interval = point
                colour = _colour(comparison, model)
                if interval:
                    axes.plot(interval, [place, place], linewidth=2, alpha=0.6, solid_capstyle="butt", color=colour)
                axes.plot([value], [place], "o", markersize=5, color=colour)
        place -= 1.6
    for model, name in shown.items():
        axes.plot([], [], "o", color=_colour(comparison, model), label=name, markersize=5)
    if differences:
        axes.axvline(0, color="#3f474e", linewidth=1)
    axes.set(ylim=(place + 0.8, 0.8), yticks=[], xlabel="points" if differences else "percent")
    axes.grid(visible=False, axis="y")
    if len(shown) > 1 or differences:
        legend = axes.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, frameon=False, borderaxespad=0.2)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _add_variants(report: Report, comparison: Comparison) -> None:
    """The main metric of each task, of whole vectors and of what is left of them."""
    models, tasks = short_names(comparison.models), short_names(comparison.tasks)
    metrics = [metric for task in tasks for metric in comparison.metrics(task)]
    variants = list(dict.fromkeys(metric.partition("@")[2] for metric in metrics if "@" in metric))
    rows = []
    for task, main in comparison.main.items():
        for model, name in models.items():
            cells = [comparison.cell(model, task, metric) for metric in (main, *(f"{main}@{of}" for of in variants))]
            if any(cells[1:]):
                rows.append([f"{tasks[task]} {main}", name, *(cell.value if cell else None for cell in cells)])
    if rows:
        report.heading("Shorter and quantised vectors")
        report.text(
            "64 and the like: only so many first numbers of each vector, as vectors of length 1. int8: a byte for each "
            "number, in steps of a 255th of its range over the task's corpus, or over all its texts where it has no "
            "corpus; compared by cosine. binary: a bit for each number, its sign; compared by Hamming distance. Both "
            "without rescoring."
        )
        report.table(["task and metric", "model", "whole", *variants], rows, "Percent; higher is better.")


def _colour(comparison: Comparison, model: str) -> str:
    return COLOURS[comparison.models.index(model) % len(COLOURS)]


def _facts(comparison: Comparison, config: EvaluateConfig) -> list[Sequence[str]]:
    facts = [
        *((f"model {number}", model) for number, model in enumerate(comparison.models, start=1)),
        ("texts cut at", f"{config.max_length} tokens" if config.max_length else "each model's own limit"),
        ("precision", "fp32"),
        *([("bm25", SETTINGS)] if "bm25" in comparison.models else []),
        ("seconds", ", ".join(f"{sum(tasks.values()):.0f}" for tasks in comparison.seconds.values())),
        ("jemb", jemb.__version__),
        ("made", time.strftime("%Y-%m-%d %H:%M")),
    ]
    return [(name, re.sub(r"\s+", " ", value)) for name, value in facts]
