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
    check_negatives(readers, wanted)
    check_labels(readers, wanted)
    warn_of_idle_options(config, {name: wanted[name] for name in readers})


def check_labels(readers: Mapping[str, ShardReader], wanted: Mapping[str, Wanted]) -> None:
    """Raises InputError for a data set, learned by its labels, of whose samples no two, or all, have the same one, as
    far as all samples can be looked at."""
    for name, reader in readers.items():
        if getattr(OBJECTIVES.find(wanted[name].objective), "needs", None) != "label":
            continue
        count = min(len(reader), LOOKED_AT if reader.tars is None else LOOKED_AT_REMOTE)
        labels = Counter(str(sample.label) for sample in reader.spread(count) if not isinstance(sample, InputError))
        if labels and count == len(reader) and len(labels) in (1, labels.total()):
            raise InputError(
                f"data set {name}: its {count} samples have {len(labels)} label{'s' * (len(labels) > 1)} (as "
                f"{next(iter(labels))!r}), and objective={wanted[name].objective} wants several, with several samples "
                "each; prepare it with another fields.label"
            )


def check_negatives(readers: Mapping[str, ShardReader], wanted: Mapping[str, Wanted]) -> None:
    """Raises InputError for a data set without negatives where some are wanted, warns of samples that have fewer.

    Looks at up to `LOOKED_AT` evenly spaced samples of each data set, which takes a second or two.
    """
    for name, reader in readers.items():
        if not (num_negatives := wanted[name].num_negatives):
            continue
        count = min(len(reader), LOOKED_AT if reader.tars is None else LOOKED_AT_REMOTE)
        samples = reader.spread(count)  # a damaged one is left to the step that needs it
        numbers = [len(sample.negatives) for sample in samples if not isinstance(sample, InputError)]
        if numbers and not any(numbers):
            raise InputError(
                f"data set {name}: none of the {count} samples looked at has negatives, and objective="
                f"{wanted[name].objective or 'triplets'} needs some; prepare it with negatives, or use objective=pairs"
            )
        if short := sum(number < num_negatives for number in numbers):
            log.warning(
                "data set %s: %d of the %d samples looked at have fewer than num_negatives=%d negatives (the fewest: "
                "%d); some of theirs come more than once in a step (negatives_short in metrics.jsonl)",
                name, short, count, num_negatives, min(numbers),
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
