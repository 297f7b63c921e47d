"""What a model was trained on, stage after stage, as JSON values without the paths of this machine.

Before: `train/logs/record.py` asks when a run starts from another model, and keeps the answer in run.json as `earlier`.
After: `export/` writes the stages beside the model (`training.json`), for its card and for runs that start from it.

A stage is what run.json says of a run (`objective`, `datasets`, `starts`, `versions`, …), with the run's `name`, the
model it `started_from`, the `settings` and the `seconds` it took.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from jemb.config import Role, TrainConfig, roles
from jemb.core.files import read_json
from jemb.public import each_text, last_name, without_places
from jemb.run_folder import STAGE, RunFolder, is_run

TRAINING = "training.json"
KEPT = ("id", "jemb", "versions", "git_commit", "objective", "starts", "max_steps", "model_chosen")
PATHS = ("init", "path", "encoder", "model", "tasks", "metric", "against")
"""Settings in which a path may stand that is not known by its beginning, alone or behind a kind (`sts:dev/a.jsonl`)."""
UNTOLD = {name for name, role in roles(TrainConfig).items() if role in (Role.UPKEEP, Role.MACHINE)}
"""Settings that say nothing of the model."""

Stage = dict[str, Any]


def stages_of(run: RunFolder) -> list[Stage]:
    """All stages of training in the model of `run`, its own the last; with names of data, not where they lie."""
    return [*each_text(without_places, run.read_record().get("earlier", [])), _stage_of(run)]


def stages_before(init: str | None) -> list[Stage]:
    """The stages behind a model that a run starts from: of a run or an exported folder; of others nothing is known."""
    if init is None:
        return []
    path = Path(init).expanduser()
    if path.name == "model" and is_run(path.parent):
        path = path.parent
    if is_run(path):
        return stages_of(RunFolder(path))
    if not (path / TRAINING).is_file():
        return []
    return list(read_json(path / TRAINING, [STAGE]))


def public_name(model: str | None) -> str | None:
    """A Hub name as it is, of a path or URL the last part: what may stand in a published file."""
    if model is None or "://" in model:
        return model and last_name(model)
    path = Path(model).expanduser()
    is_path = path.exists() or model.startswith((".", "~", "/")) or model.count("/") > 1
    return path.resolve().name if is_path else model


def training_seconds(run: RunFolder) -> float | None:
    """Wall time of all starts, each from its beginning to the end of its last logged step; None where it is not known.

    Steps that a killed start had done after its last checkpoint are not in the log, and not counted.
    """
    seconds: list[Any] = [line.get("seconds") for line in run.read_metrics()]
    return float(sum(seconds)) if seconds and None not in seconds else None


def _stage_of(run: RunFolder) -> Stage:
    record = run.read_record()
    settings = run.read_config()
    stage = {
        "name": run.path.resolve().name,
        **{name: record[name] for name in KEPT if name in record},
        "datasets": {name: _data_set(entry) for name, entry in record.get("datasets", {}).items()},
        "started_from": record.get("started_from") or public_name(record.get("init")),
        "steps": record.get("model_step") or record.get("steps"),
        "seconds": training_seconds(run),
        "settings": _without_paths(settings | record.get("resolved", {})),
    }
    tasks = settings.get("evaluation", {}).get("tasks", [])

    def change(text: str) -> str:
        for task in sorted(tasks, key=len, reverse=True):  # also where words say which was the best step
            text = text.replace(task, task_name(task))
        return without_places(text)

    return dict(each_text(change, stage))


def _data_set(entry: dict[str, Any]) -> dict[str, Any]:
    """Without the histograms for the report of the preparation."""
    stages = [
        {name: stage[name] for name in ("name", "kept", "dropped") if name in stage}
        | {"settings": _without_paths(stage.get("settings", {}))}
        for stage in entry.get("stages", [])
    ]
    return {**entry, "stages": stages}


def _without_paths(settings: Any, name: str = "") -> Any:
    if isinstance(settings, dict):
        return {key: _without_paths(value, key) for key, value in settings.items() if key not in UNTOLD}
    if isinstance(settings, list):
        return [_without_paths(value, name) for value in settings]
    if name == "metric" and isinstance(settings, str):
        task, slash, metric = settings.rpartition("/")
        return f"{task_name(task)}{slash}{metric}"
    if name in PATHS and isinstance(settings, str):
        return task_name(settings) if name in ("tasks", "against") else public_name(settings)
    return settings


def task_name(task: str) -> str:
    """`sts:dev.jsonl` of `sts:/data/dev.jsonl`."""
    kind, colon, path = task.partition(":")
    if not colon or path.startswith("//"):
        return PurePath(last_name(task)).name
    return task if kind == "mteb" else f"{kind}:{last_name(path)}"
