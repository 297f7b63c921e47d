"""The folder of one training run: what lies where. `train/` writes it; `evaluate/`, `export/` and `inspect` read it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jemb.errors import InputError
from jemb.files import read_json

CHECKPOINT = re.compile(r"step-(\d{8})")


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
    def scores(self) -> Path:
        """What `jemb evaluate model=RUN` found: {task: {metric: percent}}."""
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
    def names(self) -> set[str]:
        """All names that a run may have in its folder, hidden ones apart."""
        known = (
            self.config, self.record, self.metrics, self.metrics_csv, self.tensorboard, self.samples, self.scores,
            self.start, self.model, self.checkpoint_folder,
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

    def read_record(self) -> dict[str, Any]:
        record = read_json(self.record)
        if not isinstance(record, dict):
            raise InputError(f"{self.record}: not a run record")
        return record

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; a line cut off by a kill is left out."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]


def is_run(path: Path) -> bool:
    """Whether `path` is a run folder of `jemb train`."""
    return (path / "run.json").is_file() and (path / "config.yaml").is_file()
