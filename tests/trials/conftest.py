"""A world that is made once, and a copy of it for each trial."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trials.fault import copy_world
from tests.trials.world import build

SLOW = re.compile(
    r"(tokenize|evaluate|export)-(no-home|no-folder-for|a-terminal-of|few-open-files)|test_killed\[prepare-(?!manifest)"
    r"|test_killed\[train-(?!step-00000002)|test_killed\[tokenize-(?!ids)|test_killed\[evaluate-(?!scores)"
    r"|test_killed\[(prepare|tokenize|evaluate|export).*-after|test_asked_to_end\[\w+-SIG(INT|HUP)|test_workers_die\[SIGTERM"
)
"""Trials like others, each of which starts a command twice: `python -m tests.trials` and `-m soak` run them."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW.search(item.nodeid):
            item.add_marker(pytest.mark.soak)


@pytest.fixture(scope="session")
def whole_world(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """Not to be written to."""
    return build(tmp_path_factory.mktemp("whole") / "world", make_dataset)


@pytest.fixture
def world(whole_world: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return copy_world(whole_world, tmp_path)
