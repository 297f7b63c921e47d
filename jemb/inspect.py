"""`jemb inspect`: what is in these shards, or how far this run has come, as text.

Reads what `shards/` and `train/` wrote; changes nothing, except that `index=true` adds index and manifest to tars.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np

from jemb.config import InspectConfig
from jemb.errors import InputError
from jemb.run_folder import RunFolder, is_run
from jemb.shards import ShardReader, adopt, open_datasets

LENGTH_SAMPLES = 1000
"""Samples of a data set, evenly spaced, from which the lengths are estimated."""


def inspect(config: InspectConfig) -> str:
    """The report to print. Raises InputError where there is nothing known, and with `verify` for the first damage."""
    path = Path(config.path)
    if not path.exists():
        raise InputError(f"path={path}: no such file or folder")
    if config.index:
        adopt(path)
    if is_run(path):
        return describe_run(RunFolder(path))
    readers = open_datasets(path)
    parts = [describe_dataset(reader, config.samples) for reader in readers.values()]
    if config.verify:
        for reader in readers.values():
            reader.verify()
        parts.append(
            f"verified: all {sum(map(len, readers.values())):,} samples read, all checksums as in the manifests"
        )
    return "\n\n".join(parts)


def describe_dataset(reader: ShardReader, num_samples: int) -> str:
    """Counts, the funnel that made it, lengths in characters, and its first samples."""
    manifest = reader.manifest
    lines = [
        f"{manifest.name}: {manifest.num_samples:,} {manifest.kind} in {len(manifest.shards)} shards, "
        f"{manifest.bytes / 1e6:,.1f} MB ({reader.folder})",
        f"  fingerprint  {manifest.fingerprint[:16]}…",
    ]
    for stage in manifest.stages:
        drops = ", ".join(f"{reason} {count:,}" for reason, count in stage.dropped.items() if count) or "nothing"
        lines.append(f"  {stage.name:<16} kept {stage.kept:>12,}   dropped {drops}")
    rows = np.linspace(0, len(reader) - 1, min(len(reader), LENGTH_SAMPLES)).astype(int)
    samples = [reader.read(int(row)) for row in rows]
    for name in ("query", "positive"):
        lengths = np.percentile([len(getattr(sample, name)) for sample in samples], [5, 50, 95])
        lines.append(
            f"  {name + ' length':<16} {lengths[0]:,.0f} / {lengths[1]:,.0f} / {lengths[2]:,.0f} characters "
            "(5 %, median, 95 %)"
        )
    for row in range(min(num_samples, len(reader))):
        sample = reader.read(row)
        lines.append(f"  {sample.key}  query:    {_short(sample.query)}")
        lines.append(f"  {' ' * len(sample.key)}  positive: {_short(sample.positive)}")
        lines += [f"  {' ' * len(sample.key)}  negative: {_short(text)}" for text in sample.negatives]
    return "\n".join(lines)


def describe_run(run: RunFolder) -> str:
    """Objective, data, progress, the latest loss and scores."""
    record, metrics = run.read_record(), run.read_metrics()
    steps = metrics[-1]["step"] if metrics else 0
    lines = [f"{run.path}: {record['objective']}, {record['status']}, step {steps} of {record['max_steps']}"]
    for name, data in record["datasets"].items():
        lines.append(
            f"  data set {name}: {data['num_samples']:,} {data['kind']}, {100 * data['share']:.1f} % of the batches"
        )
    for start in record["starts"]:
        when = datetime.datetime.fromtimestamp(start["time"]).isoformat(" ", "seconds")
        lines.append(f"  started {when} after step {start['step']}: {start['world_size']} x {start['device']}")
    if metrics:
        last = metrics[-20:]
        loss = np.mean([line["loss"] for line in last])
        rate = np.median([line["tokens_per_second"] for line in last])
        lines.append(f"  last {len(last)} steps: loss {loss:.4f}, {rate:,.0f} tokens/s")
    lines.append(f"  checkpoints: {', '.join(str(step) for step, _ in run.checkpoints()) or 'none'}")
    if run.scores.exists():
        for task, scores in json.loads(run.scores.read_text()).items():
            lines.append(f"  {task}: " + ", ".join(f"{name} {value:.2f}" for name, value in scores.items()))
    return "\n".join(lines)


def _short(text: str, width: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
