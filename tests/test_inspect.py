"""`jemb inspect` counts what a plain loop counts, and says where a run stands."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from jemb.config import InspectConfig, ModelConfig
from jemb.inspect import inspect
from jemb.model import make_tiny
from jemb.run_folder import RunFolder


def report(path: Path, **options: object) -> list[str]:
    return inspect(InspectConfig(path=str(path), **options)).splitlines()  # type: ignore[arg-type]


def line_of(lines: list[str], start: str) -> str:
    (line,) = [line for line in lines if line.strip().startswith(start)]
    return line


def make_run(folder: Path, status: str, *, last_step: float) -> RunFolder:
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    run.config.write_text("objective: pairs\n")
    data = {"answers": {"num_samples": 50, "kind": "pairs", "share": 1.0}}
    starts = [{"time": last_step - 5, "step": 0, "world_size": 2, "device": "cpu"}]
    record = {"objective": "pairs", "status": status, "max_steps": 9, "datasets": data, "starts": starts}
    run.record.write_text(json.dumps(record))
    run.metrics.write_text(json.dumps({"step": 3, "time": last_step, "loss": 1.5, "tokens_per_second": 100}) + "\n")
    return run


def test_counts_lengths_and_samples(pair_shards: Path) -> None:
    lines = report(pair_shards, samples=2)
    assert any(line.startswith("answers: 50 pairs in 4 shards") for line in lines)
    assert sum("query:" in line for line in lines) == 4
    assert sum("query length" in line for line in lines) == 2


def test_lengths_in_tokens_are_the_tokenizers(triplet_shards: Path, tmp_path: Path) -> None:
    shape = ModelConfig(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2)
    tiny = make_tiny(["amber birch cedar no"], shape, seed=0, max_length=4)
    tiny.save(tmp_path)
    lines = report(triplet_shards, tokenizer=str(tmp_path), samples=40)
    for side in ("query", "positive", "negative"):
        texts = [line.partition(f"{side}:")[2].strip() for line in lines if f"{side}:" in line]
        counts = [len(tiny.tokenizer(text)["input_ids"]) for text in texts]
        assert max(counts) > 4, "or the model's limit is not seen to be ignored"
        low, middle, high = np.percentile(counts, [5, 50, 95])
        shown = next(line for line in lines if f"{side} length" in line and "tokens" in line)
        assert shown.split("length")[1].split("tokens")[0].strip() == f"{low:,.0f} / {middle:,.0f} / {high:,.0f}"
        assert shown.endswith(f"longest {max(counts)}")


def test_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "finished", last_step=time.time() - 10_000)
    run = make_run(tmp_path / "b", "running", last_step=time.time() - 600)
    lines = report(tmp_path)
    assert lines[0] == f"{tmp_path}/a: pairs, finished, step 3 of 9"
    killed = "killed, step 3 of 9 (no process holds it, though run.json says running), last alive 0:10:00 ago"
    assert lines[1] == f"{tmp_path}/b: pairs, {killed}"
    lines = report(run.path)
    assert "  data set answers: 50 pairs, 100.0 % of the batches" in lines
    assert "  last 1 steps: loss 1.5000, 100 tokens/s" in lines
    assert "  checkpoints: none" in lines


def test_a_reader_who_has_seen_enough(pair_shards: Path) -> None:
    """A pipe that is closed before the report is written, as `| head` does with a longer one."""
    command = [sys.executable, "-m", "jemb.app.cli", "inspect", str(pair_shards), "samples=50"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
