"""A few of the rows that each stage dropped, for a reader of the report to judge the filters by.

Before: `run.py` has the verdicts. After: the manifest keeps them, `report.py` shows them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jemb.prepare.engine.job import Job
from jemb.prepare.engine.order import scrambled
from jemb.prepare.engine.table import Table, key_of, read_drops

EXAMPLES = 5
"""Rows shown for each reason."""
LENGTH = 300
"""Characters shown of a text."""

Examples = dict[str, list[dict[str, str]]]


def find_examples(table: Table, verdicts: dict[str, list[Path]], job: Job, seed: int) -> dict[str, Examples]:
    """stage -> reason (all of `language:…` as one) -> rows drawn by seed: key, query, positive, note."""
    draw = partial(_draw, Table(table.pieces), verdicts, seed)
    sizes = [piece.rows for piece in table.pieces]
    drawn: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for result in job.map("examples", draw, range(table.num_pieces), sizes=sizes):
        for stage, reasons in result.items():
            for reason, rows in reasons.items():
                drawn.setdefault(stage, {}).setdefault(reason, []).extend(rows)
    return {
        stage: {
            reason: [
                {name: row[name] for name in ("key", "query", "positive", "reason", "note")}
                for row in sorted(rows, key=lambda row: int(row["order"]))[:EXAMPLES]
            ]
            for reason, rows in sorted(reasons.items())
        }
        for stage, reasons in drawn.items()
    }


def _draw(table: Table, verdicts: dict[str, list[Path]], seed: int, piece: int) -> dict[str, Any]:
    chosen: dict[int, tuple[str, str, str, int]] = {}
    for stage, folders in verdicts.items():
        by_reason: dict[str, list[tuple[int, str, str]]] = {}
        for drop in (drop for folder in folders for drop in read_drops(folder, piece)):
            by_reason.setdefault(drop[1].partition(":")[0], []).append(drop)
        for drops in by_reason.values():
            orders = scrambled(np.array([row for row, _, _ in drops], np.int64), seed, "examples").tolist()
            first = sorted(zip(orders, drops, strict=True))[:EXAMPLES]
            chosen |= {row: (stage, reason, note, order) for order, (row, reason, note) in first}
    found: dict[str, Any] = {}
    if chosen:
        rows = table.read(piece, ("query", "positive"))
        for position, row in enumerate(rows.ids.tolist()):
            if row in chosen:
                stage, reason, note, order = chosen[row]
                example = {"order": order, "key": key_of(row), "reason": reason, "note": note}
                example |= {"query": _start(rows.query[position]), "positive": _start(rows.positive[position])}
                found.setdefault(stage, {}).setdefault(reason.partition(":")[0], []).append(example)
    return found


def _start(text: str) -> str:
    return text if len(text) <= LENGTH else text[:LENGTH] + "…"
