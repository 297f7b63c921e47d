"""A world that is made once, and a copy of it for each trial."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fault import copy_world
from world import build

SLOW = re.compile(
    r"(tokenize|evaluate|export)-(no-home|no-folder-for|a-terminal-of|few-open-files)|test_killed\[prepare-(?!manifest)"
    r"|test_killed\[train-(?!step-00000002)|test_killed\[tokenize-(?!ids)|test_killed\[evaluate-(?!scores)"
    r"|test_killed\[(prepare|tokenize|evaluate|export).*-after|test_asked_to_end\[\w+-SIG(INT|HUP)|test_workers_die\[SIGTERM"
)
"""Trials like others, each of which starts a command twice: `python -m tests.trials` and `-m slow` run them."""


WAITING = Path(__file__).with_name("waiting.txt")
"""Trials that come out otherwise until what they found is mended, one a line. They are left out."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    waiting = set(WAITING.read_text().split()) if WAITING.exists() else set()
    left_out = [item for item in items if item.nodeid.rpartition("/")[2] in waiting]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    for item in items:
        if SLOW.search(item.nodeid):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def whole_world(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """Not to be written to."""
    return build(tmp_path_factory.mktemp("whole") / "world", make_dataset)


@pytest.fixture
def world(whole_world: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return copy_world(whole_world, tmp_path)
