"""What the pages say of the repository itself: its files, its extras, its parts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.blocks import CHECKED, ROOT, spans

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOLD = [*CHECKED, *(path for path in sorted((ROOT / "conf").rglob("*")) if path.suffix in (".yaml", ".py"))]
PATH = re.compile(r"(?<![\w./*$-])((?:jemb|conf|docs|tests|launch|benchmarks|\.ci)/[\w./-]*)")
MADE = ("docs/_build/",)
"""What is there only after a command."""


@pytest.mark.parametrize("page", TOLD, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_exist(page: Path) -> None:
    text = re.sub(r"\]\([^)]*\)", "]", page.read_text())  # links are looked at elsewhere
    for name in PATH.findall(text):
        places = (ROOT / name.rstrip("."), page.parent / name.rstrip("."))
        assert name.startswith(MADE) or any(place.exists() for place in places), name
    for name in spans(page):
        if re.fullmatch(r"[\w/]+/\w+\.py", name):
            assert (ROOT / name).is_file() or (ROOT / "jemb" / name).is_file(), name


def test_benchmarks_can_be_started() -> None:
    names = {name for page in CHECKED for name in re.findall(r"python -m (benchmarks[\w.]*\w)", page.read_text())}
    assert len(names) > 5
    for name in names:
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name


def test_the_readme_names_the_extras() -> None:
    text = (ROOT / "README.md").read_text()
    table = re.search(r"^\| extra \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table
    cells = [row.split("|")[1] for row in table[1].splitlines()]
    named = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert sorted(named) == sorted(PROJECT["project"]["optional-dependencies"])


def test_the_order_of_the_parts_is_the_one_that_is_checked() -> None:
    """In the contract lower layers come last; `|`: they do not import each other."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    (block,) = re.findall(r"^Import order.*\n\n((?:    .*\n)+)", text, re.MULTILINE)
    told = [re.split(r"\s*([|,])\s*", layer.strip()) for layer in " ".join(block.split()).split(" < ")]
    contract = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    held = [re.split(r"\s*([|,])\s*", layer.replace(" :", ",")) for layer in reversed(contract)]
    assert [(set(layer[::2]), set(layer[1::2])) for layer in told] == [
        (set(layer[::2]), set(layer[1::2])) for layer in held
    ]
