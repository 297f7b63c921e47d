"""What a step of each data set has to hold: how many texts of a sample, and what was said of them, as its objective
takes it; and whether the data set has that.

Before: the data sets are opened. After: `collate.py` makes batches, of which the module knows by which objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jemb.core.errors import InputError
from jemb.shards import Manifest, ShardReader
from jemb.shards.teacher import FIELD, TeacherVectors

PLAIN = ("pairs", "triplets")
"""Objectives that take each positive for a right answer."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """objective: its name, "" where the module has but one. num_negatives, num_positives: of each sample. alone: the
    query is all there is. fields: those of the manifest, which say what else the batches carry. unused: in words, what
    the data set has and the objective does not take. lacks_negatives: it has none of those wanted."""

    objective: str = ""
    num_negatives: int = 0
    num_positives: int = 1
    alone: bool = False
    fields: tuple[str, ...] = ()
    unused: str = ""
    lacks_negatives: bool = False


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
    lacks = bool(number) and kind == "pairs" and name != "distill"
    if needs != "teacher":
        fields = tuple(field for field in fields if field != "teacher")
    return Wanted(name, number, num_positives if "positives" in fields else 1, alone, fields, unused, lacks)


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
