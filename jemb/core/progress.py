"""How far a long step is: a bar on a terminal or in a notebook, and elsewhere lines in the log, with rate and rest."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import TqdmExperimentalWarning
from tqdm import tqdm as plain_bar

with warnings.catch_warnings():  # of the bar of notebooks
    warnings.simplefilter("ignore", TqdmExperimentalWarning)
    from tqdm.autonotebook import tqdm as bar_here

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST, EVERY = 10.0, 30.0
"""Seconds until the first line, and between lines."""


class Progress:
    """A step of `total` units, `done` of which were done before. name: None shows nothing. Use in a `with`."""

    def __init__(self, name: str | None, total: int, unit: str, *, done: int = 0) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done, self.before = done, done
        self.began = time.monotonic()
        self._bar: Any = None
        self._ended = threading.Event()
        self._said = False

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)

    def line(self) -> str:
        """As it is said where there is no terminal."""
        seconds = time.monotonic() - self.began
        rate = (self.done - self.before) / seconds if seconds else 0.0
        share = f" ({100 * self.done / self.total:.0f} %)" if self.total else ""
        said = f"{self.name}: {self.done:,} of {self.total:,} {self.unit}s{share}"
        if self.done >= self.total:
            return f"{said} in {duration(seconds)}"
        if not rate:
            return f"{said} after {duration(seconds)}"
        return f"{said}, {rate:,.3g} a second, {duration((self.total - self.done) / rate)} left"

    def __enter__(self) -> Progress:
        if self.name is None:
            return self
        if bar_here is not plain_bar or sys.stderr.isatty():
            self._bar = bar_here(
                total=self.total, initial=self.done, desc=self.name, unit=self.unit, unit_scale=True, leave=False
            )
        else:
            threading.Thread(target=self._say, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._bar is not None:
            self._bar.close()
        elif self._said and error[0] is None:
            log.info("%s", self.line())

    def _say(self) -> None:
        wait = FIRST
        while not self._ended.wait(wait):
            self._said = True
            log.info("%s", self.line())
            wait = EVERY


def track(items: Iterable[T], name: str | None, total: int, unit: str) -> Iterator[T]:
    """The items, with their number shown as they are done."""
    with Progress(name, total, unit) as progress:
        for item in items:
            yield item
            progress.update()


def duration(seconds: float) -> str:
    """In words: 8 s, 4 min 30 s, 2 h 5 min, 3 d 4 h."""
    whole = round(seconds)
    for size, name, small, below in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {name}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"
