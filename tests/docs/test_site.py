"""The documentation builds without a warning, asks nothing of the network, and its pages on options are true."""

from __future__ import annotations

import dataclasses
import html
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from jemb.app.cli import COMMANDS
from jemb.prepare.options import PrepareConfig
from tests.helpers.blocks import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "doctrees")]
    done = subprocess.run([*command, str(ROOT / "docs"), str(folder / "html")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.slow
def test_nothing_comes_from_the_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text()):
            assert not re.search(r'(?:src|href)="(?:https?:)?//', tag), f"{page.name}: {tag}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", style.read_text()), style


def options_of(config: Any, prefix: str = "") -> Iterator[str]:
    """Names of all options, by the fields of the config classes alone."""
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        kinds = [hints[field.name], *get_args(hints[field.name])]
        inner = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        is_mapping = "dict[" in str(hints[field.name])
        name = f"{prefix}{field.name}" + (".NAME" if is_mapping else "")
        if inner:
            yield from options_of(inner, f"{name}.")
        else:
            yield name


@pytest.mark.slow
def test_long_lines_of_code_wrap(site: Path) -> None:
    """On a page as wide as a phone the end of a command would be cut off."""
    style = (site / "_static" / "docs.css").read_text()
    assert "div.highlight pre { white-space: pre-wrap; overflow-wrap: anywhere; }" in style


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_on_its_page(site: Path, command: str) -> None:
    page = (site / "configuration" / f"{command}.html").read_text()
    shown = [html.unescape(name) for name in re.findall(rf'<dt id="{command}\.([^"]+)"', page)]
    config = PrepareConfig.whole() if command == "prepare" else COMMANDS[command].config
    expected = [re.sub(r"^(sources\.NAME\.)(\w+)\.NAME$", of_mapping, name) for name in options_of(config)]
    assert sorted(shown) == sorted(expected)


def of_mapping(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}.{'FIELD' if found[2] == 'constants' else 'OPTION'}"


def test_defaults_and_meanings_are_those_of_the_code(site: Path) -> None:
    page = (site / "configuration" / "train.html").read_text()
    entry = page.partition('<dt id="train.temperature">')[2].partition("</dd>")[0]
    words = " ".join(re.sub(r"<[^>]+>", " ", entry).split())
    assert words.startswith("temperature float default 0.05")
    assert "tau of the contrastive losses" in words


def test_values_by_name_are_on_the_page(site: Path) -> None:
    page = re.sub(r"<[^>]+>", "", (site / "configuration" / "train.html").read_text())
    for path in sorted((ROOT / "conf").glob("*/*.yaml")):
        assert f"{path.parent.name}={path.stem}" in page
        for line in path.read_text().removeprefix("# @package _global_\n").splitlines():
            assert line in html.unescape(page), path
