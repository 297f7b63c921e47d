"""report.html: its numbers against ones worked by hand, texts that would break out, and the page in a real browser."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from jemb.prepare.report.findings import about, as_histograms, as_tally, draw_histogram, exact, tally_lines
from jemb.prepare.report.page import make_report, write_report
from jemb.report import draw
from jemb.shards import Manifest, ShardInfo, StageCount

TEXTS = [
    "<script>alert(1)</script></dd></details></body>",
    "'\" onmouseover=alert(1) & &lt;",
    "{{ 7 * 7 }} {% raw %} $x^",
    "x" * 300,
    "a\n" * 150,
    "שלום, \u202eworld (1)",
    "😀👩‍👩‍👧‍👦 Z̸̡̛͎̘̯̤",
    "\ud800 half a character",
    "",
]


def histogram(mean: float, rows: int, seed: int) -> dict:
    values = np.random.default_rng(seed).normal(mean, 0.1, rows).clip(-1, 1)
    return {"from": -1.0, "to": 1.0, "counts": np.histogram(values, 40, (-1, 1))[0].tolist()}


def of_counts(start: float, end: float, counts: dict) -> dict:
    return {name: {"from": start, "to": end, "counts": list(some)} for name, some in counts.items()}


def example(text: str, reason: str, note: str = "") -> dict[str, str]:
    return {"key": "000000017", "query": text, "positive": text, "reason": reason, "note": note}


def data_set(name: str, text: str = "plain", rows: int = 10_000, seed: int = 0) -> Manifest:
    """Of 10,000 rows 100 are unreadable, 900 and 1,000 duplicates; 450 + 50 go by language, 2,400 by consistency, 100
    by a stage that nobody knows."""
    part = rows // 100
    stages = (
        StageCount("read", 99 * part, {"unreadable": part}, {"fields.query": text}),
        StageCount("exact", 90 * part, {"duplicate": 9 * part, "empty": 0}, {}, {
            "examples": {"duplicate": [example(text, "duplicate", f"of {text}")] * 5}
        }),
        StageCount("near_duplicates", 80 * part, {"near_duplicate": 10 * part}, {"threshold": 0.8}, {
            "candidates": 123_456, "similarity": {"from": 0.5, "to": 1.0, "counts": list(range(20))},
            "clusters": {"2": 40, "3": 7, "170": 1},
        }),
        StageCount("language", 75 * part, {"language:de": 45 * rows // 1000, "language:fr": 5 * rows // 1000}, {
            "allowed": ["en"]
        }, {
            "languages": {"allowed": 150 * part, "de": 9 * part, "fr": part},
            "examples": {"language": [example(text, "language:de", "query: de 0.97")]},
        }),
        StageCount("consistency", 51 * part, {"consistency": 24 * part}, {"top_k": 2}, {
            "score": {"kept": histogram(0.7, 500, seed), "dropped": histogram(0.3, 40, seed)},
            "rank": {"1": 4, "2": 2, "3-10": 3},
        }),
        StageCount("own stage", 50 * part, {text: part}, {"own": text}, {text: {"count": 3}, "more": {text: 4}}),
    )  # fmt: skip
    return Manifest(name, "pairs", (ShardInfo("shard-000000.tar", 50 * part, 2_500_000, "0" * 64),), stages)


class Page(HTMLParser):
    """The tags with their attributes in order, the text of each table by row, and all the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.all = ""
        self.caption = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "wbr":
            return
        self.tags.append((tag, dict(attrs)))
        if tag in ("figcaption", "figure"):
            self.caption = ""
        elif tag == "tr":
            self.tables.setdefault(self.caption, []).append([])
        elif tag in ("td", "th"):
            self.tables[self.caption][-1].append("")

    def handle_data(self, data: str) -> None:
        self.all += data
        if self.tags and self.tags[-1][0] in ("td", "th") and data.strip():
            self.tables[self.caption][-1][-1] += data
        elif self.tags and self.tags[-1][0] == "figcaption":
            self.caption += data.strip()


def test_the_numbers_of_one_data_set():
    page = Page(make_report([data_set("wiki")]).html())
    assert "wiki: 10,000 rows read, 5,000 kept (50.0 %)." in page.all
    assert "5,000 pairs in 1 shard of 2.5 MB in all." in page.all
    assert page.tables["Rows, stage by stage."] == [
        ["stage", "dropped", "left", "left of all"],
        ["input", "–", "10,000", "100.0 %"],
        ["read", "100", "9,900", "99.0 %"],
        ["exact", "900", "9,000", "90.0 %"],
        ["near_duplicates", "1,000", "8,000", "80.0 %"],
        ["language", "500", "7,500", "75.0 %"],
        ["consistency", "2,400", "5,100", "51.0 %"],
        ["own stage", "100", "5,000", "50.0 %"],
    ]
    reasons = {row[0]: row[1:4] for row in page.tables["Why rows were dropped."][1:]}
    assert reasons == {
        "unreadable": ["100", "1.0 %", "read"],
        "duplicate": ["900", "9.0 %", "exact"],
        "near_duplicate": ["1,000", "10.0 %", "near_duplicates"],
        "language": ["500", "5.0 %", "language"],
        "consistency": ["2,400", "24.0 %", "consistency"],
        "plain": ["100", "1.0 %", "own stage"],
    }
    assert page.tables["Why rows were dropped."][4][4].endswith(": de 450, fr 50")
    assert "beside 15,000 texts that are allowed" in page.all
    assert "5 of 900 rows that exact dropped" in page.all
    assert "1 of 500 rows that language dropped" in page.all
    assert "Row 000000017: language:de (query: de 0.97)" in page.all


def test_the_numbers_of_several_add_up():
    small = Manifest("small", "pairs", (ShardInfo("shard-000000.tar", 4, 9, "x"),), (StageCount("read", 4),))
    none = Manifest("none", "triplets", (), (StageCount("read", 3), StageCount("exact", 0, {"empty": 2, "own": 1})))
    page = Page(make_report([data_set("wiki"), small, none]).html())
    assert "3 data sets: 10,007 rows read, 5,004 kept (50.0 %)." in page.all
    table = page.tables["Rows: read = kept + dropped, by reason."]
    assert table[0] == ["data set", "read", "kept", "of all", "dropped"]
    drops = "consistency 2,400, near_duplicate 1,000, duplicate 900, language 500, unreadable 100, plain 100"
    assert table[1] == ["wiki", "10,000", "5,000", "50.0 %", drops]
    assert table[2] == ["small", "4", "4", "100.0 %", "none"]
    assert table[3] == ["none", "3", "0", "0.0 %", "empty 2, own 1"]
    assert table[4] == ["total", "10,007", "5,004", "50.0 %", drops + ", empty 2, own 1"]
    assert "Nothing is left, so there are no shards." in page.all


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_texts_change_nothing_but_text(text: str):
    """The same tags with the same attributes, whatever the texts: nothing gets out of its place."""
    tame, wild = (Page(make_report([data_set(word, word), data_set("b")]).html()) for word in ("tame", text))
    # Pictures show numbers alone; a class says that a column of a table has long texts.
    structure = [
        [(tag, {name: value for name, value in fields.items() if name != "class"}) for tag, fields in page.tags]
        for page in (tame, wild)
    ]
    assert structure[0] == structure[1]
    assert wild.all.count(text.encode(errors="replace").decode()) >= tame.all.count("tame")
    assert not {"script", "iframe", "link"} & {tag for tag, _ in wild.tags}


@pytest.mark.slow
def test_addresses_are_inside_the_page():
    page = Page(make_report([data_set(text, text) for text in TEXTS]).html())
    ids = [fields["id"] for _, fields in page.tags if "id" in fields]
    assert len(ids) == len(set(ids))
    links = [fields["href"] for tag, fields in page.tags if tag == "a"]
    assert set(links) <= {f"#{name}" for name in ids}
    pictures = [fields["src"] or "" for tag, fields in page.tags if tag == "img"]
    assert len(pictures) == 2 * len(TEXTS), "two of each data set"
    assert all(picture.startswith("data:image/svg+xml;base64,") for picture in pictures)


@pytest.mark.slow
def test_same_manifests_same_bytes(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from jemb.shards import Manifest\n"
        "from jemb.core.files import read_json; from jemb.prepare.report.page import write_report\n"
        "write_report([Manifest.from_json(value, 'x') for value in read_json(Path(sys.argv[1]))], Path(sys.argv[2]))"
    )
    stored = tmp_path / "manifests.json"
    stored.write_text(json.dumps([data_set("a").to_json(), data_set("b", seed=1).to_json()]))
    files = []
    for seed in ("1", "2"):
        files.append(tmp_path / f"{seed}.html")
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", code, str(stored), str(files[-1])], check=True, env=environment)
    write_report([data_set("a"), data_set("b", seed=1)], tmp_path / "here.html")
    assert files[0].read_bytes() == files[1].read_bytes() == (tmp_path / "here.html").read_bytes()


def test_workers_do_not_import_what_draws():
    code = "import sys, jemb.prepare.report; assert not {'matplotlib', 'jinja2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_five_data_sets_stay_small_and_closed():
    text = "A passage of some length, as they are in most data sets of questions with their answers. " * 3
    report = make_report([data_set(f"set {number}", text, seed=number) for number in range(5)]).html()
    assert len(report.encode()) < 1_000_000
    details = [fields for tag, fields in Page(report).tags if tag == "details"]
    assert len(details) == 5 * 3
    assert not any("open" in fields for fields in details)


def test_nothing_to_show():
    assert "0 data sets: 0 rows read, 0 kept (–)." in Page(make_report([]).html()).all
    bare = Manifest("bare", "pairs", (), ())
    assert "bare: 0 rows read, 0 kept (–)." in Page(make_report([bare]).html()).all
    assert "2 data sets: 0 rows read" in Page(make_report([bare, bare]).html()).all


def test_settings_are_shown_as_they_were_given():
    page = Page(
        make_report([Manifest("b", "pairs", (), (StageCount("near_duplicates", 0, {}, {"threshold": 0.0001}),))]).html()
    )
    assert page.tables[""] == [["stage", "option", "value"], ["near_duplicates", "threshold", "0.0001"]]


def test_findings_of_another_shape_are_left_out():
    one = {"from": 0.0, "to": 1.0, "counts": [1, 2]}
    assert as_histograms(one) == {"": one}
    both = {"kept": one, "dropped": one}
    assert as_histograms(both) == both
    assert as_tally({"1": 5, "2": 0}) == {"1": 5, "2": 0}
    others: list[object] = [3, [1, 2], "x", None, True, float("nan"), {}, {"query": {"de": 1}}, {"a": True}]
    assert [as_histograms(value) or as_tally(value) for value in others] == [{}] * len(others)
    assert not as_tally(one)
    assert not as_tally(both)
    assert not as_histograms({"counts": 1})


def test_tallies():
    assert tally_lines({"3-10": 1, "1": 5, "2": 0, "11+": 2}) == [("1", 5), ("3-10", 1), ("11+", 2)]
    sizes = {str(number): 1.0 for number in range(1, 40)}
    assert tally_lines(sizes)[-2:] == [("15", 1), ("24 others", 24)]
    languages = {f"l{number:02d}": 100.0 - number for number in range(30)}
    lines = tally_lines(languages)
    assert lines[:15] == [(f"l{number:02d}", 100 - number) for number in range(15)]
    assert lines[15:] == [("15 others", sum(100 - number for number in range(15, 30)))]
    assert len(tally_lines(dict(list(languages.items())[:16]))) == 16
    assert tally_lines({"de": 3, "fr": 1, "es": 2, "it": 1}, most=2) == [("de", 3), ("es", 2), ("2 others", 2)]
    assert tally_lines({}) == []


def test_histograms_show_each_series_in_percent_of_itself():
    counts = {"kept": (0.0,) * 10 + (300.0, 100.0) + (0.0,) * 8, "dropped": (0.0,) * 9 + (1.0, 1.0) + (0.0,) * 9}
    words = about("near_duplicates", "similarity")
    figure = draw_histogram(of_counts(-1.0, 1.0, counts), words, 0.1)
    assert figure is not None
    (axes,) = figure.axes
    # A range beyond the filled ones is shown on each side: -0.2 to 0.3 of -1 to 1.
    steps = [patch.get_data() for patch in axes.patches]
    assert {tuple(np.round(step.edges, 9)) for step in steps} == {(-0.2, -0.1, 0.0, 0.1, 0.2, 0.3)}
    assert {tuple(step.values) for step in steps} == {(0, 0, 75, 25, 0), (0, 50, 50, 0, 0)}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["kept (400)", "dropped (2)", "threshold 0.1"]
    assert axes.lines[0].get_xdata()[0] == 0.1
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Jaccard similarity", "% of pairs")


def test_a_histogram_of_one_series_shows_counts():
    figure = draw_histogram(of_counts(0.0, 1.0, {"": (5.0, 1500.0)}), about("new", "$x^"), 7)
    assert figure is not None
    (axes,) = figure.axes
    assert {tuple(patch.get_data().values) for patch in axes.patches} == {(5, 1500)}
    assert not figure.legends
    assert not axes.lines
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$x^", "rows")
    assert draw_histogram(of_counts(0.0, 1.0, {"": (0.0, 0.0)}), about("a", "b")) is None


@pytest.mark.parametrize(
    ("start", "end", "rows"), [(-1.0, 1.0, 1), (0.85, 1.0, 999_999), (-20.0, 20.0, 4e7), (0.0, 1e-3, 5e9)]
)
def test_no_label_is_cut_off(start: float, end: float, rows: float):
    counts = {"kept": (rows,) * 20, "dropped": (rows / 7,) * 20}
    for series in (counts, {"": counts["kept"]}):
        figure = draw_histogram(of_counts(start, end, series), about("near_duplicates", "similarity"), end)
        assert figure is not None
        draw(figure)
        box, page = figure.get_tightbbox(), figure.get_size_inches()
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= page[0]
        assert box.y1 <= page[1]


def test_numbers():
    assert [exact(value) for value in (0.0, 5_451_560.0, 0.25, 1234.5678)] == ["0", "5,451,560", "0.25", "1,235"]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser")
@pytest.mark.parametrize("width", [390, 1000])
def test_in_a_browser_nothing_stands_out_of_the_page(tmp_path: Path, width: int):
    """With everything open: no part is wider than the page, no script ran, the letters of pictures are not tiny."""
    page = make_report([data_set(text, text, seed=number) for number, text in enumerate(TEXTS)]).html()
    inner = """<script>
    addEventListener("load", () => {
      document.querySelectorAll("details").forEach(part => { part.open = true });
      const inScroll = part => part.closest(".scroll") && !part.classList.contains("scroll");
      const isOut = box => box.right > innerWidth + 0.5 || box.left < -0.5;
      const parts = [...document.body.querySelectorAll("*")].filter(part => !inScroll(part));
      const out = parts.filter(part => isOut(part.getBoundingClientRect())).map(part => part.outerHTML.slice(0, 99));
      const scales = [...document.images].map(image => image.getBoundingClientRect().width / image.width);
      const broken = [...document.images].filter(image => !image.naturalWidth).length;
      parent.document.body.textContent = JSON.stringify({
        page: document.documentElement.scrollWidth, window: innerWidth, out, broken, images: scales.length,
        scale: Math.min(...scales)});
    });
    </script>"""
    outer = tmp_path / "outer.html"
    source = html.escape(page.replace("<head>", "<head>" + inner))
    outer.write_text(f'<body><iframe width="{width}" height="800" style="border:0" srcdoc="{source}"></iframe></body>')
    command = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1200,900", "--virtual-time-budget=20000", "--dump-dom", outer.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"<body>(\{.*\})</body>", shown)
    assert found, shown[:500]
    measured = json.loads(html.unescape(found[1]))
    assert measured["page"] == measured["window"] == width
    assert measured["out"] == []
    assert (measured["broken"], measured["images"]) == (0, 2 * len(TEXTS))
    assert measured["scale"] > 0.8
