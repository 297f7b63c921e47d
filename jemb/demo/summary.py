"""What the demo shows at its end: the table of scores, and report.html, from what its parts have found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jemb.demo.corpus import CorpusCounts
from jemb.evaluate import Comparison, add_scores
from jemb.prepare import drop_reasons, funnel
from jemb.report import Bar, Cell, Report, line_figure
from jemb.run_folder import RunFolder
from jemb.shards import Manifest

COLUMNS = {
    "retrieval_ndcg_at_10": "retrieval nDCG@10",
    "easy_negation": "EasyNegation",
    "hard_negation": "HardNegation",
}
ROWS = {"untrained": "untrained", "pairs": "after pairs", "triplets": "after triplets", "bm25": "BM25"}


def scores_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """A line for each model with its scores in percent, aligned; – where a score does not apply."""
    lines = ["".join([f"{'percent':<16}", *(f"{title:>19}" for title in COLUMNS.values())])]
    for name, title in ROWS.items():
        cells = [f"{results[name][column]:.1f}" if column in results[name] else "–" for column in COLUMNS]
        lines.append("".join([f"{title:<16}", *(f"{cell:>19}" for cell in cells)]))
    return "\n".join(lines)


def write_report(
    path: Path,
    comparison: Comparison,
    corpus: CorpusCounts,
    manifests: Sequence[Manifest],
    runs: Mapping[str, RunFolder],
    notes: Sequence[str],
    seconds: Mapping[str, float],
) -> None:
    """The scores, what the filters left and the loss curves of this very run, in one file that needs no network."""
    report = Report("jemb demo", "From the docstrings of the installed Python packages to an exported embedding model")
    add_scores(report, comparison)
    report.text(
        f"Retrieval: {corpus.queries} queries over {corpus.documents} documents. Negation: {corpus.negations} triplets "
        "of anchor, entailment and negated entailment; EasyNegation counts s(anchor, entailment) > "
        "s(anchor, negative), HardNegation s(anchor, entailment) > s(entailment, negative)."
    )
    for note in notes:
        report.text(f"Note: {note}")
    report.heading("What the filters left")
    funnels = {manifest.name: funnel(manifest) for manifest in manifests}
    series = ["kept", *drop_reasons(funnels.values())]
    bars = [
        Bar(name, [counts.get(reason, 0) for reason in series], f"{counts['kept']:,} of {counts['read']:,}")
        for name, counts in funnels.items()
    ]
    report.bars(series, bars, "Rows of each data set by what became of them.")
    columns = ["read", *series]
    rows: list[list[Cell]] = [
        [name, *(counts.get(column, 0) for column in columns)] for name, counts in funnels.items()
    ]
    report.table(["data set", *columns], rows, "Read = kept + dropped by reason.")
    report.heading("Training")
    for name, run in runs.items():
        lines: dict[str, list[tuple[float, float]]] = {}
        for step in run.read_metrics():
            lines.setdefault(step["dataset"], []).append((step["step"], step["loss"]))
        figure = line_figure(dict(sorted(lines.items())), "step", "loss")
        report.figure(figure, f"Loss of the {name} phase", f"Loss of the {name} phase by data set.")
    report.heading("Time")
    times: list[list[Cell]] = [[part, f"{taken:.0f}"] for part, taken in seconds.items()]
    report.table(["part", "seconds"], times, "Parts that an earlier demo in the same folder had finished take no time.")
    report.write(path)
