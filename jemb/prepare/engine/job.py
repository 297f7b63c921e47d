"""The work of one stage on one data set: many small tasks, each of which leaves a marker when it is done.

A stage hands `Job.map` a function from a task to a small dict; big results go to files. Which processes run it is the
executor's business. After a kill the same command finds the markers and goes on with the tasks that have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from jemb.core.files import read_json, write_json
from jemb.core.progress import Progress
from jemb.prepare.engine.executor import Executor

T = TypeVar("T")

Result = dict[str, Any]
SERIAL_BELOW = 20_000
"""Rows of a step below which it is done in this process: starting others takes longer."""


@dataclass(frozen=True, slots=True)
class Job:
    """folder: of this stage alone, kept until the data set is finished. label: for the progress."""

    folder: Path
    executor: Executor
    label: str

    def map(
        self,
        step: str,
        function: Callable[[T], Result],
        items: Sequence[T],
        *,
        sizes: Sequence[int] | None = None,
        unit: str = "row",
        gpu: bool = False,
        serial_below: int | None = None,
    ) -> list[Result]:
        """`function` of each item, results in the order of items; those done before a kill are not done again.

        function, items: picklable. function writes its files whole (`write_atomic`) and returns what JSON can hold; it
        may be run twice. step: names the markers and the progress. sizes: rows of each item.
        gpu: a task wants a GPU of its own, where there is one. serial_below: rows (sum of sizes) from which other
        processes are worth starting; None: `SERIAL_BELOW`.
        """
        sizes = [1] * len(items) if sizes is None else sizes
        numbers = range(len(items))
        results = {number: read_json(self._marker(step, number)) for number in numbers if self.is_done(step, number)}
        todo = [number for number in numbers if number not in results]
        rest = [sizes[number] for number in todo]
        with Progress(f"{self.label}: {step}", sum(sizes), unit, done=sum(sizes) - sum(rest)) as progress:
            tasks = [(items[number], self._marker(step, number)) for number in todo]
            serial = len(todo) < 2 or sum(rest) < (SERIAL_BELOW if serial_below is None else serial_below)
            for place, result in self.executor.run(partial(_task, function), tasks, gpu=gpu, serial=serial):
                results[todo[place]] = result
                progress.update(rest[place])
        return [results[number] for number in numbers]

    def is_done(self, step: str, number: int) -> bool:
        """Whether an earlier start of the job has done that item."""
        return self._marker(step, number).exists()

    def _marker(self, step: str, number: int) -> Path:
        return self.folder / f"{step.replace(' ', '-')}-{number:06d}.done"


def _task(function: Callable[[T], Result], task: tuple[T, Path]) -> Result:
    item, marker = task
    result = function(item)
    write_json(marker, result)
    return result
