"""`jemb inspect` counts what a plain loop counts, and says where a run stands."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from jemb.config import InspectConfig, ModelConfig
from jemb.core.records import Sample
from jemb.inspect import inspect
from jemb.model import make_tiny
from jemb.run_folder import RunFolder
from jemb.shards import ShardWriter


def report(path: Path, **options: object) -> list[str]:
    return inspect(InspectConfig(path=str(path), **options)).splitlines()  # type: ignore[arg-type]


def line_of(lines: list[str], start: str) -> str:
    (line,) = [line for line in lines if line.strip().startswith(start)]
    return line


def write(folder: Path, name: str, pairs: list[tuple[str, str]]) -> None:
    with ShardWriter(folder / name, name, "pairs", 100) as writer:
        for number, (query, positive) in enumerate(pairs):
            writer.write(Sample(f"{number:03d}", query, positive))
        writer.close()


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


def test_duplicates_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    first = [("a", "b"), ("A  ", "b"), ("a", "c"), ("b", "a"), ("d", "e")]
    second = [("a", "b"), ("x", "c"), ("x", "y"), ("x", "y"), ("d", "q")]
    write(tmp_path, "first", first)
    write(tmp_path, "second", second)
    lines = report(tmp_path, duplicates=True, samples=0)
    within = [line.strip() for line in lines if "come again" in line]
    earlier = [line.strip() for line in lines if "in sets before" in line]

    def fold(pairs: list[tuple[str, str]]) -> dict[str, list[object]]:
        folded = [(query.strip().lower(), positive.strip().lower()) for query, positive in pairs]
        return {"samples": folded, "queries": [q for q, _ in folded], "positives": [p for _, p in folded]}  # type: ignore[dict-item]

    sets = [fold(first), fold(second)]
    for shown, texts in zip(within, sets, strict=True):
        wanted = {kind: sum(count - 1 for count in Counter(values).values()) for kind, values in texts.items()}
        assert shown.split("come again")[1].strip() == ", ".join(f"{n} {kind}" for kind, n in wanted.items())
    assert earlier[0].endswith("0 samples, 0 queries, 0 positives")
    wanted = {kind: len(set(sets[0][kind]) & set(sets[1][kind])) for kind in sets[0]}
    assert earlier[1].endswith(", ".join(f"{n} {kind}" for kind, n in wanted.items()))
    assert wanted == {"samples": 1, "queries": 2, "positives": 2}


def test_equal_shards_are_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path, name, [("a", "b"), ("c", "d")])
    write(tmp_path, "three", [("a", "z")])
    assert report(tmp_path)[-1] == "the same bytes: one/shard-000000.tar, two/shard-000000.tar"


def test_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "finished", last_step=time.time() - 10_000)
    run = make_run(tmp_path / "b", "running", last_step=time.time() - 600)
    lines = report(tmp_path)
    assert lines[0] == f"{tmp_path}/a: pairs, finished, step 3 of 9"
    killed = "killed, step 3 of 9 (no process holds it, though run.json says running), last alive 10 min ago"
    assert lines[1] == f"{tmp_path}/b: pairs, {killed}"
    lines = report(run.path)
    assert "  data set answers: 50 pairs, 100.0 % of the batches" in lines
    assert "  last 1 steps: loss 1.5000, 100 tokens/s" in lines
    assert "  checkpoints: none" in lines


def test_a_reader_who_has_seen_enough(pair_shards: Path) -> None:
    """A pipe that is closed before the report is written, as `| head` does with a longer one."""
    command = [sys.executable, "-m", "jemb.app.inspect", str(pair_shards), "samples=50"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
