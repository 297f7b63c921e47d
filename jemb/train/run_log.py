"""The run's records of each step: metrics.jsonl, samples.jsonl, what `trackers.py` has, and the progress bar.

Written by rank 0 alone, a line at a time, so that a killed run loses none. On resume the lines after the checkpoint are
cut off: those steps are done again, and each step stands in the files once.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
from tqdm.auto import tqdm

from jemb.files import write_atomic
from jemb.records import Batch
from jemb.run_folder import RunFolder
from jemb.train.module import EmbeddingModule
from jemb.train.trackers import Trackers

log = logging.getLogger(__name__)


class RunLog(lightning.Callback):
    """start: steps already done. Times the loader and the step, and writes what the module measured."""

    def __init__(
        self,
        run: RunFolder,
        *,
        start: int,
        stop: int,
        log_samples: bool,
        write: bool,
        trackers: Sequence[str] = ("tensorboard", "csv"),
    ) -> None:
        self.run, self.start, self.stop = run, start, stop
        self.log_samples, self.write = log_samples, write
        self.tracker_names = trackers
        self.waiting_since = self.loader_wait = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.write:
            for path in (self.run.metrics, self.run.samples):
                keep_steps(path, self.start)
            # Line buffering: a killed process leaves whole lines.
            self.metrics = self.run.metrics.open("a", buffering=1)
            self.samples = self.run.samples.open("a", buffering=1) if self.log_samples else None
            self.trackers = Trackers(self.tracker_names, self.run, self.start)
            self.bar = tqdm(total=self.stop, initial=self.start, desc=f"train {self.run.path.name}", unit="step")
        self.waiting_since = time.perf_counter()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.loader_wait = now - self.waiting_since

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, EmbeddingModule)
        if self.write:
            self._write_step(pl_module, time.perf_counter() - self.waiting_since)
        self.waiting_since = time.perf_counter()

    def _write_step(self, module: EmbeddingModule, seconds: float) -> None:
        facts = module.facts
        assert facts is not None
        line = asdict(facts)
        keys = line.pop("keys")
        line["grad_norm"] = module.grad_norm if math.isfinite(module.grad_norm) else None
        line["tokens_per_second"] = facts.tokens / seconds
        line["loader_wait_seconds"] = self.loader_wait
        line["loss_terms"] = module.loss_terms
        line = {"step": facts.step, "time": time.time(), **line}
        self.metrics.write(json.dumps(line) + "\n")
        if self.samples:
            self.samples.write(json.dumps({"step": facts.step, "dataset": facts.dataset, "ids": keys}) + "\n")
        self.trackers.log(line)
        self.bar.set_postfix_str(f"{facts.dataset} loss={facts.loss:.4f}", refresh=False)
        self.bar.update()

    def evaluated(self, line: Mapping[str, Any], words: str) -> None:
        """Pass on a line of evaluations.jsonl; the time that it took is not the step's after it. On rank 0."""
        self.trackers.log_scores(line)
        self.bar.clear()
        log.info("%s", words)
        self.bar.refresh()
        self.waiting_since = time.perf_counter()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        if trackers := getattr(self, "trackers", None):
            trackers.close(failed=not isinstance(exception, KeyboardInterrupt))
        self._close()  # ends the bar's line before the message

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._close()

    def _close(self) -> None:
        for name in ("metrics", "samples", "trackers", "bar"):
            if (file := getattr(self, name, None)) is not None:
                file.close()


def keep_steps(path: Path, last: int) -> None:
    """Leave only the whole lines of steps 1 to `last` in a JSON-lines file; one that does not exist stays away."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= last]
    if len(kept) < len(lines):
        write_atomic(path, "".join(kept))
