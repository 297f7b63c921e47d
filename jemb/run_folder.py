"""The folder of one training run: what lies where. `train/` writes it; `evaluate/`, `export/` and `inspect` read it."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jemb.errors import InputError
from jemb.files import open_lock, read_bytes, read_json, read_yaml, write_json
from jemb.parse import Shape, check_shape, parse_json

log = logging.getLogger(__name__)

CHECKPOINT = re.compile(r"step-(\d{8})")

STAGE = {
    "name?": str, "objective?": str, "steps?": (int, None), "seconds?": (float, None), "started_from?": (str, None),
    "init?": (str, None), "model_chosen?": (str, None), "jemb?": str, "git_commit?": (str, None),
    "settings?": {"model?": {}}, "versions?": {str: str},
    "starts?": [{"time": float, "step?": int, "world_size?": int, "device?": str, "hardware?": str}],
    "datasets?": {
        str: {
            "num_samples?": int, "kind?": str, "share?": float, "weight?": float, "fingerprint?": str,
            "license?": (str, None),
            "stages?": [{"name": str, "kept?": int, "dropped?": {str: int}, "settings?": {"allowed?": [str]}}],
        }
    },
}  # fmt: skip
"""What of a stage of training is looked at, in run.json and training.json."""
RECORD = STAGE | {
    "id?": str, "status?": str, "max_steps?": (int, None), "model_step?": (int, None), "resolved?": {},
    "earlier?": [STAGE],
}  # fmt: skip
CONFIG = {"evaluation?": {"tasks?": [str]}, "model?": {}}
METRICS = {"step": int, "time": float, "loss?": (float, None), "tokens_per_second?": (float, None)}
EVALUATION = {"step": int, "time?": float, "value?": (float, None), "scores?": {str: {str: (float, None)}}}
SCORES = {"model": {"sha256?": str}, "scores": {str: {str: float}}}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths and records of a run; see docs/architecture.md for the fields of each file."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration of the latest start."""
        return self.path / "config.yaml"

    @property
    def record(self) -> Path:
        """run.json: versions, git commit, data lineage, plan fingerprint, history of starts, status."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """One JSON line for each optimiser step."""
        return self.path / "metrics.jsonl"

    @property
    def metrics_csv(self) -> Path:
        """The same as a table."""
        return self.path / "metrics.csv"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def samples(self) -> Path:
        """With `log_samples`: the keys of each global batch."""
        return self.path / "samples.jsonl"

    @property
    def evaluations(self) -> Path:
        """With `evaluation.tasks`: one JSON line for each evaluation while training."""
        return self.path / "evaluations.jsonl"

    @property
    def scores(self) -> Path:
        """What `jemb evaluate model=RUN` found, and of which model: `read_scores` and `keep_scores`."""
        return self.path / "scores.json"

    @property
    def start(self) -> Path:
        """The model before the first step, as a sentence-transformers folder: tokenizer and shapes for every rank."""
        return self.path / "start"

    @property
    def model(self) -> Path:
        """The trained model, as a sentence-transformers folder; there once the run has finished."""
        return self.path / "model"

    @property
    def logs(self) -> Path:
        """What each process of each start wrote, where launch/slurm_train.sh started them."""
        return self.path / "logs"

    @property
    def names(self) -> set[str]:
        """All names that a run may have in its folder, hidden ones apart."""
        known = (
            self.config, self.record, self.metrics, self.metrics_csv, self.tensorboard, self.samples, self.evaluations,
            self.scores, self.start, self.model, self.logs, self.checkpoint_folder,
        )  # fmt: skip
        return {path.name for path in known}

    @property
    def checkpoint_folder(self) -> Path:
        return self.path / "checkpoints"

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, folder) of every whole checkpoint, oldest first. Unfinished ones have other names."""
        if not self.checkpoint_folder.is_dir():
            return []
        found = [(CHECKPOINT.fullmatch(path.name), path) for path in self.checkpoint_folder.iterdir()]
        return sorted((int(match[1]), path) for match, path in found if match)

    def model_identity(self) -> str:
        """Digest of the weights in `model/`: changes when the run has gone on to a newer model. "" without a model."""
        digest = hashlib.sha256()
        weights = sorted(self.model.glob("*.safetensors"))
        for path in weights:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest() if weights else ""

    def read_scores(self) -> dict[str, dict[str, float]]:
        """{task: {metric: percent}} that `model/` got; none where it has no scores, or these are of an older model."""
        if not self.scores.is_file():
            return {}
        known = read_json(self.scores, SCORES)
        return known["scores"] if known["model"].get("sha256") == self.model_identity() else {}

    def keep_scores(self, scores: Mapping[str, Mapping[str, float]], identity: str) -> None:
        """Add the scores of the model of that `model_identity` to those kept.

        Any number of processes may do so at once. Scores of an older model go. Where the run has gone on to a newer one
        meanwhile, nothing is kept.
        """
        with os.fdopen(open_lock(self.path / ".scores.lock"), "w") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX)
            except OSError:
                log.debug("%s: a file system without locks", self.path)
            if identity != self.model_identity():
                log.warning("%s: has a newer model than the one scored; %s is left as it is", self.path, self.scores)
                return
            step = self.read_record().get("model_step")
            kept = {**self.read_scores(), **scores}
            write_json(self.scores, {"model": {"step": step, "sha256": identity}, "scores": kept})

    def read_record(self, *needed: str) -> dict[str, Any]:
        """run.json, whose fields have the right types; `InputError` where one that is needed is not there."""
        record = dict(read_json(self.record, RECORD))
        if missing := [name for name in needed if name not in record]:
            raise InputError(f"{self.record}: has no field {missing[0]!r}; wanted the record of a run of `jemb train`")
        return record

    def read_config(self) -> dict[str, Any]:
        """config.yaml."""
        options = read_yaml(self.config)
        check_shape(options, CONFIG, self.config)
        return options

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; a line cut off by a kill is left out."""
        return _whole_lines(self.metrics, METRICS)

    def read_evaluations(self) -> list[dict[str, Any]]:
        """The same of evaluations.jsonl."""
        return _whole_lines(self.evaluations, EVALUATION)


def _whole_lines(path: Path, shape: Shape) -> list[dict[str, Any]]:
    lines = read_bytes(path).splitlines(keepends=True) if path.exists() else []
    found = []
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\n"):
            found.append(parse_json(line, where := f"{path}, line {number}"))
            check_shape(found[-1], shape, where)
    return found


def is_run(path: Path) -> bool:
    """Whether `path` is a run folder of `jemb train`."""
    return (path / "run.json").is_file() and (path / "config.yaml").is_file()
