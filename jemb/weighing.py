"""`jemb weigh`: which data sets move a model towards what a small held-out set asks for, and weights made of that.

A step on a data set lowers the dev loss, to first order, by the learning rate times the dot product of the two
gradients (gradient alignment: arXiv 1812.02224, section 3; LESS, arXiv 2402.04333). So for each data set a few batches
of the plan give a gradient each, by the objective of its kind, and so do a few batches of the dev files:

    alignment = mean over its batches b of cos( g_b, h ),   h the mean of the dev batches' gradients h_c

The cosine, as training clips gradients: what a batch changes does not depend on how long its gradient is. The interval
counts the noise of both sides: with m_bc = g_b . h_c / (|g_b| |h|), whose mean is the alignment, its variance is

    variance over b of (mean over c of m_bc) / B  +  variance over c of (mean over b of m_bc) / C

which on average is not too small (the part of single pairs b, c is in both terms), with Satterthwaite's degrees of
freedom for Student's t.

Before: `jemb prepare` made the shards, and `app/api.py` has it read the dev files. After: `jemb train` takes the file.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from jemb.config import ModelConfig, TrainConfig, WeighConfig
from jemb.core.errors import Failure, InputError
from jemb.core.files import write_atomic
from jemb.core.folders import make_way
from jemb.core.progress import Progress
from jemb.data.module import PairData
from jemb.data.permutation import mix
from jemb.data.wanted import some_samples
from jemb.distributed.processes import choose_device
from jemb.model import encode_together
from jemb.report import text_table
from jemb.shards import ShardReader
from jemb.train import EmbeddingModule
from jemb.train.build import make_encoder, make_module

log = logging.getLogger(__name__)

NUMBERS = 2**22
"""Numbers that are kept of a gradient. Of a longer one a count sketch, whose cosines are off by about 2^-11."""
LEVEL = 0.95
"""Confidence level of the intervals."""
FEWEST = 2
"""Batches without which there is no interval."""
BOUNDS = 0.1, 10.0
"""Of the weight of a data set that does not harm: a few batches do not see enough for more."""
HELPS, NOT_SHOWN, HARMS, TOO_SMALL = "helps", "not shown", "harms", "too small"


@dataclass(frozen=True, slots=True)
class Weighed:
    """A data set. alignment, -1 to 1, with its 95 % interval low to high, over so many batches; NaN without any.
    verdict: `helps` where the interval is above 0, `harms` where it is below, `not shown` where it holds 0, `too small`
    where two batches could not be drawn. weight: for `weights.NAME` of `jemb train`."""

    name: str
    num_samples: int
    batches: int
    alignment: float
    low: float
    high: float
    verdict: str
    weight: float = 1.0


def weigh(config: WeighConfig, dev: Path) -> list[Weighed]:
    """Weigh the data sets of `config.shards`, the most aligned first, and write `config.output`. dev: shards of the dev
    files. Raises InputError where either has too few samples for two batches, Failure for a gradient that is no number.
    """
    make_way(Path(config.output))
    size = config.batch_size
    run = TrainConfig(
        shards=config.shards, output="-", objective="auto", init=config.model, max_length=config.max_length,
        model=ModelConfig(trust_remote_code=config.trust_remote_code), temperature=config.temperature, seed=config.seed,
        global_batch_size=size, read_ahead=0, workers=0,
    )  # fmt: skip
    device = torch.device(choose_device(config.device))
    of_dev = PairData.of_run(replace(run, shards=str(dev))).found
    found = PairData.of_run(run).found
    if few := [f"{name} has {len(reader)}" for name, reader in of_dev.items() if len(reader) < FEWEST * size]:
        raise InputError(
            f"dev: {', '.join(few)} pairs; wanted {FEWEST * size} or more, for {FEWEST} batches of batch_size={size}: "
            "give more, or a smaller batch_size"
        )
    large = {name: reader for name, reader in found.items() if len(reader) >= FEWEST * size}
    small = [reader for name, reader in found.items() if name not in large]
    if small:
        sizes = ", ".join(f"{reader.manifest.name} ({len(reader)})" for reader in small)
        told = f"fewer than {FEWEST} batches of batch_size={size} in data set {sizes}"
        if not large:
            raise InputError(f"{told}: nothing to weigh; give a smaller batch_size")
        log.warning("not weighed: %s; their weight is 1", told)
    _warn_of_shared(of_dev, found)

    encoder = make_encoder(run, {**large, **of_dev})
    module = make_module(run, encoder, device, max_steps=1).to(device).eval()
    batches = {name: min(config.batches, len(reader) // size) for name, reader in large.items()}
    number = min(config.batches, *(len(reader) // size for reader in of_dev.values()))
    with Progress("weigh", sum(batches.values()) + number * len(of_dev), "gradient") as bar:
        by_file: dict[str, list[Tensor]] = {name: [] for name in of_dev}
        for name, gradient in _gradients(replace(run, shards=str(dev)), of_dev, module, dict.fromkeys(of_dev, number)):
            by_file[name].append(gradient)
            bar.update()
        # Each file counts alike: batch c is one of each.
        dev_CP = torch.stack([torch.stack(of_batch).mean(0) for of_batch in zip(*by_file.values(), strict=True)])
        dev_CP /= _norm(dev_CP.mean(0), "dev")
        rows: dict[str, list[Tensor]] = {name: [] for name in large}
        for name, gradient in _gradients(run, found, module, batches):
            rows[name].append(dev_CP @ gradient / _norm(gradient, f"data set {name}"))
            bar.update()
    weighed = [
        Weighed(name, len(large[name]), len(found_BC), *judged(torch.stack(found_BC).double().cpu().numpy()))
        for name, found_BC in rows.items()
    ]
    weighed.sort(key=lambda one: -one.alignment)
    weighed += [Weighed(r.manifest.name, len(r), 0, math.nan, math.nan, math.nan, TOO_SMALL) for r in small]
    weighed = with_weights(weighed)
    _warn_of_harm(weighed)
    write_atomic(Path(config.output), as_yaml(config, weighed))
    return weighed


def judged(products_BC: np.ndarray) -> tuple[float, float, float, str]:
    """(mean, its interval's ends, verdict) of m_bc for batches b of a data set and c of dev, at least 2 of each."""
    mean = float(products_BC.mean())
    parts = [(means.var(ddof=1) / len(means), len(means) - 1) for means in (products_BC.mean(1), products_BC.mean(0))]
    variance = sum(part for part, _ in parts)
    half = 0.0
    if variance > 0:
        freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
        half = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(variance))
    verdict = HELPS if mean - half > 0 else HARMS if mean + half < 0 else NOT_SHOWN
    return mean, max(-1.0, mean - half), min(1.0, mean + half), verdict


def with_weights(weighed: Sequence[Weighed]) -> list[Weighed]:
    """Weights in proportion to the alignment, so that their mean over the samples of all that were weighed is 1, then
    within `BOUNDS`; 0 for what harms, 1 for what was not weighed, and for all others where none has an alignment above
    0."""
    seen = [one for one in weighed if one.verdict != TOO_SMALL]
    total = sum(one.num_samples * max(0.0, one.alignment) for one in seen)
    mean = total / sum(one.num_samples for one in seen)

    def weight(one: Weighed) -> float:
        if one.verdict == HARMS:
            return 0.0
        if one.verdict == TOO_SMALL or not mean:
            return 1.0
        return float(f"{np.clip(one.alignment / mean, *BOUNDS):.3g}")

    return [replace(one, weight=weight(one)) for one in weighed]


def table(weighed: Sequence[Weighed]) -> str:
    """A line a data set, and the options of `jemb train` that its weights are."""
    rows = [("data set", "samples", "batches", "alignment", "95 % interval", "verdict", "weight")]
    for one in weighed:
        numbers = ("-", "-") if one.verdict == TOO_SMALL else (f"{one.alignment:.3f}", _interval(one))
        rows.append((one.name, f"{one.num_samples:,}", f"{one.batches}", *numbers, one.verdict, f"{one.weight:g}"))
    options = " ".join(shlex.quote(f"weights.{one.name}={one.weight:g}") for one in weighed)
    return f"{text_table(rows)}\n\njemb train … {options}"


def as_yaml(config: WeighConfig, weighed: Sequence[Weighed]) -> str:
    """Settings for `jemb train --config-dir=DIR experiment=NAME`, with what they rest on as comments."""
    lines = [
        "# @package _global_",
        f"# jemb weigh: {config.batches} batches of {config.batch_size}, seed {config.seed}.",
        "# As DIR/experiment/NAME.yaml: jemb train --config-dir=DIR experiment=NAME",
        "weights:",
    ]
    for one in weighed:
        said = one.verdict
        if one.verdict != TOO_SMALL:
            said += f", alignment {one.alignment:.3f} ({_interval(one)}) over {one.batches} batches"
        lines.append(f"  {json.dumps(one.name, ensure_ascii=False)}: {one.weight:g}  # {said}")
    return "\n".join([*lines, ""])


def _gradients(
    run: TrainConfig, readers: Mapping[str, ShardReader], module: EmbeddingModule, wanted: Mapping[str, int]
) -> Iterator[tuple[str, Tensor]]:
    """(data set, gradient [P] of one of its batches), for so many batches of each, as the plan of a run that draws all
    data sets alike has them."""
    weights = {name: 1 / len(reader) if name in wanted else 0.0 for name, reader in readers.items()}
    data = PairData.of_run(replace(run, weights=weights))
    data.encoder, data.steps = module.encoder, 2**40
    left = dict(wanted)
    for batch in data.train_dataloader():
        if left.get(batch.dataset):
            left[batch.dataset] -= 1
            module.zero_grad()
            moved = batch.to(module.device)
            vectors, _ = encode_together(module.encoder, moved.texts)
            module.loss_of(moved, vectors).total.backward()
            yield batch.dataset, flat_gradient(module, run.seed)
        if not any(left.values()):
            return


def flat_gradient(module: torch.nn.Module, seed: int) -> Tensor:
    """The gradient of all trained weights as one vector, fp32 [P], P at most `NUMBERS`.

    A longer one is folded by a count sketch: each number, with a random sign, is added to a random place. That keeps
    dot products on average, with an error of about |x| |y| / sqrt(NUMBERS); places and signs depend on the seed alone.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in trained]
    if sum(map(len, parts)) <= NUMBERS:
        return torch.cat(parts)
    folded = torch.zeros(NUMBERS, device=parts[0].device)
    for number, part in enumerate(parts):
        draw = torch.Generator().manual_seed(mix("sketch", seed, number) >> 1)
        places = torch.randint(2 * NUMBERS, (len(part),), generator=draw).to(part.device)
        folded.index_add_(0, places // 2, part * (2 * (places % 2) - 1))
    return folded


def _norm(gradient: Tensor, of: str) -> Tensor:
    norm = gradient.norm()
    if not math.isfinite(norm) or not norm:
        raise Failure(f"{of}: its gradient has the length {float(norm)}, so it has no direction; try another model")
    return norm


def _warn_of_shared(dev: Mapping[str, ShardReader], found: Mapping[str, ShardReader]) -> None:
    """Dev texts that are trained on speak for the data set they are in, not for its kind."""
    texts = [sample.texts for reader in dev.values() for sample in reader]
    wanted = {text for row in texts for text in row}
    told = []
    for name, reader in found.items():
        there = {text for sample in some_samples(reader) for text in sample.texts if text in wanted}
        if number := sum(not there.isdisjoint(row) for row in texts):
            told.append(f"{name} {number}")
    if told:
        log.warning(
            "dev: of %d samples so many have a text that is in the training data, too, which favours these data sets: "
            "%s; wanted held-out rows (the stage decontaminate of jemb prepare takes them out)",
            len(texts), ", ".join(told),
        )  # fmt: skip


def _warn_of_harm(weighed: Sequence[Weighed]) -> None:
    if harmful := [one.name for one in weighed if one.verdict == HARMS]:
        log.warning("training on %s raises the dev loss: weight 0, which leaves it out", ", ".join(harmful))
    if not any(one.verdict == HELPS for one in weighed):
        log.warning("of no data set it is shown that it helps: try more batches, other dev pairs or a trained model")


def _interval(one: Weighed) -> str:
    return f"{one.low:.3f} to {one.high:.3f}"
