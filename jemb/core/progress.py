"""How far a long step is: a bar on a terminal or in a notebook, and elsewhere lines in the log, with rate and rest."""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import TqdmExperimentalWarning, tqdm

with warnings.catch_warnings():  # of the bar of notebooks
    warnings.simplefilter("ignore", TqdmExperimentalWarning)
    from tqdm.autonotebook import tqdm as bar_here

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST, EVERY = 10.0, 30.0
"""Seconds until the first line, and between lines."""
RATE = " after {elapsed}, {rate_noinv_fmt}"
LINE = "{desc}: {n:,} of {total:,}{unit}s ({percentage:.0f} %)" + RATE + ", {remaining} left{postfix}"
ENDLESS = "{desc}: {n:,}{unit}s" + RATE + "{postfix}"


class _Lines(tqdm):
    """Lines of the log in the place of a bar. A thread says them, so they also come from a step that stands."""

    monitor_interval = 0  # no thread of tqdm's beside it
    ended: threading.Event | None = None

    def __enter__(self) -> _Lines:
        self.ended, self.said = threading.Event(), False
        threading.Thread(target=self._say, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.said and error[0] is None:
            log.info("%s", str(self).replace(", 00:00 left", ""))
        super().__exit__(*error)

    def close(self) -> None:
        if self.ended:
            self.ended.set()
        super().close()

    def display(self, *_: Any, **__: Any) -> None:
        """Draws nothing."""

    def _say(self) -> None:
        wait = FIRST
        while self.ended and not self.ended.wait(wait):
            self.said, wait = True, EVERY
            log.info("%s", str(self).partition(", ?")[0])  # no rate where nothing has moved


def Progress(name: str | None, total: int | None, unit: str, *, done: int = 0) -> tqdm[None]:
    """A step of `total` units, `done` of which were done before. name: None shows nothing. total: None where nobody
    knows. Use in a `with`."""
    if name is None or bar_here is not tqdm or sys.stderr.isatty():
        return bar_here(
            total=total, initial=done, desc=name, unit=unit, unit_scale=True, leave=False, disable=name is None
        )
    line = ENDLESS if total is None else LINE
    return _Lines(total=total, initial=done, desc=name, unit=f" {unit}", bar_format=line, file=io.StringIO())


def track(items: Iterable[T], name: str | None, total: int, unit: str) -> Iterator[T]:
    """The items, with their number shown as they are done."""
    with Progress(name, total, unit) as progress:
        for item in items:
            yield item
            progress.update()
