"""Rows and bad rows of every format; and parts of any size give what one sequential reading gives."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import multiprocessing
import pickle
import random
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from jemb.core.errors import InputError
from jemb.prepare.options import FieldsConfig
from jemb.prepare.source import parts as parts_module
from jemb.prepare.source.parts import Summary, parts, read_part
from jemb.prepare.source.record_fields import Row
from jemb.prepare.source.sources import Source
from jemb.tables.hub import load_hub
from jemb.tables.records import Bad
from jemb.tables.whole import read_table

FIELDS = FieldsConfig()
FORMATS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".tar": "tar", ".tar.gz": "tar"}


def source_of(*paths: Path, fields: FieldsConfig = FIELDS, **options) -> Source:
    kind = next((kind for ending, kind in FORMATS.items() if ending in paths[0].name), "jsonl")
    return Source("set", kind, tuple(map(str, paths)), fields, **options)


def read_all(source: Source, **sizes: int):
    """(rows, unreadable, field names) of all parts, numbers and lines counted in the whole, as the runner does it."""
    rows: list[Row] = []
    unreadable: list[Bad] = []
    names: Counter[str] = Counter()
    records = 0
    lines: Counter[str] = Counter()
    for number, part in enumerate(parts(source, **sizes)):
        assert part.number == number
        summary = Summary()
        items = list(read_part(part, source, summary))
        rows += [item._replace(number=item.number + records) for item in items if isinstance(item, Row)]
        bad = [item for item in items if isinstance(item, Bad)]
        unreadable += [replace(item, line=item.line + lines[part.path]) for item in bad]
        assert len(items) == summary.records
        records += summary.records
        lines[part.path] += summary.lines
        names += summary.names
    return rows, unreadable, names


def read(*paths: Path, fields: FieldsConfig = FIELDS):
    return read_all(source_of(*paths, fields=fields))[:2]


def extra(row):
    return json.loads(row.extra or "{}")


def texts(rows):
    return [(row.query, row.positive, *row.negatives) for row in rows]


# ---- formats give the same rows ------------------------------------------------------------------------------------

PAIRS = [
    {"query": 'say "hi", twice', "positive": "hi,hi", "votes": 0.5},
    {"query": "Grüße ", "positive": "挨拶 🙂", "votes": None},
]


def write_table(path, records, delimiter):
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, records[0].keys(), delimiter=delimiter)
        table.writeheader()
        table.writerows(records)


def tsv_line(record):
    return "\t".join("" if value is None else str(value) for value in record.values()) + "\n"


def write_tar(path, records, mode="w"):
    with tarfile.open(path, mode) as archive:
        for number, record in enumerate(records):
            data = json.dumps(record).encode()
            info = tarfile.TarInfo(f"{number:03d}.json")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_all_formats_give_the_same_rows(tmp_path, write_jsonl):
    write_jsonl(tmp_path / "a.jsonl", PAIRS)
    write_table(tmp_path / "c.csv", PAIRS, ",")
    (tmp_path / "d.tsv").write_text("query\tpositive\tvotes\n" + "".join(map(tsv_line, PAIRS)))
    for name in ("a.jsonl", "c.csv", "d.tsv"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data))
        (tmp_path / f"{name}.zst").write_bytes(zstandard.compress(data))
    pq.write_table(pa.Table.from_pylist(PAIRS), tmp_path / "e.parquet")
    write_tar(tmp_path / "f.tar", PAIRS)
    write_tar(tmp_path / "g.tar.gz", PAIRS, "w:gz")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 12
    for path in files:
        rows, unreadable = read(path)
        assert [(row.number, row.query, row.positive) for row in rows] == [
            (0, 'say "hi", twice', "hi,hi"),
            (1, "Grüße ", "挨拶 🙂"),
        ], path
        assert not unreadable
        table = ".csv" in path.name or ".tsv" in path.name
        assert [extra(row) for row in rows] == [{"votes": "0.5" if table else 0.5}, {"votes": "" if table else None}]


def test_byte_order_mark_blank_lines_and_carriage_returns(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'\xef\xbb\xbf{"query":"a","positive":"b"}\r\n\r\n  \n{"query":"c","positive":"d"}'
    )
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbfquery,positive\r\na,b\r\n\r\nc,d\r\n")
    for name in ("a.jsonl", "b.csv"):
        rows, unreadable = read(tmp_path / name)
        assert texts(rows) == [("a", "b"), ("c", "d")]
        assert [row.number for row in rows] == [0, 1]
        assert not unreadable


def test_negatives_in_every_form(tmp_path, write_jsonl):
    write_jsonl(
        tmp_path / "a.jsonl",
        [
            {"query": "q", "positive": "p", "negative": "n"},
            {"query": "q", "positive": "p", "negatives": ["n", "m"]},
            {"query": "q", "positive": "p", "negative": "n", "negatives": ["m", None, " "]},
            {"query": "q", "positive": "p", "negative": None, "negatives": []},
        ],
    )
    (tmp_path / "b.csv").write_text(
        'query,positive,negative,negatives\nq,p,n,\nq,p,,"[""n"",""m""]"\nq,p,n,"[""m""]"\nq,p,,\n'
    )
    table = pa.table({"query": ["q"] * 2, "positive": ["p"] * 2, "negatives": [["n"], ["n", "m"]]})
    pq.write_table(table, tmp_path / "c.parquet")
    wanted = [("q", "p", "n"), ("q", "p", "n", "m"), ("q", "p", "n", "m"), ("q", "p")]
    for name, rows in (("a.jsonl", wanted), ("b.csv", wanted), ("c.parquet", wanted[:2])):
        found, unreadable = read(tmp_path / name)
        assert texts(found) == rows, name
        assert not unreadable
        assert all(extra(row) == {} for row in found)


def test_mapped_fields_and_constants(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "a.jsonl", [{"title": "t", "body": "b", "wrong": ["w"], "query": 7, "id": 1}])
    fields = FieldsConfig(query="title", positive="body", negatives="wrong")
    (row,), _ = read(path, fields=fields)
    assert texts([row]) == [("t", "b", "w")]
    # A field of the source that is named like one of the sample's own cannot be carried beside it.
    assert extra(row) == {"id": 1}
    (row,), _, _ = read_all(source_of(path, fields=fields, constants={"origin": "forum", "id": "same"}))
    assert extra(row) == {"id": "same", "origin": "forum"}


def test_fields_that_json_cannot_hold_are_carried_as_text(tmp_path):
    record = {"query": "q", "positive": "p", "day": datetime.date(2024, 2, 29), "nan": float("nan")}
    pq.write_table(pa.Table.from_pylist([{**record, "list": [1.5, float("inf")]}]), tmp_path / "a.parquet")
    (row,), _ = read(tmp_path / "a.parquet")
    assert extra(row) == {"day": "2024-02-29", "nan": None, "list": [1.5, None]}
    assert json.loads(json.dumps(extra(row), allow_nan=False)) == extra(row)


def test_binary_parquet_columns_are_text(tmp_path):
    table = pa.table({"query": pa.array([b"caf\xc3\xa9", b"\xff"]), "positive": ["p", "p"]})
    pq.write_table(table, tmp_path / "a.parquet")
    rows, (bad,) = read(tmp_path / "a.parquet")
    assert texts(rows) == [("café", "p")]
    assert (bad.line, bad.reason.split(" (")[0]) == (2, "field 'query' is not UTF-8: byte 0; wanted text")


# ---- bad rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"query":"a","positive":', "not JSON"),
        (b'{"query":"\xff","positive":"b"}', "not UTF-8: byte 10"),
        (b'["a","b"]', "is a JSON list; wanted a JSON object"),
        (b'{"query":"lost","query":"last","positive":"b"}', "key 'query' comes twice"),
        (b'{"query" : "lost", "query"\t: "last", "positive" : "b"}', "key 'query' comes twice"),
        (b'{"query":"a","positive":"b","note":{"x":{"n":1,"n":1}}}', "key 'n' comes twice"),
        (b"\0" * 50, "not JSON"),
        (b'{"query":"a"}', "field 'positive' is missing"),
        (b'{"query":5,"positive":"b"}', "field 'query' is int (5); wanted text"),
        (b'{"query":null,"positive":"b"}', "field 'query' is null; wanted text"),
        (b'{"query":"a","positive":"b","negatives":"n"}', "field 'negatives' is text; wanted a JSON list"),
        (b'{"query":"a","positive":"b","negatives":{"n":1}}', "field 'negatives' is dict"),
        (b'{"query":"a","positive":"b","negatives":["n",1]}', "a negative is int (1); wanted text"),
        (
            b'{"query":"a","positive":"b","negative":["n"]}',
            "field 'negative' is list (['n']); wanted a text. Lists: fields",
        ),
        (b'{"query":"\\ud83d","positive":"b"}', "half a surrogate pair"),
        (b'{"query":"a","positive":"b","negative":"\\ud83d"}', "half a surrogate pair"),
        (b'{"query":"a","positive":"b","note":["\\udc00"]}', "half a surrogate pair"),
        (b'{"query":"a","positive":"b","note":{"\\udc00":1}}', "half a surrogate pair"),
        (b'{"query":"a","positive":"b","\\udc00":1}', "half a surrogate pair"),
        (b"[" * 100_000, "not JSON"),
        (b'{"query":"a","positive":"b","deep":' + b"[" * 900 + b"]" * 900 + b"}", "nested too deeply"),
        (b'{"query":5,"deep":' + b"[" * 900 + b"]" * 900 + b"}", "field 'query' is int"),
        (b'{"query":"a","positive":"b","n":' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_a_bad_line_spoils_only_itself(tmp_path, line, reason):
    good = b'{"query":"x","positive":"y"}\n'
    (tmp_path / "a.jsonl").write_bytes(good + line + b"\n" + good)
    rows, (bad,) = read(tmp_path / "a.jsonl")
    assert [row.number for row in rows] == [0, 2]
    assert (bad.line, bad.rest_lost) == (2, False)
    assert reason in bad.reason
    assert len(bad.text) <= 200
    (bad.reason + bad.text).encode()


def test_values_that_only_look_odd_are_kept(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'{"query":"a","positive":"b","n":NaN,"big":123456789012345678901234567890,"i":-Infinity,"f":1e400}\n'
        b'{"query":"last","positive":"\\ud83d\\ude00","deep":' + b"[" * 99 + b"]" * 99 + b"}\n"
    )
    (one, two), _ = read(tmp_path / "a.jsonl")
    assert extra(one) == {"n": None, "big": 123456789012345678901234567890, "i": None, "f": None}
    assert texts([two]) == [("last", "😀")]


def test_bad_rows_of_a_table(tmp_path):
    (tmp_path / "a.csv").write_bytes(
        b"query,positive\n"  # line 1
        b"a,b\n"
        b"one\n"  # line 3: too few
        b"one,two,three\n"  # line 4: too many
        b"\xe9t\xe9,summer\n"  # line 5: Latin-1
        b'"two\nlines",d\n'  # lines 6 and 7
        b'"a"b,c\n'  # line 8: text after the quote
        b"e,f\n"
    )
    rows, unreadable = read(tmp_path / "a.csv")
    assert texts(rows) == [("a", "b"), ("two\nlines", "d"), ("e", "f")]
    assert [(bad.line, bad.reason.split(" (")[0]) for bad in unreadable] == [
        (3, "1 fields; the header has 2"),
        (4, "3 fields; the header has 2"),
        (5, "not UTF-8"),
        (8, "bad quoting after line 7"),
    ]


def test_a_long_passage_in_a_cell(tmp_path):
    text = "a long passage, " * 20_000
    (tmp_path / "pairs.csv").write_text(f'query,positive\nq,"{text}"\nq2,p2\n')
    found = list(read_table(str(tmp_path / "pairs.csv"), "csv"))
    assert [cells["positive"] for _, cells in found] == [text, "p2"]


def test_at_an_unclosed_quote_the_file_breaks_off(tmp_path):
    lines = [f"q{number},p{number}" for number in range(1000)]
    lines[100] = '"q100,p100'
    (tmp_path / "a.csv").write_text("query,positive\n" + "\n".join(lines) + "\n")
    rows, (bad,) = read(tmp_path / "a.csv")
    assert len(rows) == 100
    assert (bad.line, bad.text, bad.rest_lost) == (102, '"q100,p100', True)
    assert "a row without an end" in bad.reason


def test_two_stray_quotes_lose_all_lines_between_them(tmp_path):
    lines = [f"q{number},p{number}" for number in range(1000)]
    lines[100], lines[300] = '"q100,p100', 'q300,p300"'
    (tmp_path / "a.csv").write_text("query,positive\n" + "\n".join(lines) + "\n")
    rows, unreadable = read(tmp_path / "a.csv")
    assert len(rows) == 1000 - 201
    assert [bad.line for bad in unreadable] == list(range(102, 303))
    assert unreadable[-1].reason == "1 fields; the header has 2; it began in line 102"


def test_line_ends_and_marks_in_cells(tmp_path):
    (tmp_path / "a.csv").write_bytes(
        b'query,positive\n"a\rb","c\n\xef\xbb\xbfd"\n'  # lines 2 to 4, the mark is a character of the text
        b"e,f\rg\nh\ri,j\n"  # lines 4 and 5: what single carriage returns cut is no row, whatever its width
        b"k,l\n"
    )
    rows, unreadable = read(tmp_path / "a.csv")
    assert texts(rows) == [("a\rb", "c\n\ufeffd"), ("k", "l")]
    assert [bad.line for bad in unreadable] == [4, 5]
    assert all("new-line character seen in unquoted field" in bad.reason for bad in unreadable)
    (tmp_path / "mac.csv").write_bytes(b"query,positive\ra,b\rc,d")
    with pytest.raises(InputError, match=r"mac\.csv: line 1: the header cannot be read .*new-line character seen"):
        read(tmp_path / "mac.csv")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_quoted_header_with_another_separator_is_named(tmp_path, separator):
    (tmp_path / "a.csv").write_text(f'"query"{separator}"positive"\n"a"{separator}"b"\n')
    with pytest.raises(InputError, match=f"it has {separator!r} between its names".replace("\\", "\\\\")):
        read(tmp_path / "a.csv")


# ---- files that break off ------------------------------------------------------------------------------------------


def test_truncated_parquet(tmp_path):
    pq.write_table(pa.table({"query": ["q"] * 100, "positive": ["p"] * 100}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:-20])
    rows, (bad,) = read(tmp_path / "a.parquet")
    assert not rows
    assert bad.rest_lost
    assert "Parquet" in bad.reason


def test_truncated_tars(tmp_path):
    write_tar(tmp_path / "a.tar", PAIRS * 50)
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: len(data) // 2])
    rows, (bad,) = read(tmp_path / "a.tar")
    assert 20 < len(rows) < 60
    assert (bad.rest_lost, bad.line) == (True, len(rows) + 1)
    assert "cut off at byte" in bad.reason
    # Half of it, packed whole; then a packed one that breaks off.
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(data[: len(data) // 2]))
    packed_rows, (packed_bad,) = read(tmp_path / "b.tar.gz")
    assert (packed_rows, packed_bad.reason) == (rows, bad.reason)
    packed = gzip.compress(data, compresslevel=0)
    (tmp_path / "c.tar.gz").write_bytes(packed[: len(packed) // 2])
    rows, (bad,) = read(tmp_path / "c.tar.gz")
    assert rows
    assert bad.rest_lost
    assert bad.reason.startswith("damaged or truncated gzip")


def test_a_tar_elsewhere_is_read_like_one_here(tmp_path):
    write_tar(tmp_path / "a.tar", PAIRS * 3)
    memory = fsspec.filesystem("memory")
    memory.pipe("/far/a.tar", (tmp_path / "a.tar").read_bytes())
    try:
        far = Source("a", "tar", ("memory://far/a.tar",), FIELDS)
        assert read_all(far) == read_all(source_of(tmp_path / "a.tar"))
    finally:
        memory.rm("/", recursive=True)


# ---- parts ---------------------------------------------------------------------------------------------------------

LINES = st.sampled_from(
    ['{"query": "a", "positive": "b"}', '{"query": "é🙂", "positive": "挨拶", "id": 7}', "", "   ", "not JSON", "[1]",
     '{"positive": "b"}', '{"query": "x\\n", "positive": "y", "negative": "z"}', "\ufeff", "é"]
)  # fmt: skip


@settings(max_examples=80)
@given(
    st.lists(LINES, max_size=25),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 300),
)
def test_bytes_cut_anywhere_give_the_sequential_rows(tmp_path_factory, lines, end, mark, closed, part_bytes):
    """Against a reading of the whole text at once by Python's own json and splitlines."""
    data = (("\ufeff" if mark else "") + end.join(lines) + (end if closed else "")).encode()
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    path.write_bytes(data)
    rows, unreadable, names = read_all(source_of(path), part_bytes=part_bytes)
    wanted, bad, seen, number = [], [], Counter(), -1
    for line, content in enumerate(data.split(b"\n"), 1):
        text = content.decode("utf-8-sig")  # files joined have the mark in the middle
        if not text.strip():
            continue
        number += 1
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        seen.update(list(value) if isinstance(value, dict) else ())
        if isinstance(value, dict) and "query" in value:
            wanted.append((number, value["query"], value["positive"], value.get("negative"), value.get("id")))
        else:
            bad.append(line)
    assert [(r.number, r.query, r.positive, (*r.negatives, None)[0], extra(r).get("id")) for r in rows] == wanted
    assert [item.line for item in unreadable] == bad
    assert names == seen
    assert read_all(source_of(path)) == (rows, unreadable, names)


def test_parts_tile_a_file(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "a.jsonl", PAIRS * 100)
    found = parts(source_of(path), part_bytes=1000)
    size = path.stat().st_size
    assert [part.start for part in found] == list(range(0, size, 1000))
    assert [part.end for part in found] == [*range(1000, size, 1000), size]
    assert sum(part.size for part in found) == size
    assert [len(parts(source_of(path), part_bytes=bytes_)) for bytes_ in (size - 1, size, size + 1)] == [2, 1, 1]


def rows_of(count: int) -> list[dict[str, object]]:
    return [{"query": f"q{n}", "positive": f"p{n}", "id": n} for n in range(count)]


def test_parquet_by_row_groups(tmp_path):
    for name, start, end in (("a", 0, 40), ("b", 40, 95)):
        pq.write_table(pa.Table.from_pylist(rows_of(95)[start:end]), tmp_path / f"{name}.parquet", row_group_size=10)
    source = source_of(tmp_path / "a.parquet", tmp_path / "b.parquet")
    found = parts(source, part_rows=20)
    assert [(Path(part.path).name, part.start, part.end) for part in found] == [
        ("a.parquet", 0, 2),
        ("a.parquet", 2, 4),
        ("b.parquet", 0, 2),
        ("b.parquet", 2, 4),
        ("b.parquet", 4, 6),
    ]
    for part_rows in (1, 20, 1000):
        rows, unreadable, names = read_all(source, part_rows=part_rows)
        assert [(row.number, row.query, extra(row)["id"]) for row in rows] == [(n, f"q{n}", n) for n in range(95)]
        assert not unreadable
        assert (names["query"], names["positive"]) == (95, 95)
        assert "id" in names


def test_lines_of_bad_rows_are_those_of_their_file(tmp_path):
    table = pa.table({"query": ["q", None] * 20, "positive": ["p"] * 40})
    for name in "ab":
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=10)
    source = source_of(tmp_path / "a.parquet", tmp_path / "b.parquet")
    rows, unreadable, _ = read_all(source, part_rows=10)
    assert [row.number for row in rows] == list(range(0, 80, 2))
    assert [bad.line for bad in unreadable] == 2 * list(range(2, 41, 2))


def test_hugging_face_data_by_rows(tmp_path):
    datasets = pytest.importorskip("datasets")
    load_hub.cache_clear()
    datasets.Dataset.from_list(rows_of(2500)).save_to_disk(str(tmp_path / "saved"))
    source = Source("saved", "hf", (f"hf:{tmp_path}/saved::train",), FIELDS)
    assert [(part.start, part.end) for part in parts(source, part_rows=1200)] == [(0, 1200), (1200, 2400), (2400, 2500)]
    rows, _, names = read_all(source, part_rows=1200)
    assert [(row.number, row.query, row.positive, extra(row)) for row in rows] == [
        (n, f"q{n}", f"p{n}", {"id": n}) for n in range(2500)
    ]
    assert names["query"] == 2500
    part = parts(source)[0]
    load_hub.cache_clear()
    datasets.Dataset.from_list(rows_of(3)).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(InputError, match=r"saved::train: it has changed since the job began"):
        next(read_part(part, source, Summary()))


def write_as(folder: Path, ending: str, records) -> list[Path]:
    """Three files of unequal length, one of them of no rows, in a format."""
    paths = []
    for name, start, end in (("a", 0, 30), ("b", 30, 30), ("c", 30, len(records))):
        path, chosen = folder / f"{name}{ending}", records[start:end]
        if ending == ".parquet":
            schema = pa.schema([("query", pa.string()), ("positive", pa.string()), ("id", pa.int64())])
            pq.write_table(pa.Table.from_pylist(chosen, schema), path, row_group_size=7)
        elif ending in (".tar", ".tar.gz"):
            write_tar(path, chosen, "w:gz" if ending.endswith("gz") else "w")
        elif ".csv" in ending:
            text = "query,positive,id\n" + "".join(f"{r['query']},{r['positive']},{r['id']}\n" for r in chosen)
            path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
        else:
            # Blank lines and bad ones count as the whole reading counts them.
            lines = "".join("\n" + json.dumps(r) + ("\nnot JSON\n" if r["id"] % 10 == 3 else "\n") for r in chosen)
            data = lines.encode()
            path.write_bytes({".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)(data))
        paths.append(path)
    return paths


@pytest.mark.parametrize(
    "ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".csv.gz", ".parquet", ".tar", ".tar.gz"]
)
def test_a_limit_gives_the_first_rows(tmp_path, ending):
    paths = write_as(tmp_path, ending, rows_of(80))
    rows, unreadable, _ = read_all(source_of(*paths))
    total = len(rows) + len(unreadable)
    assert total >= 80
    for limit in (1, 5, 29, 30, 31, 33, 34, 50, total - 1, total, total + 1, 10**9):
        source = source_of(*paths, limit=limit)
        some, bad, _ = read_all(source, part_bytes=100, part_rows=10)
        assert some == [row for row in rows if row.number < limit], limit
        assert len(some) + len(bad) == min(limit, total)
        assert bad == unreadable[: len(bad)]


def test_a_limit_of_a_hugging_face_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    load_hub.cache_clear()
    datasets.Dataset.from_list(rows_of(50)).save_to_disk(str(tmp_path / "saved"))
    for limit in (1, 20, 21, 50, 99):
        source = Source("saved", "hf", (f"hf:{tmp_path}/saved::train",), FIELDS, limit=limit)
        assert len(read_all(source, part_rows=20)[0]) == min(limit, 50)


# ---- while the job runs --------------------------------------------------------------------------------------------


def collect(part) -> list:
    return list(read_part(part, source_of(Path(part.path)), Summary()))


def test_parts_are_read_by_other_processes(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "a.jsonl", PAIRS * 50 + ["no object"])
    found = parts(source_of(path), part_bytes=3000)
    assert len(found) > 2
    assert all(pickle.loads(pickle.dumps(part)) == part for part in found)
    assert max(len(pickle.dumps(part)) for part in found) < 1000
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(collect, found) == [collect(part) for part in found]


def test_a_file_that_vanishes_or_changes_is_named(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "a.jsonl", PAIRS * 100)
    _, second, *_ = parts(source_of(path), part_bytes=1000)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"a\.jsonl: was \d+ bytes, is \d+: it has changed since the job began"):
        collect(second)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.jsonl: no such file"):
        collect(second)


def test_a_file_cut_short_while_it_is_read_is_named(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "a.jsonl", PAIRS * 20_000)  # more than is read at once
    items = read_part(parts(source_of(path))[0], source_of(path), Summary())
    next(items)
    with path.open("r+b") as file:
        file.truncate(10)
    with pytest.raises(InputError, match=r"a\.jsonl: was \d+ bytes, is 10: it has changed since the job began"):
        list(items)


def test_names_of_fields_are_counted_and_bounded(tmp_path, write_jsonl):
    draw = random.Random(0)
    records = [{f"f{draw.random()}": 1, "query": "a"} for _ in range(3000)] + [{"query": "a", "positive": "b"}]
    path = write_jsonl(tmp_path / "a.jsonl", records)
    _, _, names = read_all(source_of(path))
    assert (names["query"], names["positive"]) == (3001, 1)
    assert len(names) <= 2 + parts_module.NAMED_ROWS
