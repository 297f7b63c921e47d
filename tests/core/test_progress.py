"""Lines of progress where there is no terminal."""

from __future__ import annotations

import logging
import re
import time

import pytest

from jemb.core import progress
from jemb.core.progress import Progress, track


def test_lines_come_without_a_terminal_and_from_a_step_that_stands(monkeypatch, caplog):
    monkeypatch.setattr(progress, "FIRST", 0.01)
    monkeypatch.setattr(progress, "EVERY", 0.01)
    with caplog.at_level(logging.INFO, "jemb"), Progress("a: embed", 10_000, "text", done=1_000) as shown:
        wait_for(lambda: len(caplog.records) > 1)  # lines come though nothing is done
        shown.update(3_000)
        wait_for(lambda: "4,000 of" in caplog.text)
        shown.update(6_000)
    lines = caplog.messages
    line = r"a: embed: [\d,]+ of 10,000 texts \(\d+ %\) after \d\d:\d\d(, .* text/s)?(, .* left)?"
    assert all(re.fullmatch(line, said) for said in lines)
    assert re.fullmatch(r"a: embed: 1,000 of 10,000 texts \(10 %\) after \d\d:\d\d", lines[0])
    assert any(said.startswith("a: embed: 4,000 of 10,000 texts (40 %) after") for said in lines)
    assert lines[-1].startswith("a: embed: 10,000 of 10,000 texts (100 %) after")


def wait_for(true):
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_short_step_says_nothing_and_none_is_shown_without_a_name(caplog):
    with caplog.at_level(logging.INFO, "jemb"):
        assert list(track(range(3), "short", 3, "row")) == [0, 1, 2]
        assert list(track(range(3), None, 3, "row")) == [0, 1, 2]
    assert not caplog.records


def test_an_error_comes_through():
    with pytest.raises(KeyError), Progress("x", 1, "row"):
        raise KeyError("x")
