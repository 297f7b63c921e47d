"""All trials with their figures: `python -m tests.trials [pytest options]`, also those that take longer.

Each is a fault, the command that meets it, and what must come out. The exit code is 1 where one came out otherwise.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest


class Figures:
    """Gathers what became of each trial, by module."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.failed: dict[str, list[str]] = defaultdict(list)
        self.skipped: dict[str, int] = defaultdict(int)

    def pytest_runtest_logreport(self, report: Any) -> None:
        family = Path(report.nodeid.partition("::")[0]).stem.removeprefix("test_")
        if report.when == "call" and report.passed:
            self.seconds[family].append(report.duration)
        elif report.failed:
            self.failed[family].append(report.nodeid.partition("::")[2])
        elif report.skipped:
            self.skipped[family] += 1

    def table(self) -> str:
        head = f"{'family':14s} {'faults':>6s} {'as wanted':>9s} {'skipped':>7s} {'median s':>8s} {'longest s':>9s}"
        rows = [head]
        total = [0, 0, 0]
        every: list[float] = []
        for family in sorted({*self.seconds, *self.failed, *self.skipped}):
            good, bad, left_out = self.seconds[family], len(self.failed[family]), self.skipped[family]
            rows.append(_row(family, len(good) + bad + left_out, len(good), left_out, good))
            total = [a + b for a, b in zip(total, (len(good) + bad + left_out, len(good), left_out), strict=True)]
            every += good
        rows.append(_row("all", *total, every))
        return "\n".join(rows)


def _row(name: str, faults: int, good: int, left_out: int, seconds: list[float]) -> str:
    middle, longest = (statistics.median(seconds), max(seconds)) if seconds else (0.0, 0.0)
    return f"{name:14s} {faults:6d} {good:9d} {left_out:7d} {middle:8.2f} {longest:9.2f}"


def main() -> int:
    figures = Figures()
    code = pytest.main(
        [str(Path(__file__).parent), "-m", "", "-n", "auto", "--maxprocesses", "8", *sys.argv[1:]], [figures]
    )
    print(f"\n{figures.table()}")
    for family, names in figures.failed.items():
        print("\n".join(f"otherwise: {family}: {name}" for name in names))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
