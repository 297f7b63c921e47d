"""What the demo shows at its end: the table of scores, and report.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from jemb.prepare import drop_reasons, funnel
from jemb.report import Report
from jemb.run_folder import RunFolder

if TYPE_CHECKING:
    from jemb.demo.journey import Journey

COLUMNS = {
    "retrieval_ndcg_at_10": "retrieval nDCG@10",
    "easy_negation": "EasyNegation",
    "hard_negation": "HardNegation",
}
ROWS = {"untrained": "untrained", "pairs": "after pairs", "triplets": "after triplets", "bm25": "BM25"}


def scores_rows(results: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """A row for each model: its name and its scores in percent; – where a score does not apply."""
    return [
        [title, *(f"{results[name][column]:.1f}" if column in results[name] else "–" for column in COLUMNS)]
        for name, title in ROWS.items()
        if name in results
    ]


def scores_table(results: Mapping[str, Mapping[str, float]]) -> str:
    lines = [["percent", *COLUMNS.values()], *scores_rows(results)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def write_report(journey: Journey, path: Path) -> None:
    """The filter funnel, the loss curves and the scores of this very run, in one file that needs no network."""
    report = Report("jemb demo", "From the docstrings of the installed Python packages to an exported embedding model")
    report.heading("Scores on held-out objects")
    report.table(
        ["percent", *COLUMNS.values()], scores_rows(journey.results), "Higher is better; all measured in this run."
    )
    report.figure(_score_bars(journey.results), "Bar chart of the scores", "The same as a picture.")
    report.text(
        f"Retrieval: {journey.corpus.queries} queries over {journey.corpus.documents} documents. Negation: "
        f"{journey.corpus.negations} triplets of anchor, entailment and negated entailment; EasyNegation counts "
        "s(anchor, entailment) > s(anchor, negative), HardNegation s(anchor, entailment) > s(entailment, negative)."
    )
    for note in journey.notes:
        report.text(f"Note: {note}")
    report.heading("What the filters left")
    report.figure(
        _funnel_bars(journey), "Bar chart of kept and dropped rows", "Rows of each data set by what became of them."
    )
    _funnel_table(report, journey)
    report.heading("Training")
    for name, run in journey.runs.items():
        report.figure(_loss_curve(run), f"Loss of the {name} phase", f"Loss of the {name} phase by data set.")
    report.heading("Time")
    rows = [[part, f"{seconds:.0f}"] for part, seconds in journey.seconds.items()]
    report.table(["part", "seconds"], rows, "Parts that an earlier demo in the same folder had finished take no time.")
    report.write(path)


def _funnel_table(report: Report, journey: Journey) -> None:
    funnels = {manifest.name: funnel(manifest) for manifest in [*journey.pairs, *journey.triplets]}
    reasons = drop_reasons(funnels.values())
    rows = [
        [name, *(f"{counts.get(column, 0):,}" for column in ["read", *reasons, "kept"])]
        for name, counts in funnels.items()
    ]
    report.table(["data set", "read", *reasons, "kept"], rows, "Read = dropped by reason + kept.")


def _score_bars(results: Mapping[str, Mapping[str, float]]) -> Figure:
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    names = [name for name in ROWS if name in results]
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        shown = [(i, results[name][column]) for i, column in enumerate(COLUMNS) if column in results[name]]
        bars = axes.bar([i + number * width for i, _ in shown], [value for _, value in shown], width, label=ROWS[name])
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(COLUMNS))], list(COLUMNS.values()))
    axes.set_ylabel("percent")
    axes.set_ylim(0, 130)
    axes.legend(fontsize=8, ncols=2, loc="upper left")
    return figure


def _funnel_bars(journey: Journey) -> Figure:
    funnels = {manifest.name: funnel(manifest) for manifest in reversed([*journey.pairs, *journey.triplets])}
    reasons = ["kept", *drop_reasons(funnels.values())]
    figure = Figure(figsize=(5, 0.8 + 0.35 * len(funnels)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(funnels))
    for reason in reasons:
        counts = np.array([counts.get(reason, 0) for counts in funnels.values()])
        axes.barh(list(funnels), counts, left=left, label=reason)
        left += counts
    axes.set_xlabel("rows")
    axes.legend(fontsize=8)
    return figure


def _loss_curve(run: RunFolder) -> Figure:
    figure = Figure(figsize=(5, 2.9), layout="constrained")
    axes = figure.subplots()
    metrics = run.read_metrics()
    for name in sorted({line["dataset"] for line in metrics}):
        lines = [line for line in metrics if line["dataset"] == name]
        axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], label=name, linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(fontsize=8, ncols=2)
    return figure
