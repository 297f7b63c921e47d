"""One sample as bytes: its tar member (header and JSON payload) and back.

Before: `writer.py` has a `Sample`, `reader.py` has bytes of a tar. JSON is decoded, nothing is unpickled.
"""

from __future__ import annotations

import json
import math
import tarfile
import unicodedata
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from typing import Any

from jemb.core.errors import InputError
from jemb.core.records import Sample
from jemb.shards.index import MAX_SIZE

OPTIONAL = frozenset({"positives", "score", "label", "scores"})
"""Fields that belong to the sample itself where the manifest says that the data set has them."""
BLOCK = tarfile.BLOCKSIZE
SUFFIX = ".json"
MAX_KEY_BYTES = 90
"""A key and `.json` must fit the 100 bytes of a plain ustar name, with room for another suffix."""

# One header for all samples (constant time, owner and mode: reproducible, smaller than pax). Only name, size
# and check sum change; the check sum counts its own field as spaces.
_EMPTY = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_TEMPLATE = _EMPTY[:124] + bytes(12) + _EMPTY[136:148] + b" " * 8 + _EMPTY[156:]


def check_key(key: str) -> None:
    """Raise `InputError` unless `key` is a plain WebDataset key that fits the header."""
    bad = "." in key or "/" in key or any(unicodedata.category(char) in ("Cc", "Cs") for char in key)
    if not key or bad or len(key.encode()) > MAX_KEY_BYTES:
        raise InputError(
            f"key {key[:100]!r}: wanted 1 to {MAX_KEY_BYTES} bytes without '.', '/' and control characters"
        )


def encode_header(key: str, size: int) -> bytes:
    """The 512-byte ustar header of member `<key>.json` with `size` bytes."""
    header = bytearray(_TEMPLATE)
    name = (key + SUFFIX).encode()
    header[: len(name)] = name
    header[124:136] = b"%011o\0" % size
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def encode_payload(sample: Sample) -> bytes:
    """UTF-8 JSON of `sample`; `InputError` naming the key when a field cannot be stored."""
    value: dict[str, Any] = {"query": sample.query}
    if sample.more_positives:
        value["positives"] = list(sample.positives)
    elif sample.label is None or sample.positive != sample.query:
        value["positive"] = sample.positive
    if sample.negatives:
        value["negatives"] = list(sample.negatives)
    value |= {name: found for name in ("score", "label") if (found := getattr(sample, name)) is not None}
    if sample.scores:
        value["scores"] = list(sample.scores)
    taken = sorted({"query", "positive", "negatives", *value} & sample.extra.keys())
    if taken:
        raise InputError(f"key {sample.key!r}: extra fields {taken} are the names of the sample's own fields")
    value.update(sample.extra)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        payload = text.encode()
    except (TypeError, ValueError) as error:  # also a lone surrogate, which UTF-8 has no bytes for
        raise InputError(f"key {sample.key!r}: cannot be stored as UTF-8 JSON ({error})") from None
    if len(payload) > MAX_SIZE:
        raise InputError(f"key {sample.key!r}: {len(payload)} bytes; wanted at most {MAX_SIZE}")
    return payload


def decode_header(header: bytes, size: int) -> str:
    """The key in a member's header; `ValueError` when it is not a whole ustar header of `size` bytes."""
    if len(header) < BLOCK:
        raise ValueError(f"{len(header)} bytes of header; wanted {BLOCK}")
    if header[257:262] != b"ustar":
        raise ValueError(f"no ustar header: magic is {header[257:262]!r}")
    found = int(header[124:136].rstrip(b" \0") or b"0", 8)
    if found != size:
        raise ValueError(f"the header says {found} bytes, the index {size}")
    name = plain_name(header)
    if not name.endswith(SUFFIX):
        raise ValueError(f"member {name!r} is not {SUFFIX}")
    return name.removesuffix(SUFFIX)


def plain_name(header: bytes) -> str:
    """The name in a ustar or GNU header itself; a longer real name may stand in headers before it."""
    name = header[:100].rstrip(b"\0").decode()
    # A long name is split in two; GNU tar has another magic and keeps other things in the second field.
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].rstrip(b"\0").decode() + "/" + name
    return name


def decode_payload(key: str, payload: bytes, fields: Collection[str] = ()) -> Sample:
    """The sample in `payload`; `ValueError` saying what is wrong. fields: those of `OPTIONAL` that the data set has;
    what else has such a name is a field of the source."""
    value = _value(payload)
    query, positive = value.pop("query", None), value.pop("positive", None)
    negatives = _texts(value, "negatives")
    positives = _texts(value, "positives") if "positives" in fields else ()
    label = value.pop("label", None) if "label" in fields else None
    if positive is None:
        positive = positives[0] if positives else query if label is not None else None
    if not isinstance(query, str) or not isinstance(positive, str):
        raise ValueError(f"query is {_shown(query)}, positive is {_shown(positive)}; wanted two strings")
    sample = Sample(key, query, positive, negatives, value, positives[1:], label=label)
    return _scored(sample, value, fields) if fields else sample


def _value(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload.decode())
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"JSON is {type(value).__name__}; wanted an object")
    return value


def known_fields(payload: bytes) -> set[str]:
    """Those of `OPTIONAL` that a sample of others has, with values that can be such."""
    there = OPTIONAL & _value(payload).keys()
    texts = there & {"positives", "label"}  # without these it may be no sample at all
    known = set()
    for name in there:
        with suppress(ValueError):
            decode_payload("", payload, texts | {name})
            known.add(name)
    return known


def _scored(sample: Sample, value: dict[str, Any], fields: Collection[str]) -> Sample:
    score = value.pop("score", None) if "score" in fields else None
    scores = value.pop("scores", []) if "scores" in fields else []
    if "score" in fields and not is_real(score):
        raise ValueError(f"score is {_shown(score)}; wanted a number")
    if "label" in fields and (not isinstance(sample.label, int | str) or isinstance(sample.label, bool)):
        raise ValueError(f"label is {_shown(sample.label)}; wanted a whole number or a text")
    if not isinstance(scores, list) or not all(one is None or is_real(one) for one in scores):
        raise ValueError(f"scores is {_shown(scores)}; wanted a list of numbers")
    if "scores" in fields and len(scores) != len(sample.texts) - 1:
        raise ValueError(f"{len(scores)} scores; wanted one for each of {len(sample.texts) - 1} answers")
    return replace(sample, score=score, scores=tuple(scores))


def is_real(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _texts(value: dict[str, Any], name: str) -> tuple[str, ...]:
    texts = value.pop(name, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} is {_shown(texts)}; wanted a list of strings")
    return tuple(texts)


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:60]
