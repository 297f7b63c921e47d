"""What a model was trained on, stage after stage, as JSON values without the paths of this machine.

Before: `train/record.py` asks when a run starts from another model, and keeps the answer in run.json as `earlier`.
After: `export/` writes the stages beside the model (`training.json`), for its card and for runs that start from it.

A stage is what run.json says of a run (`objective`, `datasets`, `starts`, `versions`, …), with the run's `name`, the
model it `started_from`, the `settings` and the `seconds` it took.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

import yaml

from jemb.errors import InputError
from jemb.files import read_json
from jemb.run_folder import RunFolder, is_run

TRAINING = "training.json"
KEPT = ("id", "jemb", "versions", "git_commit", "objective", "starts", "max_steps", "model_chosen")
PATHS = ("shards", "init", "path", "encoder", "model", "tasks", "metric")
"""Settings in which a path may stand, alone or behind a kind (`sts:/data/dev.jsonl`)."""
OF_THE_MACHINE = (
    "output", "trackers", "workers", "timeout_minutes", "log_samples", "checkpoint_every", "keep_checkpoints",
    "cache_dir", "cache_gb", "read_ahead", "tokens", "dry_run",
)  # fmt: skip
"""Settings that say nothing of the model."""

Stage = dict[str, Any]


def stages_of(run: RunFolder) -> list[Stage]:
    """All stages of training in the model of `run`, its own the last."""
    return [*run.read_record().get("earlier", []), _stage_of(run)]


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
    stages = read_json(path / TRAINING)
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise InputError(f"{path / TRAINING}: no list of training stages; wanted what `jemb export` wrote there")
    return stages


def public_name(model: str | None) -> str | None:
    """A Hub name as it is, of a path the last part: what may stand in a published file."""
    if model is None:
        return None
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() or model.startswith((".", "~", "/")) else model


def training_seconds(run: RunFolder) -> float | None:
    """Wall time of all starts, each from its beginning to the end of its last logged step; None without any step.

    Steps that a killed start had done after its last checkpoint are not in the log, and not counted.
    """
    begins = [float(start["time"]) for start in run.read_record().get("starts", [])]
    ends = [float(line["time"]) for line in run.read_metrics()]
    if not ends:
        return None
    spans = ([end for end in ends if begin <= end < after] for begin, after in pairwise([*begins, float("inf")]))
    return sum(max(span) - begin for begin, span in zip(begins, spans, strict=True) if span)


def _stage_of(run: RunFolder) -> Stage:
    record = run.read_record()
    settings = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    return {
        "name": run.path.resolve().name,
        **{name: record[name] for name in KEPT if name in record},
        "datasets": {name: _data_set(entry) for name, entry in record.get("datasets", {}).items()},
        "started_from": record.get("started_from") or public_name(record.get("init")),
        "steps": record.get("model_step") or record.get("steps"),
        "seconds": training_seconds(run),
        "settings": _without_paths(settings | record.get("resolved", {})),
    }


def _data_set(entry: dict[str, Any]) -> dict[str, Any]:
    """Without the histograms for the report of the preparation."""
    stages = [
        {"name": stage["name"], "kept": stage["kept"], "dropped": stage["dropped"]}
        | {"settings": _without_paths(stage.get("settings", {}))}
        for stage in entry.get("stages", [])
    ]
    return {**entry, "stages": stages}


def _without_paths(settings: Any, name: str = "") -> Any:
    if isinstance(settings, dict):
        return {key: _without_paths(value, key) for key, value in settings.items() if key not in OF_THE_MACHINE}
    if isinstance(settings, list):
        return [_without_paths(value, name) for value in settings]
    if name in PATHS and isinstance(settings, str):
        kind, colon, path = settings.rpartition(":")
        if name == "metric":
            return f"{kind}{colon}{'/'.join(PurePath(path).parts[-2:])}"
        return f"{kind}{colon}{public_name(path)}"
    return settings
