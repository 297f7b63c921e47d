"""How far a long step is: a bar on a terminal or in a notebook, and elsewhere lines in the log, with rate and rest."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import TqdmExperimentalWarning, tqdm

with warnings.catch_warnings():  # of the bar of notebooks
    warnings.simplefilter("ignore", TqdmExperimentalWarning)
    from tqdm.autonotebook import tqdm as bar_here

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST, EVERY = 10.0, 30.0
"""Seconds until the first line, and between lines."""
LINE = "{desc}: {n:,} of {total:,} {unit}s ({percentage:.0f} %) after {elapsed}, {rate_noinv_fmt}, {remaining} left"


class _Log:
    """What tqdm would draw, as lines of the log."""

    def write(self, text: str) -> None:
        if text := text.strip():
            log.info("%s", text)

    def flush(self) -> None:
        pass


def Progress(name: str | None, total: int, unit: str, *, done: int = 0) -> tqdm[None]:
    """A step of `total` units, `done` of which were done before. name: None shows nothing. Use in a `with`."""
    if name is None or bar_here is not tqdm or sys.stderr.isatty():
        return bar_here(
            total=total, initial=done, desc=name, unit=unit, unit_scale=True, leave=False, disable=name is None
        )
    return tqdm(
        total=total, initial=done, desc=name, unit=unit, bar_format=LINE,
        file=_Log(), delay=FIRST, mininterval=EVERY, miniters=1,
    )  # fmt: skip


def track(items: Iterable[T], name: str | None, total: int, unit: str) -> Iterator[T]:
    """The items, with their number shown as they are done."""
    with Progress(name, total, unit) as progress:
        for item in items:
            yield item
            progress.update()
