"""The Dockerfile and the script that builds it for real, read by the linters; `.ci/image` does the building."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(("linter", "file"), [("hadolint", "Dockerfile"), ("shellcheck", ".ci/image")])
def test_lint(linter: str, file: str) -> None:
    found = subprocess.run([BIN / linter, ROOT / file], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_image_gets_no_more_than_it_needs() -> None:
    """.dockerignore lets in what COPY names, and nothing else."""
    copied = {
        word.rstrip("/")
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
