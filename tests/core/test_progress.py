"""Lines of progress where there is no terminal."""

from __future__ import annotations

import logging
import time

import pytest

from jemb.core import progress
from jemb.core.progress import Progress, duration, track


def test_a_line_by_hand(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Progress("a: embed", 10_000, "text", done=1_000) as shown:
        assert shown.line() == "a: embed: 1,000 of 10,000 texts (10 %) after 0 s"
        shown.update(3_000)
        now = 150.0
        assert shown.line() == "a: embed: 4,000 of 10,000 texts (40 %), 60 a second, 1 min 40 s left"
        shown.update(6_000)
        assert shown.line() == "a: embed: 10,000 of 10,000 texts (100 %) in 50 s"
    assert Progress("none", 0, "row").line() == "none: 0 of 0 rows in 0 s"


def test_words_for_durations():
    assert [duration(s) for s in (0.4, 59, 60, 150, 3600, 9000, 86_400, 100_000)] == [
        "0 s", "59 s", "1 min", "2 min 30 s", "1 h", "2 h 30 min", "1 d", "1 d 3 h",
    ]  # fmt: skip


def test_lines_come_without_a_terminal_and_from_a_step_that_stands(monkeypatch, caplog):
    monkeypatch.setattr(progress, "FIRST", 0.01)
    monkeypatch.setattr(progress, "EVERY", 0.01)
    with caplog.at_level(logging.INFO, "jemb"), Progress("slow", 2, "step") as shown:
        for _ in range(10_000):  # the first line comes though nothing is done
            if caplog.records:
                break
            time.sleep(0.001)
        shown.update(2)
    assert caplog.records[0].getMessage().startswith("slow: 0 of 2 steps (0 %) after")
    assert caplog.records[-1].getMessage().startswith("slow: 2 of 2 steps (100 %) in")


def test_a_short_step_says_nothing_and_none_is_shown_without_a_name(caplog):
    with caplog.at_level(logging.INFO, "jemb"):
        assert list(track(range(3), "short", 3, "row")) == [0, 1, 2]
        assert list(track(range(3), None, 3, "row")) == [0, 1, 2]
    assert not caplog.records


def test_an_error_comes_through():
    with pytest.raises(KeyError), Progress("x", 1, "row"):
        raise KeyError("x")
