"""The run's records of each step: metrics.jsonl, samples.jsonl, what `trackers.py` has, and the progress bar.

Written by rank 0 alone, a line at a time, so that a killed run loses none. On resume the lines after the checkpoint are
cut off: those steps are done again, and each step stands in the files once.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning

from jemb.core.errors import InputError
from jemb.core.files import write_atomic
from jemb.core.progress import Progress
from jemb.data.module import PairData
from jemb.run_folder import RunFolder
from jemb.train.logs.trackers import Trackers
from jemb.train.module import EmbeddingModule, as_embedding, last_step

log = logging.getLogger(__name__)


class RunLog(lightning.Callback):
    """metrics.jsonl in `folder`, with log_samples also samples.jsonl, what `trackers` names, and the progress bar.

        lightning.Trainer(callbacks=[jemb.RunLog("mine"), jemb.Checkpoints("mine")], enable_progress_bar=False)

    The lines of steps that are done again go first. Times the loader and the step, and writes what the module measured.
    trackers: `tensorboard` and `csv`; in a Trainer of your own, Lightning's loggers serve for others. log_samples: the
    keys of each global batch. began: `time.perf_counter()` when this start of the run began; None: now.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        trackers: Sequence[str] = ("tensorboard", "csv"),
        log_samples: bool = False,
        began: float | None = None,
    ) -> None:
        self.run, self.log_samples, self.tracker_names = RunFolder(Path(folder)), log_samples, trackers
        self.waiting_since = self.loader_wait = 0.0
        self.metrics: Any = None
        self.samples: Any = None
        self.bar: Any = None
        self.trackers: Any = None
        self.last_line = time.perf_counter() if began is None else began

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, PairData):
            data.log_samples = self.log_samples
        elif self.log_samples and trainer.world_size > 1:
            raise InputError("RunLog: log_samples wants PairData as the data module, which knows the keys of all ranks")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.write, start = trainer.is_global_zero, as_embedding(pl_module).first_step + trainer.global_step
        if self.write:
            self.run.path.mkdir(parents=True, exist_ok=True)
            keep_steps(self.run.metrics, start, every=True)
            keep_steps(self.run.samples, start, every=self.log_samples and self.run.samples.exists())
            # Line buffering: a killed process leaves whole lines.
            self.metrics = self.run.metrics.open("a", buffering=1)
            self.samples = self.run.samples.open("a", buffering=1) if self.log_samples else None
            self.trackers = Trackers(self.tracker_names, self.run, start)
            total = None if (stop := last_step(trainer)) == sys.maxsize else stop
            self.bar = Progress(f"train {self.run.path.name}", total, "step", done=start).__enter__()
        self.waiting_since = time.perf_counter()

    def on_train_batch_start(self, *arguments: Any) -> None:
        self.loader_wait = time.perf_counter() - self.waiting_since

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        if self.write:
            self._write_step(as_embedding(pl_module))
        self.waiting_since = time.perf_counter()

    def _write_step(self, module: EmbeddingModule) -> None:
        facts, now = module.facts, time.perf_counter()
        assert facts is not None
        line: dict[str, Any] = {"step": facts.step, "time": time.time(), **vars(facts)}
        keys = line.pop("keys")
        line["grad_norm"] = module.grad_norm if math.isfinite(module.grad_norm) else None
        line["tokens_per_second"] = facts.tokens / (now - self.waiting_since)
        line["loader_wait_seconds"] = self.loader_wait
        line["seconds"], self.last_line = now - self.last_line, now
        line["loss_terms"] = module.loss_terms
        self.metrics.write(json.dumps(line) + "\n")
        if self.samples:
            self.samples.write(json.dumps({"step": facts.step, "dataset": facts.dataset, "ids": keys}) + "\n")
        self.trackers.log(line)
        self.bar.set_postfix_str(f"{facts.dataset} loss={facts.loss:.4f}", refresh=False)
        self.bar.update()

    def evaluated(self, line: Mapping[str, Any], words: str) -> None:
        """Pass on a line of evaluations.jsonl; the time that it took is not the step's after it. On rank 0."""
        self.trackers.log(line)
        self.bar.clear()
        log.info("%s", words)
        self.bar.refresh()
        self.waiting_since = time.perf_counter()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._close(failed=not isinstance(exception, KeyboardInterrupt))  # ends the bar's line before the message

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._close()

    def _close(self, failed: bool = False) -> None:
        if self.trackers:
            self.trackers.close(failed)
        for file in (self.metrics, self.samples, self.bar):
            if file is not None:
                file.close()


def keep_steps(path: Path, last: int, *, every: bool = False) -> None:
    """Leave only the whole lines of steps up to `last` in a JSON-lines file; one that does not exist stays away.

    What stands after the last line end was cut off by a kill, and is left out. Where other lines cannot be read, they
    stay beside it in a file `damaged-…`. every: it is to have all of the steps 1 to `last`; what is missing is warned
    of.
    """
    kept: dict[int, bytes] = {}
    bad: list[int] = []
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            step = json.loads(line)["step"]
            if not isinstance(step, int):
                raise TypeError
        except (ValueError, TypeError, KeyError, RecursionError):
            bad.append(number)
        else:
            kept |= {step: line + b"\n"} if step <= last else {}
    if bad:
        aside = path.with_name(f"damaged-{path.name}-{time.time_ns()}")
        shutil.copyfile(path, aside)
        log.warning("%s: line %d cannot be read, %d in all; left out, and kept in %s", path, bad[0], len(bad), aside)
    if path.exists() and len(text := b"".join(kept.values())) < path.stat().st_size:
        write_atomic(path, text)
    if every and (missing := sorted(set(range(1, last + 1)) - kept.keys())):
        log.warning(
            "%s: has no lines of %d of the steps up to the checkpoint's, %d (the first is step %d): lost, perhaps when "
            "the power went. The run goes on exactly; its log stays without them",
            path, len(missing), last, missing[0],
        )  # fmt: skip
