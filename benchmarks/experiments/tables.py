"""results.jsonl -> Markdown: means over seeds with 95 % intervals of Student's t, and differences paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.experiments.lab import read_lines
from benchmarks.experiments.noise import SHARES

Arm = tuple[str, str]
"""(experiment, arm) as in results.jsonl."""


def arms(experiment: str, *names: str) -> tuple[Arm, ...]:
    return tuple((experiment, name) for name in names)


SIMILARITY = ("stsb_en_dev", "sick_dev")
RETRIEVAL = ("quora/dev", "stackfaq", "cranfield", "docstrings")
OTHER_ORIGIN = ("condaqa_dev", "semantoneg_dev", "sick", "stsb_negated", "asset_negated")
SAME_ORIGIN = ("captions_negated", "cad_nli_dev", "nli_new_protocols_dev", "docstrings_negated")
HARD, EASY = (tuple(f"{name} {kind}" for name in OTHER_ORIGIN) for kind in ("hard", "easy"))
MEANS = {"similarity": SIMILARITY, "retrieval": RETRIEVAL, "mean hard": HARD, "mean easy": EASY}
NEGATION = arms("negation", "before", "the paper's loss", "with p against n")


@dataclass(frozen=True)
class Table:
    """A table of docs/experiments.md: a row an arm, then each arm less the reference."""

    name: str
    arms: tuple[Arm, ...]
    reference: Arm
    columns: tuple[str, ...] = (*SIMILARITY, *RETRIEVAL, "similarity", "retrieval")


CLEAN = ("ablation", "consistency")
GATHERED = ("sources", "single")
TABLES = (
    Table("filters", arms("ablation", "untrained", "raw", "deduplicated", "language", "consistency"),
          ("ablation", "raw")),
    Table("efficiency", (*arms("ablation", "raw", "few raw"), CLEAN), ("ablation", "raw")),
    Table("sources", arms("sources", "single", "mixed", "quality", "uniform"), ("sources", "single")),
    Table("negatives", (GATHERED, *arms("negatives", "gathered on 2", "local on 2", "local on 4")), GATHERED),
    Table("peer, equal settings", arms("peer", "ST, equal", "jemb, equal"), ("peer", "ST, equal")),
    Table("peer, as recommended", (*arms("peer", "ST on raw", "ST on clean"), CLEAN), ("peer", "ST on raw")),
    Table("peer, same clean pairs", (("peer", "ST on clean"), CLEAN), ("peer", "ST on clean")),
    Table("hard negation, other origin", NEGATION, NEGATION[0], (*HARD, "mean hard")),
    Table("easy negation, other origin", NEGATION, NEGATION[0], (*EASY, "mean easy")),
    Table("negation, same origin", NEGATION, NEGATION[0],
          tuple(f"{name} {kind}" for name in SAME_ORIGIN for kind in ("hard", "easy"))),
    Table("cost of the triplet phase", NEGATION, NEGATION[0]),
    Table("what the term adds", NEGATION[1:], NEGATION[1],
          ("captions_negated hard", "mean hard", "mean easy", *SIMILARITY, "similarity", "retrieval")),
)  # fmt: skip


def print_tables(folder: Path) -> None:
    results = read_lines(folder / "results.jsonl")
    for name, lines in all_tables(results).items():
        print(f"{name}\n\n" + "\n".join(lines) + "\n")


def all_tables(results: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """The lines of every table that has results, by name."""
    made = {"kinds": kinds(results), **{table.name: markdown(table, results) for table in TABLES}}
    return {name: lines for name, lines in made.items() if lines}


def kinds(results: Sequence[dict[str, Any]]) -> list[str]:
    """Rows of each kind of noise that each filter leaves."""
    counts = {line["arm"]: line["scores"] for line in results if line["experiment"] == "kinds"}
    if not counts:
        return []
    columns = [kind for kind in SHARES if kind in counts["before"]]
    rows = []
    for arm in ("before", "raw", "deduplicated", "language", "consistency"):
        total = sum(counts[arm].values())
        belong = sum(counts[arm].get(kind, 0) for kind in ("real", "exact copy", "near copy"))
        cells = [f"{counts[arm].get(kind, 0):,}" for kind in columns]
        rows.append([arm, *cells, f"{total:,}", f"{100 * belong / total:.0f}"])
    return _lines(["arm", *columns, "rows", "% English pairs that belong together"], rows)


def markdown(table: Table, results: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a table; none where the reference has no result, or nothing can be compared with it."""
    scores = {arm: _scores(results, arm) for arm in table.arms}
    there = [arm for arm, found in scores.items() if found]
    columns = [c for c in table.columns if any(c in found for arm in there for found in scores[arm].values())]
    if table.reference not in there or len(there) < 2:
        return []
    head = ["arm", "seeds", *columns]
    rows = [_row(arm[1], [scores[arm]], columns) for arm in there]
    reference, others = scores[table.reference], [arm for arm in there if arm != table.reference]
    rows += [_row(f"{arm[1]} − {table.reference[1]}", [scores[arm], reference], columns) for arm in others]
    return _lines(head, rows)


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(row) + " |" for row in cells]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half the width of the 95 % interval of Student's t); NaN for the width of one value."""
    numbers = np.array(values, float)
    if len(numbers) < 2:
        return float(numbers.mean()), float("nan")
    error = numbers.std(ddof=1) / np.sqrt(len(numbers))
    return float(numbers.mean()), float(stats.t.ppf(0.975, len(numbers) - 1) * error)


def _scores(results: Sequence[dict[str, Any]], arm: Arm) -> dict[int, dict[str, float]]:
    """Scores of an arm by seed, with the means over tasks."""
    found: dict[int, dict[str, float]] = {}
    for line in results:
        if (line["experiment"], line["arm"]) == arm:
            scores = dict(line["scores"])
            for mean, tasks in MEANS.items():
                if len(several := [scores[task] for task in tasks if task in scores]) > 1:
                    scores[mean] = sum(several) / len(several)
            found[line["seed"]] = scores
    return found


def _row(name: str, several: Sequence[dict[int, dict[str, float]]], columns: Sequence[str]) -> list[str]:
    """One arm, or one less another, seed by seed; what was never trained has one score, which stands for each seed."""
    first = several[0]
    seeds = sorted(set(first) if len(several) == 1 else _common(first, several[1]))
    cells = []
    for column in columns:
        values = []
        for seed in seeds:
            scores = [arm[seed if seed in arm else 0].get(column, float("nan")) for arm in several]
            values.append(scores[0] if len(several) == 1 else scores[0] - scores[1])
        mean, half = interval(values)
        sign = "+" if len(several) > 1 else ""
        cells.append(f"{mean:{sign}.1f}" + (f" ± {half:.1f}" if half == half else ""))
    return [name, str(len(seeds)), *cells]


def _common(first: dict[int, Any], second: dict[int, Any]) -> set[int]:
    return set(first) if set(second) == {0} else set(first) & set(second)
