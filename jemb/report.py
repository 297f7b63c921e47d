"""One HTML file that shows what was done: text, tables and pictures, readable without a network and on a phone.

Before: `demo/`, `prepare/` and `evaluate/` fill it. After: a browser. matplotlib and jinja2 are imported where they are
used: each worker of prepare imports this file, and draws nothing.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from jemb.core.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cell = str | float | bool | None
"""A whole number is shown with thousands separators, another with two decimals, None as a dash, text as it is."""

LONG = 40
"""Characters from which on the text of a table's cell is wrapped, into lines that are not too short to read."""

LEAST_WIDTH = 520
"""Pixels of a figure where there is room for them, more than half the column; a phone shows it as wide as itself."""

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
}


class Report:
    """Collects the parts in order and writes the page.

    All text is escaped, but for a `markupsafe.Markup`, which is HTML and taken as it is. Text may be anything: long
    words are broken, each text has its own direction, and what no file can hold (half a character) becomes `?`.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self._parts: list[dict[str, Any]] = []

    def heading(self, text: str) -> None:
        """Starts a section, and a line of the contents where there are three or more."""
        self._parts.append({"kind": "heading", "text": text})

    def subheading(self, text: str) -> None:
        """Starts a part of a section."""
        self._parts.append({"kind": "subheading", "text": text})

    def text(self, paragraph: str) -> None:
        """A paragraph."""
        self._parts.append({"kind": "text", "text": paragraph})

    @contextmanager
    def details(self, summary: str, note: str = "") -> Iterator[None]:
        """What is added inside is shown only when a reader opens it. note: stands beside the summary, in grey."""
        self._parts.append({"kind": "open", "text": summary, "note": note})
        yield
        self._parts.append({"kind": "close"})

    def quote(self, head: str, texts: Sequence[tuple[str, str]]) -> None:
        """Texts of the data as they are, each with a name, under a line that says what they are."""
        self._parts.append({"kind": "quote", "text": head, "texts": texts})

    def bars(self, bars: Sequence[tuple[str, float, str]], caption: str = "") -> None:
        """Horizontal bars in HTML: a name, which may be any text, a length >= 0 and what stands beside it. The longest
        has the whole width."""
        longest = max((length for _, length, _ in bars), default=0) or 1
        shown = [(name, f"{100 * length / longest:.3g}", beside) for name, length, beside in bars]
        self._parts.append({"kind": "bars", "bars": shown, "caption": caption})

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = "") -> None:
        """Rows as long as `headers`. A column of numbers stands right, another left."""
        for row in rows:
            if len(row) != len(headers):
                raise ValueError(f"table '{caption}': {len(row)} cells for {len(headers)} headers in row {row!r}")
        shown = [[_show(cell) for cell in row] for row in rows]
        numeric = [_all_numbers([row[column] for row in shown]) for column in range(len(headers))]
        columns = [
            "number" if numeric[column] else "long" if any(len(row[column]) > LONG for row in shown) else ""
            for column in range(len(headers))
        ]
        table = {"kind": "table", "headers": headers, "rows": shown, "columns": columns, "caption": caption}
        self._parts.append(table)

    def figure(self, figure: Figure, alt: str, caption: str = "") -> None:
        """A picture, best begun with `new_axes`. alt: what it shows, for those who do not see it."""
        source = f"data:image/svg+xml;base64,{base64.b64encode(draw(figure)).decode()}"
        # Inches on paper are 96 pixels in a browser.
        part = {"kind": "figure", "source": source, "width": max(LEAST_WIDTH, round(96 * figure.get_figwidth()))}
        self._parts.append(part | {"alt": alt, "caption": caption})

    def html(self) -> str:
        """The whole page."""
        import jinja2

        template = Path(__file__).with_suffix(".html.j2").read_text(encoding="utf-8")
        environment = jinja2.Environment(
            autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
        )
        known = {"title": self.title, "subtitle": self.subtitle, "parts": self._parts}
        known["wbr"] = Markup("<wbr>")  # where a name may be broken
        page = environment.from_string(template).render(known)
        return page.encode(errors="replace").decode()

    def write(self, path: Path) -> None:
        """Write the page to `path`, whole or not at all."""
        write_atomic(path, self.html())


def text_table(rows: Sequence[Sequence[str]], *, right: bool = False) -> str:
    """Rows of equally many cells as aligned lines, for a terminal. right: all columns but the first stand right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [cell.rjust(width) if right and number else cell.ljust(width)
         for number, (cell, width) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    )  # fmt: skip
    return "\n".join("  ".join(line).rstrip() for line in lines)


def new_axes(width: float = 5.0, height: float = 2.9) -> tuple[Figure, Axes]:
    """An empty figure (inches) and its axes. The default width is one whose letters can be read on a phone.

    Without pyplot: nothing global is changed, no window opens.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def line_figure(lines: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> Figure:
    """A line through the points (x, y) of each name, with the axes' names and a legend."""
    figure, axes = new_axes()
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), label=name, linewidth=1)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    for text in axes.legend(fontsize=8, ncols=2).get_texts():
        text.set_parse_math(False)
    return figure


def draw(figure: Figure) -> bytes:
    """The SVG of a figure on transparent ground; the same figure gives the same bytes."""
    import matplotlib

    file = io.BytesIO()
    # Letters as text, which is half the size. DejaVu is wide, so those of another sans-serif font fit in its place.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jemb", "font.sans-serif": ["DejaVu Sans"]}):
        nothing = dict.fromkeys(["Date", "Creator", "Format", "Type"])
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    picture = file.getvalue()
    return picture[picture.index(b"<svg") :]  # the document type names an address on the network


def _show(cell: Cell) -> str:
    if isinstance(cell, Markup):
        return cell
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, Integral):
        return f"{int(cell):,}"
    if isinstance(cell, Real):
        return f"{float(cell):.2f}"
    return str(cell)


def _all_numbers(cells: Sequence[str]) -> bool:
    digits = any(re.search(r"\d", cell) for cell in cells)
    return digits and all(re.fullmatch(r"[-+−±]?[\d,.]+([eE][-+]?\d+)?\s*%?|[–-]?|nan", cell) for cell in cells)
