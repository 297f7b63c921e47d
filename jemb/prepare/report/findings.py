"""What the stages found on the way, as it stands in a manifest's statistics: numbers, tallies (counts by name) and
histograms (counts by range, of one series or of several by name).

Before: `run.py` has put the statistics of each stage into the manifest. After: `page.py` shows them. A statistic nobody
here knows is shown under its own name; one of another shape is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
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
Histogram = Mapping[str, Any]
"""`counts` in equal ranges `from` a number `to` another."""


def about(stage: str, name: str) -> Statistic:
    """Words for the statistic `name` of a stage."""
    words = name.replace("_", " ")
    known = all_stages().get(stage)
    return (known.statistics if known else {}).get(name) or Statistic(words[:1].upper() + words[1:], axis=words)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def as_tally(value: Any) -> Tally:
    """Nothing for what is none."""
    return value if isinstance(value, Mapping) and all(map(is_number, value.values())) else {}


def as_histograms(value: Any) -> Mapping[str, Histogram]:
    """The series by name, that of a single one is ""; nothing for what is none."""
    if _is_histogram(value):
        return {"": value}
    return value if isinstance(value, Mapping) and all(map(_is_histogram, value.values())) else {}


def _is_histogram(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"from", "to", "counts"}


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


def draw_histogram(histograms: Mapping[str, Histogram], words: Statistic, line: Any = None) -> Figure | None:
    """A curve of steps over the ranges that have rows; None without any. With several series each in percent of its
    own, since one may be a hundredth of another. line: where a dashed one is drawn."""
    from matplotlib.ticker import MaxNLocator

    series = {name: one["counts"] for name, one in histograms.items() if any(one["counts"])}
    if not series:
        return None
    first = next(iter(histograms.values()))
    bins = len(first["counts"])
    width = (first["to"] - first["from"]) / bins
    edges = [first["from"] + width * number for number in range(bins + 1)]
    filled = [number for number in range(bins) if any(counts[number] for counts in series.values())]
    low, high = max(0, filled[0] - 1), min(bins, filled[-1] + 2)
    figure, axes = new_axes(WIDTH, HEIGHT)
    others = iter(OTHERS * len(series))
    for name, counts in series.items():
        total = sum(counts)
        colour = {"kept": KEPT, "dropped": DROPPED}.get(name) or (KEPT if len(series) == 1 else next(others))
        heights = [100 * count / total for count in counts] if len(histograms) > 1 else list(counts)
        label = f"{name} ({exact(total)})" if name else None
        axes.stairs(heights[low:high], edges[low : high + 1], fill=True, color=colour, alpha=0.25)
        axes.stairs(heights[low:high], edges[low : high + 1], color=colour, linewidth=1.4, label=label)
    axes.set_xlim(edges[low], edges[high])
    axes.set_ylim(bottom=0)
    if isinstance(line, int | float) and edges[low] <= line <= edges[high]:
        axes.axvline(line, color="#3f474e", linestyle="--", linewidth=1.2, label=f"{words.setting} {line:g}")
    axes.set_xlabel(words.axis, parse_math=False)
    axes.set_ylabel(f"% of {words.unit}" if len(histograms) > 1 else words.unit, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=2, fontsize=9, frameon=False)
    return figure


def exact(value: float) -> str:
    """A number with its thousands apart: every digit of a count, four of another."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
