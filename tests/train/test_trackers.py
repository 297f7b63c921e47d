"""Each step once in every tracker, also when a run goes on before the step it had reached."""

from __future__ import annotations

import csv
import json
import logging
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jemb.core.errors import InputError
from jemb.core.files import write_json
from jemb.run_folder import RunFolder
from jemb.train.logs import trackers as module
from jemb.train.logs.run_log import RunLog
from jemb.train.logs.trackers import COLUMNS, Trackers, check_installed

TASK = "sts:/a=b/dev.jsonl"
NUMBERS = [name for name in COLUMNS if name not in ("step", "time", "dataset", "loss_terms")]


def line(step: int) -> dict[str, Any]:
    facts = {name: number + step / 100 for number, name in enumerate(NUMBERS)}
    return {
        "step": step,
        "time": 1.7e9 + step,
        "dataset": "ab"[step % 2],
        **facts,
        "grad_norm": None,
        "loss_terms": {"margin": step / 7},
    }


def evaluation(step: int) -> dict[str, Any]:
    """The task's name has what some trackers do not take."""
    return {"step": step, "time": 1.7e9 + step, "value": step / 3, "scores": {TASK: {"spearman": step / 3}}}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "my-run")
    run.path.mkdir()
    write_json(run.record, {"id": "0123456789ab"})
    run.config.write_text("seed: 3\nmodel: {path: null, dropout: 0.1}\n")
    return run


def log_two_starts(names: list[str], run: RunFolder) -> None:
    """Steps 1 to 5; then on from the checkpoint after step 3, to 6. Evaluations at the even ones."""
    kept: list[str] = []
    for start, stop in ((0, 5), (3, 6)):
        # TensorBoard reads files in the order of their names: the second, then a count in which 10 stands before 9.
        time.sleep(1 - time.time() % 1)
        run.metrics.write_text("".join(kept[:start]))
        trackers = Trackers(names, run, start)
        for step in range(start + 1, stop + 1):
            kept[step - 1 :] = [json.dumps(line(step)) + "\n"]
            trackers.log(line(step))
            if step % 2 == 0:
                trackers.log(evaluation(step))
        trackers.close()


def test_table(run: RunFolder) -> None:
    log_two_starts(["csv"], run)
    with run.metrics_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == list("123456")
    assert rows[2]["loss_terms"] == '{"margin": 0.42857142857142855}'
    assert not run.tensorboard.exists()


def test_tensorboard(run: RunFolder) -> None:
    log_two_starts(["tensorboard"], run)
    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    found = {tag for tag in events.Tags()["scalars"] if "/" in tag}
    assert found == {"loss/a", "loss/b", "loss_terms/margin", f"evaluation/{TASK}/spearman"}
    for name in ("evaluation", f"evaluation/{TASK}/spearman"):
        assert [event.step for event in events.Scalars(name)] == [2, 4, 6]
        assert events.Scalars(name)[1].value == pytest.approx(4 / 3)
    for name in ("loss", "tokens"):
        assert [event.step for event in events.Scalars(name)] == [1, 2, 3, 4, 5, 6]
    assert events.Scalars("loss")[4].value == pytest.approx(line(5)["loss"])
    assert not run.metrics_csv.exists()


def test_mlflow(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log_two_starts(["mlflow"], run)
    client = mlflow.MlflowClient(f"sqlite:///{run.path / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "jemb"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("my-run", "FINISHED")
    assert found.data.params == {"seed": "3", "model.path": "null", "model.dropout": "0.1"}
    for name in ("loss", "tokens_per_second", "loss_terms/margin"):
        history = sorted(client.get_metric_history(found.info.run_id, name), key=lambda metric: metric.step)
        assert [metric.step for metric in history] == [1, 2, 3, 4, 5, 6]
    assert history[4].value == pytest.approx(5 / 7)
    assert history[4].timestamp == 1_700_000_005_000
    for name in ("evaluation", "evaluation/sts_/a_b/dev.jsonl/spearman"):
        history = sorted(client.get_metric_history(found.info.run_id, name), key=lambda metric: metric.step)
        assert {metric.step: metric.value for metric in history} == pytest.approx({2: 2 / 3, 4: 4 / 3, 6: 2.0})
        assert len(history) == 3
    assert not (Path.cwd() / "mlruns").exists()


def test_wandb_offline(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run by its id; each start has a file of its own, that `wandb sync` sends when there is a network."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_two_starts(["wandb"], run)
    files = sorted((run.path / "wandb").glob("offline-run-*-0123456789ab/*.wandb"))
    expected, deadline = [[1, 2, 3, 4, 5], [4, 5, 6]], time.monotonic() + 20
    while (steps := [[int(row["_step"]) for row in wandb_rows(file)] for file in files]) != expected:
        assert time.monotonic() < deadline, steps  # its own process writes the file's end a moment later
        time.sleep(0.1)
    last = wandb_rows(files[-1])[-1]
    assert last["loss"] == pytest.approx(line(6)["loss"])
    assert last["loss_terms/margin"] == pytest.approx(6 / 7)
    assert last[f"evaluation/{TASK}/spearman"] == last["evaluation"] == pytest.approx(6 / 3)


def wandb_rows(file: Path) -> list[dict[str, Any]]:
    """The history in a .wandb file: a header of 7 bytes, then LevelDB's log of protobuf records in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, position, parts, rows = file.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        if position // 32768 != (position + 6) // 32768:  # no room for a record's header: the block is filled up
            position = -(-position // 32768) * 32768
            continue
        length, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            items = record.history.item
            if items:
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def test_an_extra_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed(["tensorboard", "csv"])
    monkeypatch.setitem(module.EXTRAS, "mlflow", module.MLflow)
    monkeypatch.setattr(module, "import_module", lambda name: __import__(f"no_{name}"))
    with pytest.raises(InputError, match=r"trackers=\[mlflow\]: mlflow is not installed; pip install 'jemb\[mlflow\]'"):
        check_installed(["csv", "mlflow"])


class Broken:
    """A tracker whose server goes away at step 2."""

    def __init__(self, run: RunFolder, start: int) -> None:
        self.seen: list[int] = []

    def log(self, line: Mapping[str, Any], values: Mapping[str, float]) -> None:
        if line["step"] == 2:
            raise ConnectionError("no route\nto host")
        if "scores" not in line:
            self.seen.append(line["step"])

    def close(self, failed: bool = False) -> None:
        """Of the second start alone, which begins at step 4."""
        assert self.seen == [4, 5, 6]


def test_an_extra_that_fails_does_not_stop_training(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(module.EXTRAS, "wandb", Broken)
    monkeypatch.setitem(module.KINDS, "wandb", Broken)
    with caplog.at_level(logging.WARNING):
        log_two_starts(["csv", "wandb"], run)
    assert caplog.messages == ["trackers: wandb is left out from here on (ConnectionError: no route to host)"]
    assert len(run.metrics_csv.read_text().splitlines()) == 7


@pytest.mark.parametrize(("error", "failed"), [(RuntimeError(), True), (KeyboardInterrupt(), False), (None, False)])
def test_trackers_are_told_how_a_run_ends(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, failed: bool
) -> None:
    told: list[bool] = []

    class Told(Broken):
        def close(self, failed: bool = False) -> None:
            told.append(failed)

    monkeypatch.setitem(module.KINDS, "wandb", Told)
    log = RunLog(run.path)
    log.trackers = Trackers(["wandb"], run, 0)
    nothing: Any = None
    if error:
        log.on_exception(nothing, nothing, error)
    log.on_train_end(nothing, nothing)
    assert told == [failed]


def test_our_own_files_do(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a full disk does: there the metrics, too, have no place."""
    monkeypatch.setattr(module.Table, "log", Broken.log)
    monkeypatch.setattr(module.Table, "seen", [], raising=False)
    with pytest.raises(ConnectionError):
        log_two_starts(["csv"], run)
