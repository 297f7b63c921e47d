"""`jemb inspect`: what is in these shards, or how far these runs have come, as text.

Reads what `shards/` and `train/` wrote; changes nothing, except that `index=true` adds index and manifest to tars.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np

from jemb.config import InspectConfig
from jemb.core.errors import InputError
from jemb.core.records import Sample
from jemb.public import for_terminal, without_places, without_secrets
from jemb.run_folder import RunFolder, is_run
from jemb.shards import ShardReader, adopt, open_datasets
from jemb.tables.places import is_url, to_local

LENGTH_SAMPLES = 1000
"""Samples of a data set, evenly spaced, from which the lengths are estimated."""

Lengths = Callable[[Sequence[str]], np.ndarray]
"""Texts -> their lengths in tokens."""


def inspect(config: InspectConfig) -> str:
    """The report to print. Raises InputError where there is nothing known, and with `verify` for the first damage."""
    if is_url(place := to_local(config.path)):
        if config.index:
            raise InputError(f"path={config.path}: index=true adds files to a folder; wanted one on this machine")
    else:
        path = Path(place).expanduser()
        if not path.exists():
            raise InputError(f"path={path}: no such file or folder")
        if config.index:
            adopt(path)
        if is_run(path):
            return describe_run(RunFolder(path))
        if path.is_dir() and (runs := [RunFolder(inner) for inner in sorted(path.iterdir()) if is_run(inner)]):
            return "\n".join(summary_of(run) for run in runs)
    readers = open_datasets(config.path, whole_shards=False)
    tokens = None if config.tokenizer is None else _token_lengths(config.tokenizer)
    parts = [describe_dataset(reader, config.samples, tokens=tokens) for reader in readers.values()]
    if config.verify:
        for reader in readers.values():
            reader.verify()
        parts.append(
            f"verified: all {sum(map(len, readers.values())):,} samples read, all checksums as in the manifests"
        )
    return "\n\n".join(parts)


def describe_dataset(reader: ShardReader, num_samples: int, *, tokens: Lengths | None = None) -> str:
    """Counts, the funnel that made it, lengths, and its first samples."""
    manifest = reader.manifest
    more = f" (with {', '.join(manifest.fields)})" if manifest.fields else ""
    lines = [
        f"{manifest.name}: {manifest.num_samples:,} {manifest.kind}{more} "
        f"in {len(manifest.shards)} shards, {manifest.bytes / 1e6:,.1f} MB "
        f"({without_secrets(reader.tars.url) if reader.tars else reader.folder})",
        f"  fingerprint  {manifest.fingerprint[:16]}…",
    ]
    for stage in manifest.stages:
        drops = ", ".join(f"{reason} {count:,}" for reason, count in stage.dropped.items() if count) or "nothing"
        lines.append(f"  {stage.name:<16} kept {stage.kept:>12,}   dropped {drops}")
    lines += [f"  {file.file:<20} {file.bytes / 1e6:,.1f} MB" for file in manifest.files]
    rows = np.linspace(0, len(reader) - 1, min(len(reader), LENGTH_SAMPLES)).astype(int)
    lines += _lengths([reader.read(int(row)) for row in rows], tokens)
    for row in range(min(num_samples, len(reader))):
        sample = reader.read(row)
        lines.append(f"  {sample.key}  query:    {_short(sample.query)}")
        sides = [("positive", text) for text in sample.positives] + [("negative", text) for text in sample.negatives]
        known = {"score": sample.score, "label": sample.label, "scores": sample.scores or None}
        sides += [(name, str(value)) for name, value in known.items() if value is not None]
        lines += [f"  {' ' * len(sample.key)}  {name + ':':<9} {_short(text)}" for name, text in sides]
    return "\n".join(lines)


def describe_run(run: RunFolder) -> str:
    """Objective, data, progress, the latest loss, evaluations and scores."""
    record, metrics = run.read_record("datasets", "starts"), run.read_metrics()
    lines = [summary_of(run)]
    if source := record.get("started_from"):
        lines.append(f"  started from {source}")
    for name, data in record["datasets"].items():
        lines.append(
            f"  data set {name}: {data.get('num_samples', 0):,} {data.get('kind', '?')}, "
            f"{100 * data.get('share', 0):.1f} % of the batches"
        )
    for start in record["starts"]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(start.get("time", 0)))
        where = f"{start.get('world_size', '?')} x {start.get('device', '?')}"
        lines.append(f"  started {when} after step {start.get('step', '?')}: {where}")
    if metrics:
        last = metrics[-20:]
        loss = np.mean([line.get("loss") or np.nan for line in last])
        rate = np.median([line.get("tokens_per_second") or np.nan for line in last])
        lines.append(f"  last {len(last)} steps: loss {loss:.4f}, {rate:,.0f} tokens/s")
    lines.append(f"  checkpoints: {', '.join(str(step) for step, _ in run.checkpoints()) or 'none'}")
    for evaluation in run.read_evaluations()[-3:]:
        lines.append(f"  evaluated after step {evaluation['step']}: {evaluation.get('value') or math.nan:.2f}")
    for task, scores in run.read_scores().items():
        lines.append(f"  {without_places(task)}: " + ", ".join(f"{name} {value:.2f}" for name, value in scores.items()))
    return "\n".join(lines)


def summary_of(run: RunFolder) -> str:
    """One line: objective, status, how far it has come; of one that is not finished also since when it stands there."""
    record, metrics, status = run.read_record("objective", "status", "max_steps"), run.read_metrics(), run.status()
    steps = metrics[-1]["step"] if metrics else 0
    line = f"{run.path}: {record['objective']}, {status}, step {steps} of {record['max_steps']}"
    if status == "killed":
        line += f" (no process holds it, though {run.record.name} says running)"
    if status != "finished":
        line += f", last alive {timedelta(seconds=round(time.time() - run.last_alive()))} ago"
    return line


def _token_lengths(name: str) -> Lengths:
    """Of the tokenizer of a run (finished or not), a model folder or a Hub name."""
    from jemb.model import Tokenize, load_encoder  # seconds to import

    path = Path(name).expanduser()
    encoder = load_encoder(str(RunFolder(path).start) if is_run(path) else name)
    tokenize = Tokenize(encoder.tokenizer, max_length=10**6)
    return lambda texts: tokenize(texts).lengths


def _lengths(samples: Sequence[Sample], tokens: Lengths | None) -> list[str]:
    """A line for each kind of text and unit, from these samples."""
    sides = {"query": [sample.query for sample in samples]}
    sides["positive"] = [text for sample in samples for text in sample.positives]
    if negatives := [text for sample in samples for text in sample.negatives]:
        sides["negative"] = negatives
    lines = []
    for name, texts in sides.items():
        units = {"characters": np.array([len(text) for text in texts])}
        if tokens:
            units["tokens"] = tokens(texts)
        for unit, lengths in units.items():
            low, middle, high = np.percentile(lengths, [5, 50, 95])
            lines.append(
                f"  {name + ' length':<16} {low:,.0f} / {middle:,.0f} / {high:,.0f} {unit} (5 %, median, 95 %), "
                f"longest {lengths.max():,}"
            )
    return lines


def _short(text: str, width: int = 100) -> str:
    text = for_terminal(" ".join(text.split()))
    return text if len(text) <= width else text[: width - 1] + "…"
