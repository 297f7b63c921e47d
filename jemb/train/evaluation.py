"""Evaluation while training: when it is due, what was found, which step is the best, and whether to go on.

evaluations.jsonl is its only memory: a run that was killed finds the same best step in it, and stops where the
undisturbed one stops. Before: `checkpoints.py` has written the step's checkpoint. After: it spares the best one, and
`resume.py` makes the model of it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning

from jemb.config import EvaluationConfig
from jemb.core.errors import InputError
from jemb.distributed import shared_encoding
from jemb.distributed.ranks import on_rank_zero
from jemb.model import Encoder
from jemb.run_folder import RunFolder
from jemb.train.checkpoints import Checkpoints
from jemb.train.logs.run_log import RunLog, keep_steps
from jemb.train.module import as_embedding, last_step

if TYPE_CHECKING:
    from jemb.evaluate import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """The best of `count` evaluations, the first one where several are equal, and how many came after it.

    start: the value before the first step, which takes no part in the choice; None where it is not known.
    """

    step: int
    value: float
    count: int
    since: int
    start: float | None = None

    @property
    def worse_than_start(self) -> bool:
        return self.start is not None and self.value < self.start


class EvaluateInLoop(lightning.Callback):
    """The evaluations of a run that ends at step `stop`; every: steps between them where the options do not say.

    Evaluates at the steps that are due, once their checkpoint is there: whoever kills it then loses nothing. It has
    `Checkpoints` keep the best one, and `RunLog` write of it, where the Trainer has them; stands behind both. Rank 0
    has the tasks, and does alone whatever looks at the file.
    """

    def __init__(self, run: RunFolder, options: EvaluationConfig, *, every: int, stop: int) -> None:
        self.run, self.options = run, options
        self.every, self.stop = options.every or every, stop
        self.tasks: Sequence[Task] = ()
        self.before: Mapping[str, Any] = {}

    def read_tasks(self) -> None:
        """Raises InputError for a task that cannot be read, and where none of them has the metric that chooses."""
        if self.options.tasks:
            from jemb.evaluate import load_tasks

            self.tasks = load_tasks(self.options.tasks)
            wanted, names = self.options.metric, [task.name for task in self.tasks]
            if wanted and not any(wanted.startswith(f"{name}/") for name in names):
                raise InputError(
                    f"evaluation.metric={wanted}: wanted TASK/METRIC, with one of the tasks: {', '.join(names)}"
                )

    def due(self, step: int) -> bool:
        """Whether there is one after `step`; 0: before the first."""
        return bool(self.options.tasks) and (step % self.every == 0 or step == self.stop)

    def missing(self, step: int) -> bool:
        """Whether it is due and not done: the run was killed, or stopped on request, before it."""
        return self.due(step) and all(line["step"] != step for line in self.run.read_evaluations())

    def evaluate(self, step: int, encoder: Encoder, **how: Any) -> dict[str, Any]:
        """Score all tasks, with all ranks at work, and write the line; it is empty on the ranks other than 0.

        how: `agree` and `device` as of `jemb.model.encode`. Raises InputError where a task does not give the chosen
        metric.
        """
        from jemb.evaluate.models import TextEncoder

        own = TextEncoder(encoder, **how)
        line: dict[str, Any] = {}
        began = time.time()
        with shared_encoding(lambda _: own) as make:
            if make:
                shared = make(None)
                scores = {task.name: task.score(shared) for task in self.tasks}
                if (value := self.value(scores)) is None:
                    (task, metric), *_ = self._parts
                    raise InputError(
                        f"evaluation.metric={self.options.metric}: {task} gives no '{metric}', but "
                        f"{', '.join(scores[task])}"
                    )
                line = {"step": step, "time": began, "seconds": time.time() - began, "metric": self.metric}
                line |= {"value": value, "scores": scores}
                with self.run.evaluations.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
        return line

    @property
    def metric(self) -> str:
        """What chooses the best step, in words."""
        names = [f"{task}/{metric}" for task, metric in self._parts]
        shown = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]
        return names[0] if len(names) == 1 else f"mean of {', '.join(shown)}"

    @property
    def _parts(self) -> list[tuple[str, str]]:
        """(task, metric) of all whose mean chooses."""
        wanted = self.options.metric
        if wanted is None:
            return [(task.name, task.main) for task in self.tasks]
        # A task's name may have slashes, and begin with another's.
        task = max((task.name for task in self.tasks if wanted.startswith(f"{task.name}/")), key=len)
        return [(task, wanted.removeprefix(f"{task}/"))]

    def value(self, scores: Mapping[str, Mapping[str, float]]) -> float | None:
        """Of {task: {metric: percent}}; None where they, of an earlier start with other tasks, lack what chooses."""
        known = [scores.get(task, {}).get(metric) for task, metric in self._parts]
        found = [value for value in known if value is not None]
        return sum(found) / len(found) if found and len(found) == len(known) else None

    def standing(self, steps: Collection[int] | None = None) -> Standing | None:
        """Of the evaluations so far that have what chooses, the one before the first step left out; None without any.
        steps: those that can be the best; None: all."""
        lines = self.run.read_evaluations() if self.options.tasks else []
        values = {line["step"]: x for line in lines if (x := self.value(line["scores"])) is not None}
        start = values.pop(0, None)
        able = [step for step in values if steps is None or step in steps]
        if not able:
            return None
        best = max(able, key=values.__getitem__)
        return Standing(best, values[best], len(values), len(values) - 1 - list(values).index(best), start)

    def describe_choice(self, best: Standing) -> str:
        """How the step was chosen whose weights become the model, in words."""
        words = f"the best of {best.count} evaluations: {self.metric} = {best.value:.4f}"
        if best.worse_than_start:
            words += f"; all of them are worse than {best.start:.4f}, which it was before the first step"
        return words

    def best_step(self) -> int | None:
        standing = self.standing()
        return standing.step if standing else None

    def over(self) -> str | None:
        """Why the run ends before its last step, if it does."""
        standing, patience = self.standing(), self.options.patience
        if standing is None or patience is None or standing.since < patience:
            return None
        return (
            f"{self.metric} has not been better than the {standing.value:.4f} of step {standing.step} in the "
            f"{standing.since} evaluations since (evaluation.patience={patience})"
        )

    def describe(self, line: Mapping[str, Any]) -> str:
        """The newest line in words."""
        step, standing = line["step"], self.standing()
        what = f"evaluation {f'after step {step}' if step else 'before the first step'}: {self.metric}"
        if standing is None:
            return f"{what} = {line['value']:.2f}"
        best = "the best" if standing.step == step else f"best {standing.value:.2f}, step {standing.step}"
        worse = f", worse than the {standing.start:.2f} before the first step" if standing.worse_than_start else ""
        return f"{what} = {line['value']:.2f} ({best} of {standing.count}{worse})"

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Also evaluates before the first step, here, where each process still has the whole model."""
        module = as_embedding(pl_module)
        self.stop = last_step(trainer)
        others = trainer.callbacks  # type: ignore[attr-defined]
        self.checkpoints = [callback for callback in others if isinstance(callback, Checkpoints)]
        self.run_logs = [callback for callback in others if isinstance(callback, RunLog)]
        for checkpoints in self.checkpoints:
            checkpoints.wanted, checkpoints.best = self.due, self.best_step

        def missing() -> bool:
            if not self.tasks:
                self.read_tasks()
            self.run.path.mkdir(parents=True, exist_ok=True)
            keep_steps(self.run.evaluations, module.first_step)
            return self.missing(module.first_step)

        if on_rank_zero(missing):
            self.before = self.evaluate(module.first_step, module.encoder, device=trainer.strategy.root_device)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.before:
            self._tell(self.before)
        trainer.should_stop |= on_rank_zero(self.over) is not None

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        module = as_embedding(pl_module)
        # Whoever asks for a stop does not want to wait; the next start makes up for it.
        if self.due(module.step) and (not trainer.should_stop or module.step == self.stop):
            line = self.evaluate(module.step, module.encoder, agree=module.agree)
            trainer.should_stop |= on_rank_zero(lambda: self._settle(line))

    def _settle(self, line: Mapping[str, Any]) -> bool:
        """Whether the run is over."""
        self._tell(line)
        for checkpoints in self.checkpoints:
            checkpoints.prune()
        return self.over() is not None

    def _tell(self, line: Mapping[str, Any]) -> None:
        words = self.describe(line)
        for run_log in self.run_logs:
            run_log.evaluated(line, words)
        if not self.run_logs:
            log.info("%s", words)


def evaluate_in_loop(
    folder: str | os.PathLike[str],
    tasks: Sequence[str],
    *,
    every: int = 500,
    metric: str | None = None,
    patience: int | None = None,
) -> EvaluateInLoop:
    """A callback for a Trainer of your own that evaluates before the first step, every so many, and after the last, and
    writes evaluations.jsonl in `folder`. With `Checkpoints` before it, the best step's checkpoint is kept; with
    patience, the fit ends after so many evaluations without a better one.

        callbacks = [jemb.Checkpoints("mine"), jemb.evaluate_in_loop("mine", ["sts:sts.jsonl"], every=100)]

    Options are those of `evaluation` of `jemb train`; its `best_step()` is the best one's number.
    """
    options = EvaluationConfig(tasks=list(tasks), every=every, metric=metric, patience=patience)
    return EvaluateInLoop(RunFolder(Path(folder)), options, every=every, stop=0)
