"""The script that makes the table of docs/models.md, in small, and the table itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.models import COLUMNS, kinds, table

PAGE = Path(__file__).parent.parent.parent / "docs" / "models.md"


@pytest.mark.soak
def test_two_rows_are_made_and_hold() -> None:
    rows = table(["FNet, mean", "static embeddings"]).splitlines()[2:]
    assert "refused: " in rows[0]
    cells = [cell.strip() for cell in rows[1].strip("|").split("|")]
    assert len(cells) == len(COLUMNS)
    assert cells[2:4] == ["yes", "yes"]
    assert cells[5:7] == ["yes", "yes"]
    assert max(float(cells[1]), float(cells[7])) <= 1e-5


def test_the_page_has_rows_of_the_script_and_none_is_silently_wrong() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = [row for row in rows if len(row) == len(COLUMNS) and row != COLUMNS]
    assert len(rows) >= 20
    assert {row[0] for row in rows} <= set(kinds())
    for row in rows:
        if not row[1].startswith("refused"):
            assert float(row[1]) <= 1e-5
            assert "no" not in row, row
            assert float(row[7]) <= 1e-5
