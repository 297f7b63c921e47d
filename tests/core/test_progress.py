"""Lines of progress where there is no terminal."""

from __future__ import annotations

import logging
import re

import pytest

from jemb.core import progress
from jemb.core.progress import Progress, track


def test_lines_come_without_a_terminal(monkeypatch, caplog):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with caplog.at_level(logging.INFO, "jemb"), Progress("a: embed", 10_000, "text", done=1_000) as shown:
        shown.update(3_000)
        shown.update(6_000)
    lines = caplog.messages
    assert all(re.fullmatch(r"a: embed: .* of 10,000 texts \(\d+ %\) after 00:00, .*text/s, .* left", x) for x in lines)
    assert any(line.startswith("a: embed: 4,000 of 10,000 texts (40 %) after") for line in lines)
    assert lines[-1].startswith("a: embed: 10,000 of 10,000 texts (100 %) after")


def test_a_short_step_says_nothing_and_none_is_shown_without_a_name(caplog):
    with caplog.at_level(logging.INFO, "jemb"):
        assert list(track(range(3), "short", 3, "row")) == [0, 1, 2]
        assert list(track(range(3), None, 3, "row")) == [0, 1, 2]
    assert not caplog.records


def test_an_error_comes_through():
    with pytest.raises(KeyError), Progress("x", 1, "row"):
        raise KeyError("x")
