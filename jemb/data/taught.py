"""The teachers of data sets whose objective learns from a teacher's vectors.

Before: `wanted.py` says which these are. After: `collate.py` takes the vectors of a batch's texts.
"""

from __future__ import annotations

from collections.abc import Mapping

from jemb.core.errors import InputError
from jemb.data.wanted import Wanted
from jemb.shards import ShardReader
from jemb.shards.teacher import FIELD, TeacherVectors


def open_teachers(readers: Mapping[str, ShardReader], wanted: Mapping[str, Wanted]) -> dict[str, TeacherVectors]:
    """By data set. Raises InputError for vectors that are not there, or behind a URL, or of several teachers."""
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
