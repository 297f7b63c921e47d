"""The page needs no network, shows texts as they are, and its pictures are whole and small."""

import base64
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup
from matplotlib.figure import Figure

from jemb.report import LONG, Report, draw, new_axes

NASTY = "<script>alert('x')</script> & \"q\" é"


class Page(HTMLParser):
    """Tags with their attributes, ancestors of each, and the visible text."""

    VOID = ("meta", "img", "br")

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[str] = []
        self.words: dict[str, list[str]] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        self.tags.append((tag, fields, list(self.open)))
        if tag not in self.VOID:
            self.open.append(f"{tag}.{fields.get('class') or ''}")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().split(".")[0] == tag, "tags must nest"

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.words.setdefault(self.open[-1], []).append(data)


@pytest.fixture(scope="module")
def report() -> Report:
    """Every kind of part, with text that would break out if it were not escaped."""
    report = Report(NASTY, NASTY)
    for i in range(3):
        report.heading(f"{NASTY} {i}")
        report.text(NASTY)
    report.table([NASTY, "count", "score"], [[NASTY, 12345, np.float32(86.716)], ["b", np.int64(7), None]], NASTY)
    figure, axes = new_axes()
    axes.plot([1, 2, 3], label="loss")
    axes.legend()
    report.figure(figure, NASTY, NASTY)
    with report.details(NASTY, NASTY):
        report.subheading(NASTY)
        with report.details("inner"):
            report.quote(NASTY, [(NASTY, NASTY), ("empty", "")])
    report.bars([(NASTY, 3, NASTY), ("b", 1, "one")], NASTY)
    return report


def test_nothing_comes_from_the_network(report: Report) -> None:
    html = report.html()
    page = Page(html)
    addresses = [
        value for _, fields, _ in page.tags for name, value in fields.items() if name in ("src", "href", "srcset")
    ]
    assert len(addresses) == 4  # three lines of contents, one picture
    assert all(value and value.startswith(("data:image/", "#")) for value in addresses)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _, _ in page.tags}
    picture = next(fields["src"] for tag, fields, _ in page.tags if tag == "img")
    assert picture is not None
    svg = base64.b64decode(picture.removeprefix("data:image/svg+xml;base64,")).decode()
    for text in (html, svg.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")):
        assert not any(sign in text for sign in ("http:", "https:", "//www", "@import", "url(http", "<!DOCTYPE svg"))


def test_texts_are_shown_as_they_are(report: Report) -> None:
    page = Page(report.html())
    assert not page.open
    shown = {where.split(".")[0]: texts for where, texts in page.words.items()}
    assert shown["title"] == shown["h1"] == [NASTY]
    assert shown["h2"] == shown["a"] == [f"{NASTY} {i}" for i in range(3)]
    assert shown["h3"] == page.words["span.note"] == [NASTY]
    assert page.words["bdi."] == [NASTY, "inner", NASTY, "b"]
    assert shown["dt"] == [NASTY, "empty"]
    assert shown["dd"] == [NASTY]
    assert page.words["p."] == [NASTY] * 4
    assert page.words["p.subtitle"] == [NASTY]
    assert page.words["span.shown"] == [NASTY, "one"]
    assert page.words["figcaption."] == [NASTY] * 3
    assert page.words["td."] == [NASTY, "b"]
    assert [fields["alt"] for tag, fields, _ in page.tags if tag == "img"] == [NASTY]
    marked = Report("t")
    marked.text(Markup("see <code>{}</code>").format("<b>"))
    marked.table(["h"], [[Markup("<i>1</i>")]])
    assert "<p>see <code>&lt;b&gt;</code></p>" in marked.html()
    assert "<td><i>1</i></td>" in marked.html()


def test_half_a_character_does_not_stop_the_report(tmp_path: Path) -> None:
    report = Report("t")
    report.text("\ud83d and \U0001f600")
    report.write(tmp_path / "report.html")
    assert "<p>? and \U0001f600</p>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_details_are_closed_and_nest(report: Report) -> None:
    page = Page(report.html())
    assert [fields for tag, fields, _ in page.tags if tag == "details"] == [{}, {}]
    quote = next(above for tag, fields, above in page.tags if fields.get("class") == "quote")
    assert [tag for tag in quote if tag == "details."] == ["details."] * 2
    assert all(fields["dir"] == "auto" for tag, fields, _ in page.tags if tag == "dd")


def test_bars_are_as_long_as_their_values(report: Report) -> None:
    def widths(html: str) -> list[str | None]:
        return [fields["style"] for tag, fields, above in Page(html).tags if tag == "i" and "span.track" in above]

    assert widths(report.html()) == ["width:100%", "width:33.3%"]
    other = Report("t")
    other.bars([("a", 30, "30"), ("b", 40, "40"), ("c", 0, "0")])
    other.bars([("a", 0, "0")])
    other.bars([])
    assert widths(other.html()) == ["width:75%", "width:100%", "width:0%", "width:0%"]


def test_tables_fit_a_phone_and_numbers_stand_right(report: Report) -> None:
    page = Page(report.html())
    assert [fields for tag, fields, _ in page.tags if fields.get("name") == "viewport"] == [
        {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    ]
    assert all("div.scroll" in above for tag, _, above in page.tags if tag == "table")
    assert page.words["td.number"] == ["12,345", "86.72", "7", "–"]
    assert page.words["th.number"] == ["count", "score"]


@pytest.mark.parametrize(
    ("cells", "shown", "right"),
    [
        ([1, 2.5], ["1", "2.50"], True),
        (["1.5 ± 0.2", "2"], ["1.5 ± 0.2", "2"], False),
        (["61.2 %", "-3", "1e-05", "", "nan"], ["61.2 %", "-3", "1e-05", "nan"], True),
        ([float("nan"), -0.125], ["nan", "-0.12"], True),
        ([True, False], ["yes", "no"], False),
        ([None, None], ["–", "–"], False),
        ([3, "three"], ["3", "three"], False),
        (["...", ","], ["...", ","], False),
    ],
)
def test_cells(cells: list, shown: list[str], right: bool) -> None:
    report = Report("t")
    report.table(["h"], [[cell] for cell in cells])
    assert Page(report.html()).words["td.number" if right else "td."] == shown


def test_long_texts_get_room_in_a_table() -> None:
    report = Report("t")
    report.table(["a", "b"], [["x" * (LONG + 1), "x" * LONG], ["y", "y"]])
    assert Page(report.html()).words["td.long"] == ["x" * (LONG + 1), "y"]


def test_a_table_has_as_many_cells_as_headers() -> None:
    with pytest.raises(ValueError, match="1 cells for 2 headers"):
        Report("t").table(["a", "b"], [["1", "2"], ["3"]])
    report = Report("t")
    report.table(["a"], [])
    assert Page(report.html()).words["th."] == ["a"]


def lines(points: int) -> Figure:
    figure = Figure(figsize=(4, 2))
    axes = figure.add_subplot()
    axes.plot(*np.random.default_rng(0).random((2, points)))
    axes.set_ylabel("a label\nof\nfive\nlong\nlines")
    return figure


def test_pictures() -> None:
    svg = draw(lines(100))
    assert ElementTree.fromstring(svg).attrib["width"] == f"{4 * 72}pt"
    assert len(svg) < 40_000
    assert draw(lines(100)) == svg
    report = Report("t")
    report.figure(lines(10), "alt")
    assert [fields["width"] for tag, fields, _ in Page(report.html()).tags if tag == "img"] == ["520"]


def test_no_global_state_of_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "from pathlib import Path; from jemb.report import Report, new_axes\n"
        "figure, axes = new_axes(); axes.plot([1, 2]); report = Report('t'); report.figure(figure, 'alt')\n"
        "report.write(Path(sys.argv[1]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules and matplotlib.rcParams.copy() == before"
    )
    path = tmp_path / "new" / "report.html"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(path)], check=True)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [other.name for other in path.parent.iterdir()] == ["report.html"]
