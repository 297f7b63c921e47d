"""The faults of docs/faults.md: each row of its second part names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "faults.md"


def rows() -> list[list[str]]:
    """The cells of each row of the second part: fault, before, now, test."""
    _, _, part = PAGE.read_text().partition("# Faults that bit")
    found = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in found if row[0].strip() != "fault"]


def missing_tests(cell: str) -> list[str]:
    """What a cell names that does not exist: `FILE::NAME`, then `NAME`s of the same file; `…` stands for anything."""
    missing, source = [], ""
    for name in re.findall(r"`([^`]+)`", cell):
        file, _, test = name.rpartition("::")
        if file:
            paths = sorted(ROOT.glob(f"tests/**/{file.rpartition('/')[2]}"))
            source = "".join(path.read_text() for path in paths)
        pattern = ".*".join(map(re.escape, test.partition("[")[0].split("…")))
        if not re.search(rf"def {'.*' if test.startswith('…') else ''}{pattern}\w*\(", source):
            missing.append(name)
    return missing


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_each_fault_has_its_test(row: list[str]) -> None:
    assert len(row) == 4, row
    assert "::" in row[3], f"wanted `FILE::NAME` in the last cell: {row[3]}"
    assert missing_tests(row[3]) == []


def test_every_number_of_the_list_has_a_row() -> None:
    """The list had 29 numbers under the letters A to E; the audit of the GPU paths had letters of its own."""
    named = {int(number) for row in rows() for number in re.findall(r"[A-E](\d+)", row[0].partition(":")[0])}
    assert set(range(1, 30)) - named == set()


def test_what_is_not_there_is_found() -> None:
    assert missing_tests("`test_faults.py::test_what_is_not…`, `…_has_its_test`") == []
    assert missing_tests("`test_faults.py::test_nothing_at_all`, `test_gone.py::test_each_fault_has_its_test`") == [
        "test_faults.py::test_nothing_at_all",
        "test_gone.py::test_each_fault_has_its_test",
    ]
