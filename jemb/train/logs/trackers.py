"""Where the metrics of each step go besides metrics.jsonl: `trackers=[tensorboard,csv,wandb,mlflow]`.

Before: `run_log.py` has the line of a step and cuts its own files back when a run goes on. After: the user's screens.
Each tracker takes the lines of steps that rise by one, and those of evaluations; steps before its `start` were taken by
an earlier one. W&B and MLflow are extras, imported when asked for. What they cannot take (a server that is away) is
said once and does not stop training: metrics.jsonl has every step.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from jemb.core.errors import InputError
from jemb.public import csv_cell
from jemb.run_folder import RunFolder

log = logging.getLogger(__name__)

Line = Mapping[str, Any]
"""What metrics.jsonl has for a step; or evaluations.jsonl, which has `scores`: one that is done again after a kill has
the values of before."""
PROJECT = "jemb"
"""W&B project and MLflow experiment, unless the environment names another."""
COLUMNS = [
    "step", "time", "dataset", "loss", "learning_rate", "grad_norm", "negatives_per_query", "hidden_candidates",
    "negatives_short", "positives_short", "tokens", "tokens_per_second", "padding_share", "loader_wait_seconds",
    "seconds", "loss_terms",
]  # fmt: skip
"""Of metrics.csv; `loss_terms` is JSON."""


class TensorBoard:
    """Event files in the run folder; steps that are done again replace those of before."""

    def __init__(self, run: RunFolder, start: int) -> None:
        self.board = SummaryWriter(str(run.tensorboard), purge_step=start + 1)

    def log(self, line: Line, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.board.add_scalar(name, value, line["step"])

    def close(self, failed: bool) -> None:
        self.board.close()


class Table:
    """metrics.csv, made anew from metrics.jsonl at each start. It has a row for each step, and no scores."""

    def __init__(self, run: RunFolder, start: int) -> None:
        self.file = run.metrics_csv.open("w", buffering=1)  # by lines: a killed process leaves whole ones
        self.rows = csv.DictWriter(self.file, COLUMNS, lineterminator="\n")
        self.rows.writeheader()
        for line in run.read_metrics():
            self.log(line, {})

    def log(self, line: Line, values: Mapping[str, float]) -> None:
        if "scores" not in line:
            terms = json.dumps(line["loss_terms"])
            self.rows.writerow({**line, "dataset": csv_cell(line["dataset"]), "loss_terms": terms})

    def close(self, failed: bool) -> None:
        self.file.close()


class WandB:
    """One W&B run for all starts, by the id in run.json. WANDB_MODE=offline writes to the run folder alone.

    W&B itself leaves out the steps it has already.
    """

    def __init__(self, run: RunFolder, start: int) -> None:
        wandb = _extra("wandb")
        self.run = wandb.init(
            id=run.read_record("id")["id"],
            name=run.path.resolve().name,
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(run.path.resolve()),
            config=run.read_config(),
            resume="allow",
            settings=wandb.Settings(silent=True),
        )

    def log(self, line: Line, values: Mapping[str, float]) -> None:
        self.run.log(values, step=line["step"])

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class MLflow:
    """One MLflow run for all starts, found by its tag `jemb`: the id in run.json. Without MLFLOW_TRACKING_URI it is
    kept in mlflow.db in the run folder."""

    def __init__(self, run: RunFolder, start: int) -> None:
        mlflow = _extra("mlflow")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.path.resolve() / 'mlflow.db'}"
        self.client = mlflow.MlflowClient(uri)
        self.metric = import_module("mlflow.entities").Metric
        self.done: dict[str, set[int]] = {}
        tag, name = run.read_record("id")["id"], os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self.client.create_experiment(name)
        if found := self.client.search_runs([number], filter_string=f"tags.jemb = '{tag}'"):
            self.id = found[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
        else:
            self.id = self.client.create_run(number, tags={"jemb": tag}, run_name=run.path.resolve().name).info.run_id
            for option, value in flat(run.read_config()).items():
                self.client.log_param(self.id, option, json.dumps(value))

    def log(self, line: Line, values: Mapping[str, float]) -> None:
        values = {re.sub(r"[^\w./ -]", "_", name): value for name, value in values.items()}
        stamp, step, first = round(1000 * line["time"]), line["step"], next(iter(values))
        # A step that is done again is in it already: MLflow would keep both.
        if first not in self.done:
            self.done[first] = {metric.step for metric in self.client.get_metric_history(self.id, first)}
        if step not in self.done[first]:
            metrics = [self.metric(name, value, stamp, step) for name, value in values.items()]
            self.client.log_batch(self.id, metrics=metrics)

    def close(self, failed: bool) -> None:
        self.client.set_terminated(self.id, status="FAILED" if failed else "FINISHED")


EXTRAS: dict[str, Callable[[RunFolder, int], Any]] = {"wandb": WandB, "mlflow": MLflow}
KINDS: dict[str, Callable[[RunFolder, int], Any]] = {"tensorboard": TensorBoard, "csv": Table, **EXTRAS}


class Trackers:
    """All that were asked for, behind one; an extra that fails is left out from then on. start: steps already done."""

    def __init__(self, names: Sequence[str], run: RunFolder, start: int) -> None:
        self.trackers: dict[str, Any] = dict.fromkeys(names)
        self._each(lambda name: self.trackers.update({name: KINDS[name](run, start)}))

    def log(self, line: Line) -> None:
        values = _scores(line) if "scores" in line else _numbers(line)
        self._each(lambda name: self.trackers[name].log(line, values))

    def close(self, failed: bool = False) -> None:
        self._each(lambda name: self.trackers[name].close(failed))
        self.trackers.clear()

    def _each(self, work: Callable[[str], Any]) -> None:
        for name in list(self.trackers):
            try:
                work(name)
            except Exception as error:
                if name not in EXTRAS:
                    raise
                del self.trackers[name]
                text = " ".join(str(error).split())
                log.warning("trackers: %s is left out from here on (%s: %s)", name, type(error).__name__, text)


def check_installed(names: Sequence[str]) -> None:
    """Raises InputError for an extra that is not installed."""
    for name in EXTRAS.keys() & set(names):
        _extra(name)


def _extra(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise InputError(f"trackers=[{name}]: {name} is not installed; pip install 'jemb[{name}]'") from None


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options in options as one mapping, by their dotted names."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return out


def _numbers(line: Line) -> dict[str, float]:
    """The metrics of a line by name, and the loss by data set and by term as well."""
    found = {name: value for name, value in line.items() if isinstance(value, int | float)}
    del found["step"], found["time"]
    terms = {f"loss_terms/{name}": value for name, value in line["loss_terms"].items()}
    return {**found, **terms, f"loss/{line['dataset']}": line["loss"]}


def _scores(line: Line) -> dict[str, float]:
    """What chooses the best step, and every metric of an evaluation by name."""
    named = {f"evaluation/{task}/{name}": x for task, scores in line["scores"].items() for name, x in scores.items()}
    return {"evaluation": line["value"], **named}
