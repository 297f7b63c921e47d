"""`report.html`: what came in, what each stage dropped and why, and what is left, for a reader to judge the filters by.

Before: `run.py` has the manifests, and all that is shown stands in them. After: a browser. All data sets together come
first, then each of them behind a line that opens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jemb.prepare.report.findings import (
    EXAMPLES,
    SHOWN,
    about,
    as_histograms,
    as_tally,
    draw_histogram,
    exact,
    is_number,
    tally_lines,
)
from jemb.prepare.report.summary import by_order, family, funnel, meanings
from jemb.report import Cell, Report
from jemb.shards import Manifest, StageCount

MEMBERS = 5
"""Shown of the languages a stage dropped rows for; the chart of that stage has more."""
Settings = dict[tuple[str, str], Any]
"""(stage, option) to its value."""
Example = tuple[str, str, list[Mapping[str, Any]]]
"""Stage, reason, rows."""


def write_report(manifests: Sequence[Manifest], path: Path) -> None:
    """One HTML file that needs no network. The same manifests give the same bytes."""
    make_report(manifests).write(path)


def make_report(manifests: Sequence[Manifest]) -> Report:
    """The page, of data sets that `prepare` made."""
    total = sum((Counter(funnel(manifest)) for manifest in manifests), Counter())
    what = manifests[0].name if len(manifests) == 1 else f"{len(manifests)} data sets"
    report = Report("jemb prepare", f"{what}: {_kept(total)}.")
    if len(manifests) == 1:
        _data_set(report, manifests[0], report.heading)
    elif manifests:
        _summary(report, manifests, total)
        report.heading("Each data set")
        for manifest in manifests:
            with report.details(manifest.name, _kept(funnel(manifest))):
                _data_set(report, manifest, report.subheading)
    return report


def _data_set(report: Report, manifest: Manifest, heading: Callable[[str], None]) -> None:
    """One of them. heading: starts a part of it."""
    report.text(_written(manifest))
    heading("What is left")
    _funnel(report, manifest.stages, funnel(manifest)["read"])
    settings = {(stage.name, option): value for stage in manifest.stages for option, value in stage.settings.items()}
    if found := [stage for stage in manifest.stages if stage.statistics.keys() - {EXAMPLES, SHOWN}]:
        heading("What the stages found")
    for stage in found:
        _findings(report, stage, settings)
    for stage in manifest.stages:
        if examples_of := stage.statistics.get(SHOWN):
            heading(f"Examples of what {stage.name} gave rows")
            _shown(report, stage.name, examples_of)
    if examples := list(_example_rows(manifest)):
        heading("Examples of dropped rows")
        _examples(report, manifest, examples)
    if settings:
        heading("Settings")
        shown: list[list[Cell]] = [[stage, option, _setting(value)] for (stage, option), value in settings.items()]
        report.table(["stage", "option", "value"], shown)


def _summary(report: Report, manifests: Sequence[Manifest], total: Mapping[str, int]) -> None:
    """All data sets side by side, and their sum."""
    report.heading("Summary")
    lines = [*((manifest.name, funnel(manifest)) for manifest in manifests), ("total", total)]
    rows: list[list[Cell]] = [
        [name, counts["read"], counts["kept"], _percent(counts["kept"], counts["read"]), _drops(counts)]
        for name, counts in lines
    ]
    report.table(["data set", "read", "kept", "of all", "dropped"], rows, "Rows: read = kept + dropped, by reason.")


def _drops(counts: Mapping[str, int]) -> str:
    """Reasons with their rows, most first."""
    found = [(count, reason) for reason, count in counts.items() if reason not in ("read", "kept")]
    return ", ".join(f"{reason} {count:,}" for count, reason in sorted(found, key=lambda item: -item[0])) or "none"


def _funnel(report: Report, stages: Sequence[StageCount], read: int) -> None:
    rows: list[list[Cell]] = [["input", None, read, _percent(read, read)]]
    rows += [[stage.name, sum(stage.dropped.values()), stage.kept, _percent(stage.kept, read)] for stage in stages]
    report.table(["stage", "dropped", "left", "left of all"], rows, "Rows, stage by stage.")
    dropped: list[list[Cell]] = [
        [reason, count, _percent(count, read), stage.name, meaning]
        for stage in stages
        for reason, count, meaning in _reasons(stage.dropped)
    ]
    if dropped:
        report.table(["reason", "rows", "of all", "stage", "meaning"], dropped, "Why rows were dropped.")


def _reasons(dropped: Mapping[str, int]) -> Iterator[tuple[str, int, str]]:
    """(reason, rows, meaning) of those that occur; `language:…` as one, its members of most rows in the meaning."""
    families: dict[str, dict[str, float]] = {}
    for reason in by_order(dropped):
        if dropped[reason]:
            families.setdefault(family(reason), {})[reason.partition(":")[2]] = dropped[reason]
    known = meanings()
    for name, members in families.items():
        said = known.get(name, "")
        if set(members) != {""}:
            said += ": " * bool(said) + ", ".join(
                f"{member} {exact(count)}" for member, count in tally_lines(members, MEMBERS)
            )
        yield name, int(sum(members.values())), said


def _findings(report: Report, stage: StageCount, settings: Settings) -> None:
    """Numbers of a stage in a line, then its histograms, which stand side by side, then its tallies."""
    report.subheading(stage.name)
    found = {name: value for name, value in stage.statistics.items() if name not in (EXAMPLES, SHOWN)}
    words = {name: about(stage.name, name) for name in found}
    numbers = [f"{words[name].title}: {exact(value)}" for name, value in found.items() if is_number(value)]
    if numbers:
        report.text("; ".join(numbers) + ".")
    for name, value in found.items():
        title = words[name].title
        figure = draw_histogram(as_histograms(value), words[name], settings.get((stage.name, words[name].setting)))
        if figure:
            report.figure(figure, f"Histogram: {title}", f"{title}.")
    for name, value in found.items():
        if tally := dict(as_tally(value)):
            caption, aside, unit = f"{words[name].title}.", words[name].aside, words[name].unit
            if aside and aside in tally:
                caption = f"{words[name].title}, beside {exact(tally.pop(aside))} {unit} that are {aside}."
            report.bars([(key, count, exact(count)) for key, count in tally_lines(tally)], caption)


def _examples(report: Report, manifest: Manifest, examples: Sequence[Example]) -> None:
    for stage, reason, rows in examples:
        counts = next(other.dropped for other in manifest.stages if other.name == stage)
        total = sum(count for name, count in counts.items() if name == reason or family(name) == reason)
        with report.details(reason, f"{len(rows)} of {total:,} rows that {stage} dropped"):
            if meaning := meanings().get(family(reason)):
                report.text(f"Meaning: {meaning}.")
            for row in rows:
                note = f" ({row['note']})" if row.get("note") else ""
                head = f"Row {row.get('key', '?')}: {row.get('reason', reason)}{note}"
                report.quote(head, [(side, str(row.get(side, ""))) for side in ("query", "positive")])


def _shown(report: Report, stage: str, rows: Sequence[Sequence[Sequence[str]]]) -> None:
    with report.details(stage, f"{len(rows)} rows drawn at random"):
        for (head, _), *texts in rows:
            report.quote(head, [(name, text) for name, text in texts])


def _example_rows(manifest: Manifest) -> Iterator[Example]:
    """In order."""
    for stage in manifest.stages:
        examples = stage.statistics.get(EXAMPLES, {})
        for reason in by_order(examples):
            if examples[reason]:
                yield stage.name, reason, examples[reason]


def _setting(value: Any) -> Cell:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    # A float as it was given: 0.0001 is not to become 0.00.
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _kept(counts: Mapping[str, int]) -> str:
    return f"{counts['read']:,} rows read, {counts['kept']:,} kept ({_percent(counts['kept'], counts['read'])})"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _written(manifest: Manifest) -> str:
    if not manifest.shards:
        return "Nothing is left, so there are no shards."
    shards = f"{len(manifest.shards):,} shard{'s' if len(manifest.shards) != 1 else ''}"
    beside = "".join(f"; {file.file} has {file.bytes / 1e6:,.1f} MB" for file in manifest.files)
    return f"{manifest.num_samples:,} {manifest.kind} in {shards} of {manifest.bytes / 1e6:,.1f} MB in all{beside}."
