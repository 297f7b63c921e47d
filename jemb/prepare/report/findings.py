"""What the stages found on the way, as it stands in a manifest's statistics, brought into three shapes that can be
shown: a number, a tally (counts by name) and a histogram (counts by range).

Before: `run.py` has put the statistics of each stage into the manifest. After: `report.py` shows them. A statistic
nobody here knows is shown under its own name; one of another shape is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jemb.prepare.registry import Statistic, all_stages
from jemb.report import new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = "examples"
"""Name of the statistic that holds rows; it is shown apart."""
TALLY_ROWS = 15
"""Lines shown of a tally; the rest is one more."""
WIDTH, HEIGHT = 3.7, 2.5
"""Of a histogram in inches: as wide as a phone, so that its letters are not made smaller there."""
LEFT, RIGHT, BOTTOM, TOP = 0.19, 0.93, 0.2, 0.96
LEGEND_LINE, LEGEND_GAP = 0.08, 0.04
"""Borders of the plot in it, the height of a line of the legend above and the gap between, as shares."""
STEPS = (1, 2, 5, 10)
KEPT, DROPPED, OTHERS = "#2a78b8", "#d55e00", ("#009e73", "#7e5fb5", "#8d979f")
Tally = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Histogram:
    """counts: of each series, in equal ranges from `start` to `end`."""

    start: float
    end: float
    counts: Mapping[str, tuple[float, ...]]

    @property
    def edges(self) -> tuple[float, float, int]:
        return self.start, self.end, len(next(iter(self.counts.values())))


Finding = float | Tally | Histogram


def about(stage: str, name: str) -> Statistic:
    """Words for the statistic `name` of a stage."""
    words = name.replace("_", " ")
    known = all_stages().get(stage)
    return (known.statistics if known else {}).get(name) or Statistic(words[:1].upper() + words[1:], axis=words)


def findings(statistics: Mapping[str, Any]) -> dict[str, Finding]:
    """The statistics of a stage by name; those inside another have both names."""
    found: dict[str, Finding] = {}
    for name, value in statistics.items():
        if name != EXAMPLES:
            found |= _read(str(name), value)
    return found


def add_findings(parts: Iterable[Mapping[str, Finding]]) -> dict[str, Finding]:
    """Tallies and histograms of all data sets together. Left out: numbers, which may be of the job rather than of its
    rows, and histograms over different ranges."""
    total: dict[str, Finding | None] = {}
    for part in parts:
        for name, value in part.items():
            if not isinstance(value, float):
                total[name] = _add(total[name], value) if name in total else value
    return {name: value for name, value in total.items() if value is not None}


def tally_lines(tally: Tally, most: int = TALLY_ROWS) -> list[tuple[str, float]]:
    """A tally as it is shown. Numbers and ranges of numbers come by size, more than `most` whole numbers as ranges;
    other names come by count, those after the first `most` as one."""
    items = [(name, count) for name, count in tally.items() if count]
    if items and all(re.match(r"\W*\d", name) for name, _ in items):
        if len(items) > most and all(name.isdecimal() for name, _ in items):
            items = _ranges(items)
        return sorted(items, key=lambda item: (float(re.findall(r"\d+", item[0])[0]), len(item[0])))
    items.sort(key=lambda item: (-item[1], item[0]))
    if len(items) > most + 1:
        rest = items[most:]
        items = [*items[:most], (f"{len(rest)} others", sum(count for _, count in rest))]
    return items


def draw_histogram(histogram: Histogram, words: Statistic, line: Any = None) -> Figure | None:
    """A curve of steps over the ranges that have rows; None without any. With several series each in percent of its
    own, since one may be a hundredth of another. line: where a dashed one is drawn."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    series = {name: counts for name, counts in histogram.counts.items() if any(counts)}
    if not series:
        return None
    start, end, bins = histogram.edges
    edges = [start + (end - start) * number / bins for number in range(bins + 1)]
    filled = [number for number in range(bins) if any(counts[number] for counts in series.values())]
    low, high = max(0, filled[0] - 1), min(bins, filled[-1] + 2)
    figure, axes = new_axes(WIDTH, HEIGHT)
    others = iter(OTHERS * len(series))
    for name, counts in series.items():
        total = sum(counts)
        colour = {"kept": KEPT, "dropped": DROPPED}.get(name) or (KEPT if len(series) == 1 else next(others))
        heights = [100 * count / total for count in counts] if len(histogram.counts) > 1 else list(counts)
        label = f"{name} ({short(total)})" if name else None
        axes.stairs(heights[low:high], edges[low : high + 1], fill=True, color=colour, alpha=0.25)
        axes.stairs(heights[low:high], edges[low : high + 1], color=colour, linewidth=1.4, label=label)
    axes.set_xlim(edges[low], edges[high])
    axes.set_ylim(bottom=0)
    if isinstance(line, int | float) and edges[low] <= line <= edges[high]:
        axes.axvline(line, color="#3f474e", linestyle="--", linewidth=1.2, label=f"{words.setting} {line:g}")
    axes.set_xlabel(words.axis, parse_math=False)
    axes.set_ylabel(f"% of {words.unit}" if len(histogram.counts) > 1 else words.unit, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}")))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    top = TOP
    if axes.get_legend_handles_labels()[0]:
        lines = math.ceil(len(axes.get_legend_handles_labels()[0]) / 2)
        top -= LEGEND_LINE * lines + LEGEND_GAP
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=9, frameon=False, borderaxespad=0.2,
            handlelength=1.3, columnspacing=1,
        )  # fmt: skip
    # The same place in all: they stand side by side, and looking for the best one takes most of the time.
    figure.set_layout_engine("none")
    axes.set_position((LEFT, BOTTOM, RIGHT - LEFT, top - BOTTOM))
    return figure


def exact(value: float) -> str:
    """A number with its thousands apart: every digit of a count, four of another."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


def short(value: float) -> str:
    """A number in at most a few signs: 0.5, 950, 1.2k, 34M."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"


def _read(name: str, value: Any) -> dict[str, Finding]:
    if _is_number(value):
        return {name: float(value)}
    if not isinstance(value, Mapping) or not value:
        return {}
    histogram = _read_histogram({"": value}) or _read_histogram(value)
    if histogram:
        return {name: histogram}
    if all(map(_is_number, value.values())):
        return {name: {str(key): float(count) for key, count in value.items()}}
    found: dict[str, Finding] = {}
    for key, inner in value.items():
        found |= _read(f"{name}: {key}", inner)
    return found


def _read_histogram(series: Mapping[str, Any]) -> Histogram | None:
    """One whose series are all over the same ranges."""
    found = []
    for value in series.values():
        if not isinstance(value, Mapping) or set(value) != {"from", "to", "counts"}:
            return None
        start, end, counts = value["from"], value["to"], value["counts"]
        if not (_is_number(start) and _is_number(end) and start < end and isinstance(counts, list | tuple) and counts):
            return None
        if not all(_is_number(count) and count >= 0 for count in counts):
            return None
        found.append((float(start), float(end), len(counts)))
    if len(set(found)) != 1:
        return None
    start, end, _ = found[0]
    return Histogram(start, end, {str(name): tuple(map(float, value["counts"])) for name, value in series.items()})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _add(a: Finding | None, b: Finding) -> Finding | None:
    if isinstance(a, Histogram) and isinstance(b, Histogram):
        if a.edges != b.edges:
            return None
        nothing = (0.0,) * a.edges[2]
        counts = {}
        for name in dict.fromkeys([*a.counts, *b.counts]):
            columns = zip(a.counts.get(name, nothing), b.counts.get(name, nothing), strict=True)
            counts[name] = tuple(one + other for one, other in columns)
        return Histogram(a.start, a.end, counts)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return {name: a.get(name, 0.0) + b.get(name, 0.0) for name in dict.fromkeys([*a, *b])}
    return None


def _ranges(items: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Counts of whole numbers as 0, 1, 2, 3, 4, 5-8, 9-16, …"""
    found: dict[int, float] = {}
    for name, count in items:
        number = int(name)
        top = number if number <= 4 else 1 << (number - 1).bit_length()
        found[top] = found.get(top, 0) + count
    return [(str(top) if top <= 4 else f"{top // 2 + 1}-{top}", count) for top, count in found.items()]
