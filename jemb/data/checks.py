"""What is looked at before the first step: whether the data sets have the negatives and labels wanted, the options do
something, and the cache has room.

Before: the data sets are opened. After: `module.py` and `jemb train` read them.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping

from jemb.config import TrainConfig
from jemb.core.errors import InputError
from jemb.core.records import Sample
from jemb.data.wanted import Wanted
from jemb.registry import OBJECTIVES
from jemb.shards import ShardReader

log = logging.getLogger(__name__)

LOOKED_AT = 200_000
"""Samples of a data set whose negatives are counted before the first step."""
LOOKED_AT_REMOTE = 2_000
"""The same where each may be a request."""


def check_data(config: TrainConfig, readers: Mapping[str, ShardReader], wanted: Mapping[str, Wanted]) -> None:
    """Raises InputError for data that cannot be learned from, warns of what does nothing."""
    for name, reader in readers.items():
        check_samples(reader, wanted[name])
    warn_of_idle_options(config, {name: wanted[name] for name in readers})


def some_samples(reader: ShardReader) -> list[Sample]:
    """Up to `LOOKED_AT` evenly spaced samples, which takes a second or two. A damaged one is left to the step that
    needs it."""
    count = min(len(reader), LOOKED_AT if reader.tars is None else LOOKED_AT_REMOTE)
    return [sample for sample in reader.spread(count) if isinstance(sample, Sample)]


def check_samples(reader: ShardReader, wanted: Wanted) -> None:
    """Raises InputError for a data set without negatives where some are wanted, and for one that is learned by its
    labels where no two samples, or all, have the same one, as far as all can be looked at. Warns of samples that have
    fewer negatives than are wanted."""
    name, number = reader.manifest.name, wanted.num_negatives
    by_labels = getattr(OBJECTIVES.find(wanted.objective), "needs", None) == "label"
    if not (number or by_labels) or not (samples := some_samples(reader)):
        return
    labels = Counter(str(sample.label) for sample in samples)
    if by_labels and len(samples) == len(reader) and len(labels) in (1, len(samples)):
        raise InputError(
            f"data set {name}: its {len(samples)} samples have {len(labels)} label{'s' * (len(labels) > 1)} (as "
            f"{next(iter(labels))!r}), and objective={wanted.objective} wants several, with several samples each; "
            "prepare it with another fields.label"
        )
    fewest = min(len(sample.negatives) for sample in samples)
    if number and not any(sample.negatives for sample in samples):
        raise InputError(
            f"data set {name}: none of the {len(samples)} samples looked at has negatives, and objective="
            f"{wanted.objective or 'triplets'} needs some; prepare it with negatives, or use objective=pairs"
        )
    if fewest < number:
        log.warning(
            "data set %s: %d of the %d samples looked at have fewer than num_negatives=%d negatives (the fewest: "
            "%d); some of theirs come more than once in a step (negatives_short in metrics.jsonl)",
            name, sum(len(sample.negatives) < number for sample in samples), len(samples), number, fewest,
        )  # fmt: skip


def warn_of_idle_options(config: TrainConfig, wanted: Mapping[str, Wanted]) -> None:
    """Says which options of the loss do nothing for the data sets that there are."""
    objectives = sorted({each.objective for each in wanted.values()})
    taken = set[str]().union(*(OBJECTIVES.takes(name) for name in objectives))
    idle = [name for name in config.given_to_losses if name not in taken]
    idle += [f"objective_options.{name}" for name in config.objective_options if name not in taken]
    if config.num_negatives > 1 and not any(each.num_negatives for each in wanted.values()):
        idle.append("num_negatives")
    if idle:
        log.warning("%s: not used, as %s does not take it", ", ".join(idle), " or ".join(objectives))
    if config.num_positives > 1 and not any(each.num_positives > 1 for each in wanted.values()):
        log.warning("num_positives=%d: not used, as no row has `positives`", config.num_positives)


def needed_at_once(readers: Mapping[str, ShardReader], number: int | None, batch: int) -> tuple[int, str]:
    """(bytes of the shards that a batch of any data set may need, at most; what to do where that is too much). number:
    `shuffle_shards`."""
    total = 0
    for reader in readers.values():
        sizes = sorted((shard.bytes for shard in reader.manifest.shards), reverse=True)
        if number:
            # At the border of two passes: the window that ends, and those among whose first samples some change places.
            window = number * len(reader) / len(sizes)
            sizes = sizes[: number * (2 + math.ceil(2 * batch / window))]
        total += sum(sizes)
    if number:
        return total, f"give more, or use a smaller shuffle_shards than {number}, or smaller shards"
    return total, (
        "without shuffle_shards that is all of them, since any sample may come next: give more, or use "
        "shuffle_shards=N, with which about 3 N of each data set are enough"
    )
