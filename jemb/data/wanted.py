"""What a step of each data set has to hold: how many texts of a sample, and what was said of them, as its objective
takes it; and what is looked at before the first step: whether the data sets have that, the options do something, and
the cache has room.

Before: the data sets are opened. After: `collate.py` makes batches, of which the module knows by which objective.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jemb.config import TrainConfig
from jemb.core.errors import InputError
from jemb.core.records import Sample
from jemb.registry import OBJECTIVES
from jemb.shards import Manifest, ShardReader
from jemb.shards.teacher import FIELD, TeacherVectors

log = logging.getLogger(__name__)

PLAIN = ("pairs", "triplets")
"""Objectives that take each positive for a right answer."""
LOOKED_AT = 200_000
"""Samples of a data set whose negatives are counted before the first step."""
LOOKED_AT_REMOTE = 2_000
"""The same where each may be a request."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """objective: its name, "" where the module has but one. num_negatives, num_positives: of each sample. alone: the
    query is all there is. fields: those of the manifest, which say what else the batches carry. unused: in words, what
    the data set has and the objective does not take."""

    objective: str = ""
    num_negatives: int = 0
    num_positives: int = 1
    alone: bool = False
    fields: tuple[str, ...] = ()
    unused: str = ""


def wanted_of(
    manifest: Manifest, place: str, name: str, objective: Any, chosen: bool, num_negatives: int, num_positives: int
) -> Wanted:
    """name: of the objective; objective: it, or its class, or None where it is not known, and then negatives are taken
    as they are asked for. chosen: it was named for this data set alone. Raises InputError where it wants what the data
    set lacks, or would take for right answers what is none."""
    kind, fields = manifest.kind, manifest.fields
    at = f"data set {manifest.name} in {place} is of kind {kind}"
    alone = kind == "labelled" and "positive" not in fields
    needs, takes_negatives = getattr(objective, "needs", None), getattr(objective, "negatives", False)
    if needs == "teacher" and needs not in fields:
        raise InputError(
            f"objective={name} needs the vectors of a teacher, but data set {manifest.name} in {place} has none: "
            "prepare it with the stage teacher (teacher.model=…)"
        )
    if needs and needs not in fields:
        raise InputError(
            f"objective={name} needs a {needs!r} of each sample, but {at}: prepare it from rows with that field "
            f"(fields.{needs}=NAME), or use objective=auto, which goes by the kind"
        )
    contrastive = getattr(getattr(objective, "objective", None), "contrastive", 0)  # of `teach`, once it is made
    if (name in PLAIN or contrastive) and kind in ("scored", "labelled") and (alone or not chosen):
        more = "" if alone else f", or objectives.{manifest.name}={name}, if all its positives are right answers"
        with_pairs = f" with objective_options.contrastive={contrastive}" if contrastive else ""
        raise InputError(
            f"objective={name}{with_pairs} would take every positive for a right answer, but {at}: use "
            f"objective=auto, or objectives.{manifest.name}={kind}{more}"
        )
    number = num_negatives if takes_negatives or objective is None else 0
    unused = ""
    if objective is not None and not takes_negatives and kind == "triplets" and not needs:
        unused = f"objective={name}: the hard negatives of {manifest.name} are not used; triplets uses them"
    elif objective is not None and kind == "distill" and not needs:
        negatives = "" if takes_negatives else ", nor are hard negatives where there are some"
        unused = f"objective={name}: the teacher's scores of {manifest.name} are not used{negatives}; distill uses them"
    if number and kind == "pairs" and name != "distill":
        raise InputError(
            f"{f'objective={name}' if name else 'the objective'} needs hard negatives, but {manifest.name} in {place} "
            "has pairs only: use objective=pairs, or prepare it from rows with `negatives`"
        )
    if needs != "teacher":
        fields = tuple(field for field in fields if field != "teacher")
    return Wanted(name, number, num_positives if "positives" in fields else 1, alone, fields, unused)


def open_teachers(readers: Mapping[str, ShardReader], wanted: Mapping[str, Wanted]) -> dict[str, TeacherVectors]:
    """The vectors of the data sets whose objective learns from a teacher's. Raises InputError for vectors that are not
    there, or behind a URL, or of several teachers."""
    found: dict[str, TeacherVectors] = {}
    for name in (name for name in readers if FIELD in wanted[name].fields):
        reader = readers[name]
        if reader.tars:
            raise InputError(
                f"data set {name} is at {reader.tars.url}: the vectors of its teacher are mapped into memory, not "
                "fetched; copy the data set to a folder"
            )
        found[name] = TeacherVectors(reader.folder, reader.manifest)
        first, one = next(iter(found.items()))
        if (one.width, one.made_with) != (found[name].width, found[name].made_with):
            raise InputError(
                f"data sets {first} and {name} have the vectors of different teachers ({one.made_with}, "
                f"{found[name].made_with}); wanted one teacher in a run"
            )
    return found


def check_data(config: TrainConfig, readers: Mapping[str, ShardReader], wanted: Mapping[str, Wanted]) -> None:
    """Raises InputError for data that cannot be learned from, warns of what does nothing."""
    for name, reader in readers.items():
        check_samples(reader, wanted[name])
    warn_of_idle_options(config, {name: wanted[name] for name in readers})


def some_samples(reader: ShardReader) -> Iterator[Sample]:
    """Up to `LOOKED_AT` evenly spaced samples, which takes a second or two. A damaged one is left to the step that
    needs it."""
    count = min(len(reader), LOOKED_AT if reader.tars is None else LOOKED_AT_REMOTE)
    return (sample for sample in reader.spread(count) if isinstance(sample, Sample))


def check_samples(reader: ShardReader, wanted: Wanted) -> None:
    """Raises InputError for a data set without negatives where some are wanted, and for one that is learned by its
    labels where no two samples, or all, have the same one, as far as all can be looked at. Warns of samples that have
    fewer negatives than are wanted."""
    name, number = reader.manifest.name, wanted.num_negatives
    by_labels = getattr(OBJECTIVES.find(wanted.objective), "needs", None) == "label"
    if not (number or by_labels):
        return
    seen = [(str(sample.label), len(sample.negatives)) for sample in some_samples(reader)]
    labels, negatives = Counter(label for label, _ in seen), [count for _, count in seen]
    if by_labels and len(seen) == len(reader) and len(labels) in (1, len(seen)):
        raise InputError(
            f"data set {name}: its {len(seen)} samples have {len(labels)} label{'s' * (len(labels) > 1)} (as "
            f"{next(iter(labels))!r}), and objective={wanted.objective} wants several, with several samples each; "
            "prepare it with another fields.label"
        )
    if number and seen and not any(negatives):
        raise InputError(
            f"data set {name}: none of the {len(seen)} samples looked at has negatives, and objective="
            f"{wanted.objective or 'triplets'} needs some; prepare it with negatives, or use objective=pairs"
        )
    if short := sum(count < number for count in negatives):
        log.warning(
            "data set %s: %d of the %d samples looked at have fewer than num_negatives=%d negatives (the fewest: "
            "%d); some of theirs come more than once in a step (negatives_short in metrics.jsonl)",
            name, short, len(seen), number, min(negatives),
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
