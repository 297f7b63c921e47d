"""Shards, their index and manifest, and stored tokens, damaged or made up: refused by name, and nothing trains on them."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trials.damage import DEEP, all_of, cut, edited, fields, flipped, gone, grown, put, replaced, without
from tests.trials.fault import Break, Fault, check, refused, repaired
from tests.trials.world import INSPECT, TOKENIZE, TRAIN

SET = "shards/answers"
TAR, INDEX, MANIFEST = f"{SET}/shard-000001.tar", f"{SET}/shard-000001.idx.npy", f"{SET}/manifest.json"
TOKENS = "tokens/answers"
ON_TOKENS = f"{TRAIN} tokens=tokens"
VERIFY = f"{INSPECT} verify=true"


def array(name: str, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Break:
    """A .npy file after `change`."""

    def edit(world: Path) -> None:
        buffer = io.BytesIO()
        np.save(buffer, change(np.load(world / name).copy()), allow_pickle=True)
        (world / name).write_bytes(buffer.getvalue())

    return edit


def shard(**values: Any) -> Break:
    """The manifest's second shard with these fields."""
    return edited(MANIFEST, lambda value: value["shards"][1].update(values))


def no_file(name: str, make: Callable[[Path], Any]) -> Break:
    def replace(world: Path) -> None:
        (world / name).unlink()
        make(world / name)

    return replace


FAULTS = [
    refused("shards missing", TRAIN.replace("=shards", "=shard"), None, "shard"),
    refused("shards a file", TRAIN.replace("=shards", "=raw/pairs.jsonl"), None, "raw/pairs.jsonl"),
    refused("shards an empty folder", TRAIN.replace("=shards", "=none"), lambda w: (w / "none").mkdir(), "none", "manifest.json"),
    refused("shards of raw files", TRAIN.replace("=shards", "=raw"), None, "raw", "prepare"),
    refused("tar missing", TRAIN, gone(TAR), "shard-000001.tar"),
    refused("tar cut off", TRAIN, cut(TAR, 512), "shard-000001.tar"),
    refused("tar grown", TRAIN, grown(TAR), "shard-000001.tar"),
    refused("tar empty", TRAIN, put(TAR, b""), "shard-000001.tar"),
    refused("tar a folder", TRAIN, no_file(TAR, Path.mkdir), "shard-000001.tar"),
    refused("tar a named pipe", TRAIN, no_file(TAR, os.mkfifo), "shard-000001.tar"),
    refused("tar with a word changed", TRAIN, replaced(TAR, b'"query"', b'"qu3ry"'), "shard-000001.tar"),
    refused("tar with another text of the same length", TRAIN, replaced(TAR, b"answers ", b"answerz "), "shard-000001.tar"),
    refused("tar with a flipped bit, read by verify", VERIFY, flipped(TAR), "shard-000001.tar"),
    refused("tar with a flipped bit, tokenised", TOKENIZE, replaced(TAR, b"answers ", b"answerz "), "shard-000001.tar"),
    refused("tars exchanged", TRAIN, lambda w: (shutil.copy(w / TAR, w / "x"), shutil.copy(w / TAR.replace("1", "0"), w / TAR)), "shard-000001"),
    refused("index missing", TRAIN, gone(INDEX), "shard-000001.idx.npy"),
    refused("index cut off", TRAIN, cut(INDEX, 12), "shard-000001.idx.npy"),
    refused("index of NULs", TRAIN, lambda w: (w / INDEX).write_bytes(bytes((w / INDEX).stat().st_size)), "shard-000001.idx.npy"),
    refused("index reversed", TRAIN, array(INDEX, lambda a: a[::-1]), "shard-000001"),
    refused("index of zeros", TRAIN, array(INDEX, np.zeros_like), "shard-000001"),
    refused("index past the end", TRAIN, array(INDEX, lambda a: np.full_like(a, 2**31)), "shard-000001"),
    refused("index of pickled objects", TRAIN, put(INDEX, b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (16,), }".ljust(128) + b"\x80\x04N." * 48), "shard-000001.idx.npy"),
    refused("manifest missing", TRAIN, gone(MANIFEST), "answers", "manifest.json"),
    refused("manifest empty", TRAIN, put(MANIFEST, ""), "manifest.json"),
    refused("manifest not JSON", INSPECT, put(MANIFEST, "{'a'"), "manifest.json", "JSON"),
    refused("manifest nested too deep", INSPECT, put(MANIFEST, DEEP), "manifest.json"),
    refused("manifest a list", INSPECT, put(MANIFEST, "[]"), "manifest.json"),
    refused("manifest not UTF-8", INSPECT, put(MANIFEST, b'{"name": "\xff"}'), "manifest.json"),
    refused("manifest of a later version", INSPECT, fields(MANIFEST, version=99), "manifest.json", "version"),
    refused("manifest without shards", TRAIN, without(MANIFEST, "shards"), "manifest.json", "shards"),
    refused("manifest of no shards", TRAIN, fields(MANIFEST, shards=[], num_samples=0, bytes=0), "manifest.json"),
    refused("manifest with another count", TRAIN, fields(MANIFEST, num_samples=49), "manifest.json", "num_samples"),
    refused("manifest with a text for a count", TRAIN, shard(num_samples="16"), "manifest.json", "num_samples"),
    refused("manifest with a negative count", TRAIN, shard(num_samples=-1), "manifest.json", "num_samples"),
    refused("manifest with a huge count", TRAIN, shard(num_samples=10**30), "manifest.json"),
    refused("manifest that leaves its folder", TRAIN, shard(file="../../run/x.tar"), "manifest.json", "../../run/x.tar"),
    refused("manifest with an absolute name", TRAIN, shard(file="/etc/passwd"), "manifest.json", "/etc/passwd"),
    refused("manifest with a NUL in a name", TRAIN, shard(file="a\0.tar"), "manifest.json"),
    refused("manifest of an unknown kind", TRAIN, fields(MANIFEST, kind="quads"), "manifest.json", "kind"),
    refused("manifest a named pipe", INSPECT, no_file(MANIFEST, os.mkfifo), "manifest.json"),
    refused("triplets wanted of pairs", f"{TRAIN} objective=triplets", None, "answers"),
    repaired("batch larger than the data", TRAIN.replace("global_batch_size=8", "global_batch_size=64"), None, "answers"),
    refused("weights of a set that is not there", f"{TRAIN} weights.answer=2", None, "answer"),
    refused("tokens missing", f"{TRAIN} tokens=token model.path=model", None, "token"),
    refused("tokens of another tokenizer", ON_TOKENS.replace("max_length=16", "max_length=12"), None, "tokens"),
    *(
        refused(f"tokens: {what}", f"{ON_TOKENS} model.path=model", breaks, said)
        for what, breaks, said in [
            ("tokens.json missing", gone(f"{TOKENS}/tokens.json"), "tokens"),
            ("tokens.json not JSON", put(f"{TOKENS}/tokens.json", "{"), "tokens.json"),
            ("tokens.json too deep", put(f"{TOKENS}/tokens.json", DEEP), "tokens.json"),
            ("tokens.json a list", put(f"{TOKENS}/tokens.json", "[]"), "tokens.json"),
            ("tokens.json without its recipe", without(f"{TOKENS}/tokens.json", "recipe"), "tokens.json"),
            ("not finished", gone(f"{TOKENS}/000001.sha256.json"), "tokens"),
            ("ids missing", gone(f"{TOKENS}/000001.ids.npy"), "000001.ids.npy"),
            ("ids cut off", cut(f"{TOKENS}/000001.ids.npy"), "000001.ids.npy"),
            ("ids no array", put(f"{TOKENS}/000001.ids.npy", "none"), "000001.ids.npy"),
            ("ids out of the vocabulary", array(f"{TOKENS}/000001.ids.npy", lambda a: np.full_like(a, 60_000)), "000001.ids.npy"),
            ("starts backwards", array(f"{TOKENS}/000001.starts.npy", lambda a: a[::-1]), "tokens/answers"),
            ("starts past the end", array(f"{TOKENS}/000001.starts.npy", lambda a: a * 1000), "tokens/answers"),
            ("first row of another", array(f"{TOKENS}/000001.first.npy", lambda a: a[::-1]), "tokens/answers"),
            ("hashes too few", array(f"{TOKENS}/000001.hashes.npy", lambda a: a[:-3]), "tokens/answers"),
        ]
    ),
    refused("adopting a folder without tars", "inspect --index path=raw", None, "raw"),
    refused("adopting a damaged tar", "inspect --index path=shards/answers", all_of(gone(MANIFEST), cut(TAR, 9000)), "shard-000001.tar", changes=["shards"]),
    refused("tokenizer of inspect missing", f"{INSPECT} tokenizer=nothing-here", None, "nothing-here"),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_shards(fault: Fault, world: Path) -> None:
    check(fault, world)
