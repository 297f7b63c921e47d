"""What is in the input folder, and its rows as samples.

Before: the user's files, through `formats.py`. After: `run.py` puts the samples through the stages.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jemb.config import FieldsConfig, suggest
from jemb.errors import InputError
from jemb.prepare.formats import READERS, Record, Unreadable, excerpt
from jemb.records import Sample

log = logging.getLogger(__name__)

FILE_ENDINGS = tuple(sorted((ending for ending in READERS if ending != ".tar"), key=len, reverse=True))
WANTED = "wanted NAME.jsonl, .jsonl.gz, .csv, .tsv or .parquet files, or folders of WebDataset tars"
OWN_FIELDS = ("query", "positive", "negatives")
"""Names that a sample itself uses in the shards; other fields of the source keep theirs."""


@dataclass(frozen=True, slots=True)
class Source:
    """One data set to be. format: an ending in `READERS`; paths: its files in the order they are read."""

    name: str
    format: str
    paths: tuple[Path, ...]


def find_sources(folder: Path, leave_out: Path | None = None) -> list[Source]:
    """The data sets in `folder` by name, or the one that a file or a folder of tars is.

    Hidden files and `leave_out` (the output, when it lies inside) are passed over; other kinds of file are named in a
    warning. Raises `InputError` for a missing path, nothing found, or two data sets of one name.
    """
    if not folder.exists():
        raise InputError(f"{folder}: no such file or folder; {WANTED}")
    if folder.is_file():
        source = _source(folder)
        if source is None:
            raise InputError(f"{folder}: unknown kind of file; {WANTED}")
        return [source]
    found: dict[str, Source] = {}
    ignored: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or (leave_out and path.resolve() == leave_out.resolve()):
            continue
        source = _source(path)
        if source is None:
            ignored.append(path.name)
        elif source.name in found:
            other = found[source.name].paths[0]
            raise InputError(f"{folder}: {path.name} and {other} would both be data set {source.name!r}; rename one")
        else:
            found[source.name] = source
    own = _source(folder)
    if own and not found:
        return [own]
    if ignored:
        log.warning("%s: ignored %s; %s", folder, ", ".join(ignored), WANTED)
    if not found:
        raise InputError(f"{folder}: no data set in it; {WANTED}")
    return list(found.values())


def _source(path: Path) -> Source | None:
    """The data set that `path` is, if it is one."""
    if path.is_dir():
        tars = sorted(tar for tar in path.glob("*.tar") if not tar.name.startswith("."))
        return Source(path.resolve().name, ".tar", tuple(tars)) if tars else None
    for ending in FILE_ENDINGS:
        name = path.name[: -len(ending)]
        if name and path.name.lower().endswith(ending):
            return Source(name, ending, (path,))
    return None


def read_rows(source: Source, fields: FieldsConfig) -> Iterator[Sample | Unreadable]:
    """Every row of `source` in order, as a sample or as unreadable. Its key is its number, from 0, in nine digits.

    Raises `InputError` at the end when no row at all has the field of the query or of the positive: a wrong name, not
    bad rows. Other fields are carried through as JSON (dates and the like as text), but for those named like a sample's
    own.
    """
    names: Counter[str] = Counter()
    number = -1
    for path in source.paths:
        for record in READERS[source.format](path):
            number += 1
            if isinstance(record, Record):
                names.update(record.fields.keys())
                yield _sample(record, number, fields)
            else:
                yield record
    for option in ("query", "positive"):
        name = getattr(fields, option)
        if names and name not in names:
            raise InputError(
                f"{source.paths[0]}: no row has the field {name!r} (fields.{option}){suggest(name, names)}; "
                f"fields there: {', '.join(name for name, _ in names.most_common(20))}; give fields.{option}=NAME"
            )
    for option in ("negative", "negatives"):
        name = getattr(fields, option)
        if names and name != option and name not in names:
            log.warning("%s: no row has the field %r (fields.%s)", source.paths[0], name, option)


def _sample(record: Record, number: int, fields: FieldsConfig) -> Sample | Unreadable:
    rest = dict(record.fields)
    try:
        query, positive = _text(rest, fields.query), _text(rest, fields.positive)
        negatives = _negatives(rest, fields)
        extra = {name: _plain(value) for name, value in rest.items() if name not in OWN_FIELDS}
        # Half a surrogate pair is legal in JSON and in nothing else: no file and no tokenizer takes it.
        for text in (query, positive, *negatives, json.dumps(extra, ensure_ascii=False) if extra else ""):
            text.encode()
    except UnicodeEncodeError:
        reason = "half a surrogate pair, which is no character"
    except RecursionError:
        return Unreadable(record.file, record.line, "a field is nested too deeply")
    except ValueError as error:
        reason = str(error)
    else:
        return Sample(f"{number:09d}", query, positive, negatives, extra)
    text = json.dumps(record.fields, ensure_ascii=False, default=str)
    return Unreadable(record.file, record.line, reason, excerpt(text))


def _text(fields: dict[str, Any], name: str) -> str:
    """Take a text out of `fields`."""
    if name not in fields:
        raise ValueError(f"field {name!r} is missing")
    value = fields.pop(name)
    if not isinstance(value, str):
        raise ValueError(f"field {name!r} is {_kind(value)}; wanted text")
    return value


def _negatives(rest: dict[str, Any], fields: FieldsConfig) -> tuple[str, ...]:
    """Take the hard negatives out of `rest`; a blank or null one is none."""
    one, many = rest.pop(fields.negative, None), rest.pop(fields.negatives, None)
    if isinstance(many, str):  # how a table holds a list
        many = _list(fields.negatives, many)
    if not isinstance(many, list | None):
        raise ValueError(f"field {fields.negatives!r} is {_kind(many)}; wanted a list of texts")
    negatives = [text for text in (one, *(many or ())) if text is not None]
    for text in negatives:
        if not isinstance(text, str):
            raise ValueError(f"a negative is {_kind(text)}; wanted text")
    return tuple(text for text in negatives if text.strip())


def _list(name: str, text: str) -> Any:
    if not text.strip():
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if not isinstance(value, list):
        raise ValueError(f"field {name!r} is text; wanted a JSON list of texts")
    return value


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it."""
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)


def _kind(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} ({excerpt(repr(value))[:40]})"
