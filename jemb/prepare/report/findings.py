"""What the stages found on the way, as it stands in a manifest's statistics, brought into three shapes that can be
shown: a number, a tally (counts by name) and a histogram (counts by range).

Before: `run.py` has put the statistics of each stage into the manifest. After: `report.py` shows them. A statistic
nobody here knows is shown under its own name; one of another shape is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jemb.prepare.registry import Statistic, all_stages
from jemb.report import new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = "examples"
"""Name of the statistic that holds rows; it is shown apart."""
SHOWN = "shown"
"""That of rows a stage shows itself: of each a list of (name, text), the first of which is its head."""
TALLY_ROWS = 15
"""Lines shown of a tally; the rest is one more."""
WIDTH, HEIGHT = 3.7, 2.7
"""Of a histogram in inches: as wide as a phone, so that its letters are not made smaller there."""
KEPT, DROPPED, OTHERS = "#2a78b8", "#d55e00", ("#009e73", "#7e5fb5", "#8d979f")
Tally = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Histogram:
    """counts: of each series, in equal ranges from `start` to `end`."""

    start: float
    end: float
    counts: Mapping[str, Sequence[float]]


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
        if name not in (EXAMPLES, SHOWN):
            found |= _read(str(name), value)
    return found


def tally_lines(tally: Tally, most: int = TALLY_ROWS) -> list[tuple[str, float]]:
    """A tally as it is shown: numbers and ranges of numbers by size, other names by count; those after the first `most`
    as one."""
    items = [(name, count) for name, count in tally.items() if count]
    if all(re.match(r"\W*\d", name) for name, _ in items):
        items.sort(key=lambda item: (float(re.findall(r"\d+", item[0])[0]), len(item[0])))
    else:
        items.sort(key=lambda item: (-item[1], item[0]))
    if len(items) > most + 1:
        rest = items[most:]
        items = [*items[:most], (f"{len(rest)} others", sum(count for _, count in rest))]
    return items


def draw_histogram(histogram: Histogram, words: Statistic, line: Any = None) -> Figure | None:
    """A curve of steps over the ranges that have rows; None without any. With several series each in percent of its
    own, since one may be a hundredth of another. line: where a dashed one is drawn."""
    from matplotlib.ticker import MaxNLocator

    series = {name: counts for name, counts in histogram.counts.items() if any(counts)}
    if not series:
        return None
    bins = max(map(len, series.values()))
    width = (histogram.end - histogram.start) / bins
    edges = [histogram.start + width * number for number in range(bins + 1)]
    filled = [number for number in range(bins) if any(counts[number] for counts in series.values())]
    low, high = max(0, filled[0] - 1), min(bins, filled[-1] + 2)
    figure, axes = new_axes(WIDTH, HEIGHT)
    others = iter(OTHERS * len(series))
    for name, counts in series.items():
        total = sum(counts)
        colour = {"kept": KEPT, "dropped": DROPPED}.get(name) or (KEPT if len(series) == 1 else next(others))
        heights = [100 * count / total for count in counts] if len(histogram.counts) > 1 else list(counts)
        label = f"{name} ({exact(total)})" if name else None
        axes.stairs(heights[low:high], edges[low : high + 1], fill=True, color=colour, alpha=0.25)
        axes.stairs(heights[low:high], edges[low : high + 1], color=colour, linewidth=1.4, label=label)
    axes.set_xlim(edges[low], edges[high])
    axes.set_ylim(bottom=0)
    if isinstance(line, int | float) and edges[low] <= line <= edges[high]:
        axes.axvline(line, color="#3f474e", linestyle="--", linewidth=1.2, label=f"{words.setting} {line:g}")
    axes.set_xlabel(words.axis, parse_math=False)
    axes.set_ylabel(f"% of {words.unit}" if len(histogram.counts) > 1 else words.unit, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=2, fontsize=9, frameon=False)
    return figure


def exact(value: float) -> str:
    """A number with its thousands apart: every digit of a count, four of another."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


def _read(name: str, value: Any) -> dict[str, Finding]:
    if _is_number(value):
        return {name: float(value)}
    if not isinstance(value, Mapping) or not value:
        return {}
    if _is_histogram(value):
        return {name: Histogram(value["from"], value["to"], {"": value["counts"]})}
    if all(map(_is_histogram, value.values())):
        first = next(iter(value.values()))
        return {name: Histogram(first["from"], first["to"], {key: one["counts"] for key, one in value.items()})}
    if all(map(_is_number, value.values())):
        return {name: {str(key): float(count) for key, count in value.items()}}
    found: dict[str, Finding] = {}
    for key, inner in value.items():
        found |= _read(f"{name}: {key}", inner)
    return found


def _is_histogram(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"from", "to", "counts"}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
