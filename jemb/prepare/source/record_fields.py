"""From the fields of a record to a row: the texts that were asked for, and everything else as extra fields.

Before: `jemb.tables` has the record. After: `parts.py` gives the row. What is wrong with a record is a `ValueError`.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from jemb.core.text import normalise
from jemb.prepare.options import FIELD_OPTIONS, FieldsConfig
from jemb.tables.records import NotText, excerpt

OWN_FIELDS = ("query", "positive", "negatives")
"""Names that a sample itself uses in the shards; other fields of the source keep theirs."""
SUPERVISION = ("positives", "score", "label", "scores")
"""Options of the fields that say more than which text belongs to which."""
MAX_DEPTH = 100
"""Of lists and objects in each other in an extra field."""


class Row(NamedTuple):
    """One sample to be, as `PIECE_SCHEMA` has it. number: of its record in the part, from 0; extra: further fields as
    JSON, "" for none; label: as JSON; the others as of a `Sample`."""

    number: int
    query: str
    positive: str
    negatives: tuple[str, ...]
    extra: str
    more_positives: tuple[str, ...] = ()
    score: float | None = None
    label: str | None = None
    scores: tuple[float | None, ...] = ()


class Converter:
    """From the fields of a record to a row; raises `ValueError` saying what is wrong with it."""

    def __init__(self, fields: FieldsConfig, constants: Mapping[str, str], *, documents: bool = False) -> None:
        self.missing_query = "" if documents else None
        self.query, self.positive = fields.query, fields.positive
        self.negative, self.negatives = fields.negative, fields.negatives
        self.fields, self.constants = fields, dict(constants)
        # What takes a name of its own in the shards; where it is not looked for, the source's field keeps its name.
        own = {option for option in FIELD_OPTIONS if getattr(fields, option) and option != "negative"}
        self.known = {*own, *OWN_FIELDS, *(getattr(fields, option) for option in FIELD_OPTIONS)} - {None}
        self.more = {getattr(fields, option) for option in SUPERVISION} - {None}

    def __call__(self, number: int, record: dict[str, Any]) -> Row:
        query: Any = record.get(self.query)
        positive: Any = record.get(self.positive)
        if query is None:
            query = self.missing_query
        one, many = record.get(self.negative), record.get(self.negatives)
        if isinstance(one, list):
            raise ValueError(
                f"field {self.negative!r} is {_kind(one)}; wanted a text. Lists: fields.negatives={self.negative} "
                "fields.negative=none"
            )
        negatives = () if one is None and many is None else _texts(self.negatives, many, "a negative", one)
        more: dict[str, Any] = {}
        if not self.more.isdisjoint(record):
            positive, more = self._more(record, query, positive, len(negatives))
        for name, value in ((self.query, query), (self.positive, positive)):
            if not isinstance(value, str):
                raise ValueError(f"field {name!r} is {_kind(value) if name in record else 'missing'}; wanted text")
            check_text(value)
        extra: dict[str, Any] = {}
        if not record.keys() <= self.known:
            extra = {
                check_text(name): plain(value)
                for name, value in record.items()
                if name not in self.known and not isinstance(value, NotText)
            }
        if self.constants:
            extra |= self.constants
        return Row(number, query, positive, negatives, _compact(extra) if extra else "", **more)

    def _more(self, record: dict[str, Any], query: Any, positive: Any, negatives: int) -> tuple[Any, dict[str, Any]]:
        """(the first positive, what else the row has)."""
        names = self.fields
        given = {option: record.get(name) for option in SUPERVISION if (name := getattr(names, option))}
        # As a table has an empty cell.
        given = {option: None if value == "" else value for option, value in given.items()}
        positives = _texts(names.positives, given.get("positives"), f"one of {names.positives!r}")
        first = (positive,) if isinstance(positive, str) and (positive.strip() or not positives) else ()
        positives = tuple(dict.fromkeys((*first, *positives)))
        label = given.get("label")
        if label is not None and (not isinstance(label, int | str) or isinstance(label, bool)):
            raise ValueError(f"field {names.label!r} is {_kind(label)}; wanted a whole number or a text")
        if label is not None and not any(map(str.strip, positives)) and isinstance(positive, str | None):
            positives = (query,)  # also where the cell of a table is empty
        more: dict[str, Any] = {"more_positives": positives[1:]}
        if label is not None:
            more["label"] = _compact(check_text(label) if isinstance(label, str) else label)
        if (score := given.get("score")) is not None:
            more["score"] = _number(names.score, score)
        if (scores := given.get("scores")) is not None:
            items = _list(names.scores, scores) if isinstance(scores, str) else scores
            answers = len(positives) + negatives
            if not isinstance(items, list) or len(items) != answers:
                seen = f"a list of {len(items)}" if isinstance(items, list) else _kind(scores)
                raise ValueError(
                    f"field {names.scores!r} is {seen}; wanted a number, or null, for each of {answers} answers, "
                    "blank texts and repeated positives not counted"
                )
            more["scores"] = tuple(None if item is None else _number(names.scores, item) for item in items)
        elif len(positives) > 1 and isinstance(query, str):
            # One that repeats the query goes alone; as the first it would take the row along.
            said = normalise(query)
            positives = tuple(sorted(positives, key=lambda text: normalise(text) == said))
            more["more_positives"] = positives[1:]
        return positives[0] if positives else positive, more


def _texts(name: str | None, value: Any, what: str, *others: Any) -> tuple[str, ...]:
    """The texts of a field and others that belong to them; a blank or null one is none. what: one of them in words."""
    if isinstance(value, str):  # how a table holds a list
        value = _list(name, value)
    if not isinstance(value, list | None):
        raise ValueError(f"field {name!r} is {_kind(value)}; wanted a list of texts")
    texts = [text for text in (*others, *(value or ())) if text is not None]
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{what} is {_kind(text)}; wanted text")
        check_text(text)
    return tuple(text for text in texts if text.strip())


def _number(name: str | None, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"field {name!r} is {_kind(value)}; wanted a number")
    return number


_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def check_text(text: str) -> str:
    """`text`; `ValueError` for half a surrogate pair: legal in JSON, but no file and no tokenizer takes it."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("half a surrogate pair, which is no character") from None
    return text


def plain(value: Any, depth: int = 0) -> Any:
    """`value` as JSON can hold it; what JSON has no word for as text, bytes as null. Raises `ValueError`."""
    if isinstance(value, str):
        return check_text(value)
    if isinstance(value, NotText):
        return None
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth == MAX_DEPTH:
        raise ValueError(f"a field is nested too deeply, in more than {MAX_DEPTH} lists and objects")
    if isinstance(value, Mapping):
        return {check_text(str(name)): plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    return check_text(str(value))


def _list(name: str | None, text: str) -> Any:
    if not text.strip():
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if not isinstance(value, list):
        raise ValueError(f"field {name!r} is text; wanted a JSON list of texts")
    return value


def _kind(value: Any) -> str:
    if value is None or isinstance(value, NotText):
        return value.reason if value else "null"
    return f"{type(value).__name__} ({excerpt(reprlib.repr(value), 40)})"


def shown(record: dict[str, Any]) -> str:
    try:
        return excerpt(json.dumps(record, ensure_ascii=False, default=str))
    except (RecursionError, ValueError):
        return excerpt(", ".join(map(str, record)))
