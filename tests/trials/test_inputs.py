"""Raw files of every kind, broken in every way: `jemb prepare` refuses them by name, or says what it left out."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import socket
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trials.fault import Break, Fault, check, refused, repaired
from tests.trials.world import PREPARE, ROWS, lines

GOOD = lines(ROWS).encode()
MANY = lines([{**row, "positive": f"{row['positive']} {n}"} for n in range(4) for row in ROWS]).encode()
"""224 rows: one that cannot be read is less than max_unreadable of them."""
CSV = "query,positive\n" + "".join(f"{row['query']},{row['positive']}\n" for row in ROWS)


def given(name: str, data: bytes | str, beside: bool = False) -> Break:
    """raw/ holds this file alone, or beside the good one."""

    def write(world: Path) -> None:
        if not beside:
            (world / "raw" / "pairs.jsonl").unlink()
        path = world / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    return write


def row(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def tar(*members: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if data else None)
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


SAMPLES = [(f"{n:04d}.json", json.dumps(item).encode()) for n, item in enumerate(ROWS)]


def parquet(columns: dict[str, Sequence[Any]], damage: Callable[[bytes], bytes] = bytes) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return damage(buffer.getvalue())


COLUMNS: dict[str, Sequence[Any]] = {name: [item[name] for item in ROWS] for name in ("query", "positive")}


def unreadable(world: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (world / "out/pairs/unreadable.jsonl").read_text().splitlines()]


def left_out(number: int, reason: str = "") -> Break:
    """The manifest's data set lacks this line alone, and unreadable.jsonl says why."""

    def look(world: Path) -> None:
        found = unreadable(world)
        assert [item["line"] for item in found] == [number]
        assert found[0]["file"] == "pairs.jsonl"
        assert reason in found[0]["reason"]

    return look


def kept(count: int, name: str = "pairs") -> Break:
    def look(world: Path) -> None:
        manifest = json.loads((world / f"out/{name}/manifest.json").read_text())
        assert manifest["num_samples"] == count

    return look


def bad(name: str, data: bytes, reason: str) -> Fault:
    return repaired(name, PREPARE, given("pairs.jsonl", MANY + data), "unreadable", then=left_out(225, reason))


def no_file(make: Callable[[Path], Any]) -> Break:
    """What stands at raw/pairs.jsonl is made by `make`."""

    def replace(world: Path) -> None:
        path = world / "raw/pairs.jsonl"
        path.unlink()
        make(path)

    return replace


def bind(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


def folder(*names: str) -> Break:
    """raw/pairs is a folder with these copies of the good file."""

    def make(world: Path) -> None:
        good = (world / "raw/pairs.jsonl").read_bytes()
        (world / "raw/pairs.jsonl").unlink()
        for name in names:
            path = world / "raw" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(good)

    return make


DEEP = b'{"query": "a", "positive": "b", "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"

FAULTS = [
    refused("jsonl empty", PREPARE, given("pairs.jsonl", ""), "pairs.jsonl", "no rows"),
    refused("jsonl of blank lines", PREPARE, given("pairs.jsonl", "\n \n\t\n"), "pairs.jsonl", "no rows"),
    refused("jsonl in UTF-16", PREPARE, given("pairs.jsonl", GOOD.decode().encode("utf-16")), "pairs.jsonl", "UTF-16"),
    refused("jsonl of random bytes", PREPARE, given("pairs.jsonl", random.Random(0).randbytes(9000)), "pairs.jsonl"),
    refused("jsonl of NULs", PREPARE, given("pairs.jsonl", b"\0" * 9000), "pairs.jsonl"),
    refused("jsonl cut in its last line", PREPARE, given("pairs.jsonl", GOOD[:-9]), "pairs.jsonl", "line 56"),
    refused("jsonl that is one JSON array", PREPARE, given("pairs.jsonl", json.dumps(ROWS)), "pairs.jsonl", "array"),
    refused(
        "jsonl with other field names", PREPARE, given("pairs.jsonl", GOOD.replace(b'"query"', b'"Query"')),
        "pairs.jsonl", "fields.query", "Query",
    ),
    refused("jsonl without positives", PREPARE, given("pairs.jsonl", row(query="a") * 50), "fields.positive", "query"),
    refused("jsonl whose texts are numbers", PREPARE, given("pairs.jsonl", row(query=1, positive=2) * 50), "query"),
    refused("jsonl with half its lines bad", PREPARE, given("pairs.jsonl", GOOD + b"{\n" * 56), "max_unreadable"),
    bad("jsonl line not JSON", b"{query: 1}\n", "not JSON"),
    bad("jsonl line not UTF-8", b'{"query": "\xff", "positive": "b"}\n', "UTF-8"),
    bad("jsonl line of another kind", b"[1, 2]\n", "list"),
    bad("jsonl line without its end", b'{"query": "a", "posi', "not JSON"),
    bad("jsonl null for a text", row(query=None, positive="b"), "query"),
    repaired("jsonl empty text", PREPARE, given("pairs.jsonl", MANY + row(query="", positive="b")), "drops 1 empty"),
    repaired("jsonl blank text", PREPARE, given("pairs.jsonl", MANY + row(query="a", positive=" \n")), "drops 1 empty"),
    bad("jsonl list for a text", row(query=["a"], positive="b"), "query"),
    bad("jsonl half a surrogate pair", b'{"query": "\\ud800", "positive": "b"}\n', "surrogate"),
    bad("jsonl nested a hundred thousand deep", DEEP, "not JSON"),
    repaired("jsonl number of 5000 digits", PREPARE, given("pairs.jsonl", MANY + b'{"query": "a", "positive": "b", "n": ' + b"9" * 5000 + b"}\n")),
    repaired("jsonl with a byte order mark", PREPARE, given("pairs.jsonl", b"\xef\xbb\xbf" + GOOD), then=kept(56)),
    refused("gz that is none", PREPARE, given("pairs.jsonl.gz", GOOD), "pairs.jsonl.gz"),
    refused("gz cut off", PREPARE, given("pairs.jsonl.gz", gzip.compress(MANY)[:-200]), "pairs.jsonl.gz"),
    refused("gz empty", PREPARE, given("pairs.jsonl.gz", b""), "pairs.jsonl.gz"),
    refused("gz with a flipped bit", PREPARE, given("pairs.jsonl.gz", gzip.compress(MANY)[:-8] + b"\0" * 8), "pairs.jsonl.gz"),
    refused("zst that is none", PREPARE, given("pairs.jsonl.zst", GOOD), "pairs.jsonl.zst"),
    refused("csv empty", PREPARE, given("pairs.csv", ""), "pairs.csv", "no rows"),
    refused("csv with a header alone", PREPARE, given("pairs.csv", "query,positive\n"), "pairs.csv", "no rows"),
    refused("csv in UTF-16", PREPARE, given("pairs.csv", CSV.encode("utf-16")), "pairs.csv", "UTF-16"),
    refused("csv in Latin-1", PREPARE, given("pairs.csv", CSV.replace("e", "é").encode("latin-1")), "pairs.csv"),
    refused("csv with semicolons", PREPARE, given("pairs.csv", CSV.replace(",", ";")), "pairs.csv", ";"),
    refused("csv with an unclosed quote", PREPARE, given("pairs.csv", CSV + '"open,b\n' + "c,d\n" * 5), "pairs.csv"),
    refused("csv with cells too many", PREPARE, given("pairs.csv", CSV + "a,b,c,d\n"), "pairs.csv", "line 58"),
    refused("csv with cells too few", PREPARE, given("pairs.csv", CSV + "a\n"), "pairs.csv", "line 58"),
    refused("csv with a name twice", PREPARE, given("pairs.csv", CSV.replace("query,positive", "query,query")), "pairs.csv"),
    repaired("csv with a byte order mark", PREPARE, given("pairs.csv", b"\xef\xbb\xbf" + CSV.encode()), then=kept(56)),
    repaired(
        "tsv with quotes in its cells", PREPARE,
        given("pairs.tsv", "query\tpositive\n" + "".join(f'"{n} inch\t{n}" wide\n' for n in range(40))), then=kept(40),
    ),
    refused("tsv with commas", PREPARE, given("pairs.tsv", CSV), "pairs.tsv"),
    refused("parquet cut off", PREPARE, given("pairs.parquet", parquet(COLUMNS, lambda b: b[:-40])), "pairs.parquet"),
    refused("parquet that is none", PREPARE, given("pairs.parquet", GOOD), "pairs.parquet"),
    refused("parquet empty", PREPARE, given("pairs.parquet", b""), "pairs.parquet"),
    refused(
        "parquet with damaged pages", PREPARE,
        given("pairs.parquet", parquet(COLUMNS, lambda b: b[:8] + b"\xff" * 60 + b[68:])), "pairs.parquet",
    ),
    refused("parquet without rows", PREPARE, given("pairs.parquet", parquet({"query": pa.array([], pa.string()), "positive": pa.array([], pa.string())})), "no rows"),
    refused("parquet with other columns", PREPARE, given("pairs.parquet", parquet({"q": ["a"], "p": ["b"]})), "fields.query", "q, p"),
    refused("parquet of numbers", PREPARE, given("pairs.parquet", parquet({"query": [1] * 9, "positive": [2] * 9})), "query"),
    refused("tar cut off", PREPARE, given("pairs.tar", tar(*SAMPLES)[:30_000]), "pairs.tar"),
    refused("tar that is none", PREPARE, given("pairs.tar", GOOD), "pairs.tar"),
    refused("tar empty", PREPARE, given("pairs.tar", b""), "pairs.tar"),
    refused("tar without members", PREPARE, given("pairs.tar", tar()), "pairs.tar"),
    refused("tar of pictures", PREPARE, given("pairs.tar", tar(("a.jpg", b"x"), ("b.jpg", b"y"))), "pairs.tar"),
    refused("tar gz that is none", PREPARE, given("pairs.tar.gz", tar(*SAMPLES)), "pairs.tar.gz"),
    refused("tar gz cut off", PREPARE, given("pairs.tar.gz", gzip.compress(tar(*SAMPLES))[:-300]), "pairs.tar.gz"),
    refused("tar with a link out", PREPARE, given("pairs.tar", tar((special("a.json", tarfile.SYMTYPE, "/etc/passwd"), b""))), "pairs.tar"),
    refused("tar with a device", PREPARE, given("pairs.tar", tar((special("a.json", tarfile.CHRTYPE), b""))), "pairs.tar"),
    refused("tar member that is not JSON", PREPARE, given("pairs.tar", tar(*SAMPLES[:9], ("x.json", b"{"))), "pairs.tar", "x.json"),
    refused("tar member not UTF-8", PREPARE, given("pairs.tar", tar(*SAMPLES[:9], ("x.json", b'{"query": "\xff", "positive": "b"}'))), "x.json", "UTF-8"),
    refused("save_to_disk with a damaged state", PREPARE.replace("=raw", "=hf:raw/set"), given("set/state.json", "{"), "raw/set"),
    refused("raw folder missing", PREPARE.replace("=raw", "=rwa"), None, "rwa"),
    refused("raw folder empty", PREPARE, no_file(lambda path: None), "raw"),
    refused("raw folder of other files", PREPARE, given("notes.docx", b"x"), "raw", ".jsonl"),
    refused("raw file missing", PREPARE.replace("=raw", "=raw/pair.jsonl"), None, "raw/pair.jsonl"),
    refused("raw file a link to nowhere", PREPARE, no_file(lambda path: path.symlink_to("gone")), "pairs.jsonl"),
    refused("raw file a link to itself", PREPARE, no_file(lambda path: path.symlink_to(path.name)), "pairs.jsonl"),
    refused("raw file a named pipe", PREPARE, no_file(os.mkfifo), "raw"),
    refused("raw file a named pipe by name", PREPARE.replace("=raw", "=raw/pairs.jsonl"), no_file(os.mkfifo), "pairs.jsonl"),
    refused("raw file a socket", PREPARE, no_file(bind), "raw"),
    refused("raw file a device without end", PREPARE, no_file(lambda path: path.symlink_to("/dev/zero")), "pairs.jsonl"),
    refused("raw file an empty device", PREPARE, no_file(lambda path: path.symlink_to("/dev/null")), "pairs.jsonl"),
    refused("raw file a folder without files", PREPARE, no_file(Path.mkdir), "raw"),
    refused("raw folder within itself", PREPARE, no_file(lambda path: path.with_name("more").symlink_to(".")), "raw"),
    refused("two files of one name", PREPARE, folder("pairs.jsonl", "pairs.csv"), "pairs.jsonl", "pairs.csv"),
    refused("two kinds in a folder", PREPARE, folder("pairs/a.jsonl", "pairs/b.csv"), "raw/pairs"),
    refused("name with a line end", PREPARE, folder("pa\nirs.jsonl"), "rename"),
    refused("name not UTF-8", PREPARE, folder(os.fsdecode(b"p\xff.jsonl")), "rename"),
    refused("raw and output the same", PREPARE.replace("=out", "=raw"), None, "raw"),
    refused("sources name with a path", f"{PREPARE} sources.../../evil.path=raw/pairs.jsonl", None),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_input(fault: Fault, world: Path) -> None:
    check(fault, world)
