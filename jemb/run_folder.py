"""The folder of one training run: what lies where. `train/` writes it; `evaluate/`, `export/` and `inspect` read it."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import re
import struct
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jemb.core.errors import InputError
from jemb.core.files import read_bytes, read_json, read_yaml, sha256_of, write_json
from jemb.core.folders import locked
from jemb.core.parse import Shape, check_shape, parse_json

log = logging.getLogger(__name__)

HELD_HERE: set[Path] = set()
"""Run folders whose lock this process holds: to open and close the file once more would give it up."""
CHECKPOINT = re.compile(r"step-(\d{8})")
WEIGHTS, OPTIMIZER, HEADS = "weights.safetensors", "optimizer.safetensors", "objectives.safetensors"
POSITION = "position.json"
"""The files of a checkpoint: the encoder's state dict, AdamW's moments, and the weights of objectives that have some,
all whole and in fp32 whatever the strategy was; the step, the plan's fingerprint, and sizes and checksums of those."""

STAGE = {
    "name?": str, "objective?": str, "steps?": (int, None), "seconds?": (float, None), "started_from?": (str, None),
    "init?": (str, None), "model_chosen?": (str, None), "jemb?": str, "git_commit?": (str, None),
    "settings?": {"model?": {}}, "versions?": {str: str},
    "merged?": {str: float},
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
METRICS = {
    "step": int,
    "time": float,
    "loss?": (float, None),
    "tokens_per_second?": (float, None),
    "seconds?": (float, None),
}
EVALUATION = {"step": int, "time?": float, "value?": (float, None), "scores?": {str: {str: (float, None)}}}
SCORES = {"model": {"sha256?": str}, "scores": {str: {str: float}}}


class RunFolder:
    """Paths and records of a run; see docs/architecture.md for the fields of each file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        """The resolved configuration of the latest start."""
        self.record = path / "run.json"
        """Versions, git commit, data lineage, plan fingerprint, history of starts, status."""
        self.metrics = path / "metrics.jsonl"
        """One JSON line for each optimiser step."""
        self.metrics_csv = path / "metrics.csv"
        """The same as a table."""
        self.tensorboard = path / "tensorboard"
        self.samples = path / "samples.jsonl"
        """With `log_samples`: the keys of each global batch."""
        self.evaluations = path / "evaluations.jsonl"
        """With `evaluation.tasks`: one JSON line for each evaluation while training."""
        self.scores = path / "scores.json"
        """What `jemb evaluate model=RUN` found, and of which model: `read_scores` and `keep_scores`."""
        self.start = path / "start"
        """The model before the first step, as a sentence-transformers folder: tokenizer and shapes for every rank."""
        self.model = path / "model"
        """The trained model, as a sentence-transformers folder; there once the run has finished."""
        self.logs = path / "logs"
        """What each process of each start wrote, where launch/slurm_train.sh started them."""
        self.checkpoint_folder = path / "checkpoints"

    @property
    def names(self) -> set[str]:
        """All names that a run may have in its folder, hidden ones apart."""
        return {path.name for path in vars(self).values() if path is not self.path}

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, folder) of every whole checkpoint, oldest first. Unfinished ones have other names."""
        if not self.checkpoint_folder.is_dir():
            return []
        found = [(CHECKPOINT.fullmatch(path.name), path) for path in self.checkpoint_folder.iterdir()]
        return sorted((int(match[1]), path) for match, path in found if match)

    def newest_checkpoint(self, *, put_aside: bool = False) -> tuple[Path, dict[str, Any]] | None:
        """(folder, its position.json) of the newest checkpoint whose files are as they were written; None without any.

        Damaged ones are passed over with a warning; raises `InputError` where there are no others. put_aside: they are
        renamed to `damaged-step-…`, until there is none. That is for the trainer alone, who holds the lock.
        """
        found = self.checkpoints()
        while found:
            _, folder = found.pop()
            try:
                return folder, read_position(folder)
            except InputError as error:
                if put_aside:
                    aside = folder.rename(folder.with_name(f"damaged-{folder.name}-{time.time_ns()}"))
                    log.warning("%s; put aside as %s, going on from the checkpoint before it", error, aside.name)
                elif found:
                    log.warning("%s; taking the checkpoint before it", error)
                else:
                    raise
        return None

    def model_identity(self) -> str:
        """Digest of the weights in `model/`: changes when the run has gone on to a newer model. "" without a model."""
        weights = sorted(self.model.glob("*.safetensors"))
        return hashlib.sha256("".join(map(sha256_of, weights)).encode()).hexdigest() if weights else ""

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
        with locked(self.path / ".scores.lock"):
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

    def is_held(self) -> bool:
        """Whether a trainer has the run folder locked now, on any machine whose locks this one sees."""
        if self.path.resolve() in HELD_HERE:
            return True
        # A lock taken to find out would turn a trainer away that starts at this moment.
        layout = "hhqqi4x" if sys.platform == "linux" else "qqihh"
        at = 0 if sys.platform == "linux" else 3
        try:
            with (self.path / ".lock").open("r+b") as file:
                query = [0] * 5
                query[at] = fcntl.F_WRLCK
                found = struct.unpack(layout, fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *query)))
        except OSError:
            return False
        return bool(found[at] != fcntl.F_UNLCK)

    def status(self) -> str:
        """What run.json says; `killed` where it says `running` and no trainer holds the folder."""
        status = str(self.read_record("status")["status"])
        return "killed" if status == "running" and not self.is_held() else status

    def last_alive(self) -> float:
        """Unix time of the last sign of life: the last step's, or when a log or the record was written."""
        with suppress(InputError):
            if lines := self.read_metrics():
                return float(lines[-1]["time"])
        return self.record.stat().st_mtime


def read_position(checkpoint: Path) -> dict[str, Any]:
    """position.json of a checkpoint whose files are as they were written; `InputError` naming what is not."""
    position = read_json(checkpoint / POSITION, {"step": int, "plan": str, "files": {}})
    files, named = position["files"], CHECKPOINT.fullmatch(checkpoint.name)  # a copy may have another name
    if named and int(named[1]) != position["step"]:
        raise InputError(f"{checkpoint / POSITION}: step is {position['step']}; wanted that of its folder")
    for name in (WEIGHTS, OPTIMIZER, *(HEADS,) * (HEADS in files)):
        try:
            found = describe_file(checkpoint / name)
        except OSError as error:
            raise InputError(f"{checkpoint / name}: not a readable checkpoint ({error.strerror})") from None
        if found != files.get(name):
            raise InputError(f"{checkpoint / name}: not a readable checkpoint (other bytes than were written)")
    return dict(position)


def describe_file(path: Path) -> dict[str, Any]:
    """Size and checksum, as position.json has them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


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
