"""Where the metrics of each step go besides metrics.jsonl: `trackers=[tensorboard,csv,wandb,mlflow]`.

Before: `run_log.py` has the line of a step and cuts its own files back when a run goes on. After: the user's screens.
W&B and MLflow are extras, imported when asked for. What they cannot take (a server that is away) is said once and does
not stop training: metrics.jsonl has every step.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from jemb.core.errors import InputError
from jemb.core.files import write_atomic
from jemb.public import csv_cell
from jemb.run_folder import RunFolder

log = logging.getLogger(__name__)

Line = Mapping[str, Any]
PROJECT = "jemb"
"""W&B project and MLflow experiment, unless the environment names another."""
COLUMNS = [
    "step", "time", "dataset", "loss", "learning_rate", "grad_norm", "negatives_per_query", "hidden_candidates",
    "negatives_short", "positives_short", "tokens", "tokens_per_second", "padding_share", "loader_wait_seconds",
    "seconds", "loss_terms",
]  # fmt: skip
"""Of metrics.csv; `loss_terms` is JSON."""


class Tracker(Protocol):
    """Takes the metrics of each step, rising by one; those before the first were taken by an earlier start."""

    def log(self, line: Line, values: Mapping[str, float]) -> None:
        """line: what metrics.jsonl has for a step, or evaluations.jsonl, which has `scores`; of the latter, one that is
        done again after a kill has the values of before. values: the numbers in it by name."""

    def close(self, failed: bool = False) -> None:
        """Everything is written when this returns. failed: the run ended with an error, and is shown so."""


class TensorBoard:
    """Event files in the run folder; steps that are done again replace those of before."""

    def __init__(self, run: RunFolder, start: int) -> None:
        self.board = SummaryWriter(str(run.tensorboard), purge_step=start + 1)

    def log(self, line: Line, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.board.add_scalar(name, value, line["step"])

    def close(self, failed: bool = False) -> None:
        self.board.close()


class Table:
    """metrics.csv, made anew from metrics.jsonl at each start. It has a row for each step, and no scores."""

    def __init__(self, run: RunFolder, start: int) -> None:
        write_atomic(run.metrics_csv, _as_csv(run.read_metrics(), header=True))
        # Line buffering: a killed process leaves whole lines.
        self.file = run.metrics_csv.open("a", buffering=1)

    def log(self, line: Line, values: Mapping[str, float]) -> None:
        if "scores" not in line:
            self.file.write(_as_csv([line]))

    def close(self, failed: bool = False) -> None:
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

    def close(self, failed: bool = False) -> None:
        self.run.finish(exit_code=int(failed))


class MLflow:
    """One MLflow run for all starts, found by its tag `jemb`: the id in run.json. Without MLFLOW_TRACKING_URI it is
    kept in mlflow.db in the run folder."""

    def __init__(self, run: RunFolder, start: int) -> None:
        mlflow = _extra("mlflow")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.path.resolve() / 'mlflow.db'}"
        self.client = mlflow.MlflowClient(uri)
        self.metric = import_module("mlflow.entities").Metric
        tag, name = run.read_record("id")["id"], os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self.client.create_experiment(name)
        found = self.client.search_runs([number], filter_string=f"tags.jemb = '{tag}'")
        if found:
            self.id = found[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
        else:
            self.id = self.client.create_run(number, tags={"jemb": tag}, run_name=run.path.resolve().name).info.run_id
            self._log_options(run.read_config())
        # Steps that are done again are in it already: MLflow would keep both.
        self.done = max((metric.step for metric in self.client.get_metric_history(self.id, "loss")), default=0)

    def log(self, line: Line, values: Mapping[str, float]) -> None:
        stamp, step = round(1000 * line["time"]), line["step"]
        if "scores" in line:
            values = {re.sub(r"[^\w./ -]", "_", name): value for name, value in values.items()}
            known = any(metric.step == step for metric in self.client.get_metric_history(self.id, next(iter(values))))
        else:
            known = step <= self.done
        if not known:
            metrics = [self.metric(name, value, stamp, step) for name, value in values.items()]
            self.client.log_batch(self.id, metrics=metrics)

    def close(self, failed: bool = False) -> None:
        self.client.set_terminated(self.id, status="FAILED" if failed else "FINISHED")

    def _log_options(self, config: Mapping[str, Any], prefix: str = "") -> None:
        for name, value in config.items():
            if isinstance(value, Mapping):
                self._log_options(value, f"{prefix}{name}.")
            else:
                self.client.log_param(self.id, prefix + name, json.dumps(value))


EXTRAS: Mapping[str, Callable[[RunFolder, int], Tracker]] = {"wandb": WandB, "mlflow": MLflow}
KINDS: Mapping[str, Callable[[RunFolder, int], Tracker]] = {"tensorboard": TensorBoard, "csv": Table, **EXTRAS}


class Trackers:
    """All that were asked for, behind one; one that fails is left out from then on."""

    def __init__(self, names: Sequence[str], run: RunFolder, start: int) -> None:
        """start: steps already done."""
        self.trackers: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            self._guard(name, partial(self._start, name, run, start))

    def log(self, line: Line) -> None:
        """Of metrics.jsonl or evaluations.jsonl."""
        values = _scores(line) if "scores" in line else _numbers(line)
        self._each(lambda tracker: tracker.log(line, values))

    def close(self, failed: bool = False) -> None:
        self._each(lambda tracker: tracker.close(failed))
        self.trackers.clear()

    def _start(self, name: str, run: RunFolder, start: int) -> None:
        self.trackers[name] = KINDS[name](run, start)

    def _each(self, work: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            self._guard(name, partial(work, tracker))

    def _guard(self, name: str, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:
            if name not in EXTRAS:
                raise
            self.trackers.pop(name, None)
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


def _numbers(line: Line) -> dict[str, float]:
    """The metrics of a line by name, and the loss by data set and by term as well."""
    found = {name: value for name, value in line.items() if isinstance(value, int | float)}
    del found["step"], found["time"]
    terms = {f"loss_terms/{name}": value for name, value in line["loss_terms"].items()}
    return {**found, **terms, f"loss/{line['dataset']}": line["loss"]}


def _scores(line: Line) -> dict[str, float]:
    """What chooses the best step, and every metric of an evaluation by name."""
    found = {
        f"evaluation/{task}/{metric}": value
        for task, scores in line["scores"].items()
        for metric, value in scores.items()
    }
    return {"evaluation": line["value"], **found}


def _as_csv(lines: Sequence[Line], header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(
        {**line, "dataset": csv_cell(line["dataset"]), "loss_terms": json.dumps(line["loss_terms"])} for line in lines
    )
    return text.getvalue()
