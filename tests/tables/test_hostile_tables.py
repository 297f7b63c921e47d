"""Files made to fill the memory, files of another kind than their name, and what programs leave behind in tables."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jemb.core.errors import InputError
from jemb.evaluate.tasks.beir import read_qrels
from jemb.evaluate.tasks.rows import read_rows
from jemb.tables.columns import rows_of
from jemb.tables.records import MAX_RECORD, MAX_VALUES, Bad, NotText
from jemb.tables.whole import read_table


def read(path: Path) -> list:
    kind = next(kind for kind in ("jsonl", "csv", "tsv", "parquet", "tar") if f".{kind}" in path.name)
    return list(read_table(str(path), kind))


def rows(path: Path) -> list[dict]:
    return [item if isinstance(item, Bad) else item[1] for item in read(path)]


# ---- bombs ---------------------------------------------------------------------------------------------------------

LONG = b"a" * (3 * MAX_RECORD)
PAIR = b'{"query":"q","positive":"p"}'


def tar_of(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind if data is LONG else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(data))
            if info.type != tarfile.REGTYPE:  # tarfile writes no payload of these
                buffer.write(data)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make", "wanted"),
    [
        ("a.jsonl.gz", lambda: b'{"query":"' + LONG + b'"}\n' + PAIR, "more than 64 MiB"),
        ("b.jsonl", lambda: b'{"x":[' + b"{}," * MAX_VALUES + b",{}]}\n" + PAIR, f"more than {MAX_VALUES} values"),
        ("c.csv.gz", lambda: b'query,positive\n"' + LONG + b'",p\nq,p\n', "row of more than 64 MiB"),
        ("d.tsv.gz", lambda: b"query\tpositive\n" + LONG + b"\tp\nq\tp\n", "row of more than 64 MiB"),
        ("e.tar.gz", lambda: tar_of(("a.query.txt", LONG), ("b.json", PAIR)), f"a.query.txt: of {len(LONG)} bytes"),
        ("f.tar.gz", lambda: tar_of(("a.json", LONG), ("b.json", PAIR)), "which makes a sample of more than"),
    ],
)  # fmt: skip
def test_a_record_too_long_costs_itself_alone(tmp_path: Path, name: str, make, wanted: str) -> None:
    path = tmp_path / name
    data = make()
    path.write_bytes(gzip.compress(data, 1) if name.endswith(".gz") else data)
    del data
    tracemalloc.start()
    bad, good = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(bad, Bad)
    assert wanted in bad.reason
    assert not bad.rest_lost
    assert good[1] == {"query": "q", "positive": "p"}
    assert peak < 4.5 * MAX_RECORD


def test_a_video_beside_a_text_is_not_even_read(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of(("a.json", PAIR), ("a.mp4", LONG), ("a.txt", b"x")), 1))
    (fields,) = rows(tmp_path / "a.tar.gz")
    assert fields.pop("mp4") == NotText(f"of {len(LONG)} bytes; wanted at most 64 MiB")
    assert fields == {"query": "q", "positive": "p", "txt": "x"}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_too_long_is_damage(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of(("a.json", LONG), kind=kind), 1))
    (bad,) = read(tmp_path / "a.tar.gz")
    assert (bad.rest_lost, "a header of more than 1 MiB" in bad.reason) == (True, True)


def test_a_quote_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'query,positive\nq,p\n"' + b"a\n" * 200_000)
    row, bad = read(tmp_path / "a.csv")
    assert row == (2, {"query": "q", "positive": "p"})
    assert (bad.line, bad.rest_lost, "a row without an end" in bad.reason) == (3, True, True)


def test_parquet_is_read_by_bytes(tmp_path: Path) -> None:
    """A text of 1 MiB that all rows share takes 1 MiB in the file, and took it for each of 1,024 rows at once."""
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), pa.array(["x" * (1 << 20)]))
    table = pa.table({"query": shared, "positive": shared})
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema, compression="zstd") as writer:
        for _ in range(8):
            writer.write_table(table)
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    before, most = pa.total_allocated_bytes(), 0
    for item in read_table(str(tmp_path / "a.parquet"), "parquet"):
        assert not isinstance(item, Bad)
        most = max(most, pa.total_allocated_bytes() - before)
    assert item[0] == 512
    assert most < 600 << 20


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["x" * (80 << 20)], "row group 0, column 'query': 1 rows of 83886"),
        (["x" * (1 << 20)] * 80, "packed into"),
    ],
)
def test_parquet_that_packs_as_no_text_does_is_refused(tmp_path: Path, texts: list[str], wanted: str) -> None:
    pq.write_table(pa.table({"query": texts}), tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    with pytest.raises(InputError, match=rf"a\.parquet: .*{wanted}"):
        read(tmp_path / "a.parquet")


# ---- TSV -----------------------------------------------------------------------------------------------------------


def test_a_quote_in_a_tsv_is_a_character(tmp_path: Path, caplog) -> None:
    lines = ['"a" b\tc "d', '"open\tp', 'q"\t"', "5\" pipe\t6'", '"as in ""CSV"""\tp', "x\ty\tz", "\t"]
    (tmp_path / "a.tsv").write_text("query\tpositive\n" + "\n".join(lines) + "\n")
    found = rows(tmp_path / "a.tsv")
    assert [tuple(row.values()) for row in found if not isinstance(row, Bad)] == [
        tuple(line.split("\t")) for line in lines if line.count("\t") == 1
    ]
    assert found[5] == Bad(7, "3 fields; the header has 2", "x\ty\tz")
    assert "1 rows have cells quoted as in CSV" in caplog.text


def test_the_tsv_of_a_task_is_read_like_any(tmp_path: Path) -> None:
    (tmp_path / "sts.tsv").write_text('sentence1\tsentence2\tscore\n"He said\t"yes\t5\nx"\ty\t1\n')
    assert [row.fields["sentence1"] for row in read_rows(tmp_path / "sts.tsv")] == ['"He said', 'x"']


# ---- byte order marks, joined files, other kinds -------------------------------------------------------------------

MARK = "\ufeff"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", f'{MARK}{{"query":"a","positive":"b"}}\n{MARK}{{"query":"c","positive":"d"}}\n'),
        ("a.csv", f'{MARK}"query",positive\n{MARK}a,b\n{MARK}"c",{MARK}d\n'),
        ("a.tsv", f"{MARK}query\tpositive\r\n{MARK}a\t{MARK}b\r\nc\td\r\n"),
    ],
)
def test_byte_order_marks_are_no_text(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, newline="")
    assert rows(tmp_path / name) == [{"query": "a", "positive": "b"}, {"query": "c", "positive": "d"}]


def test_byte_order_marks_of_judgements(tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text(f"{MARK}query-id\tcorpus-id\tscore\n{MARK}q\td\t1\n")
    assert read_qrels(tmp_path / "test.tsv") == {"q": {"d": 1}}


@pytest.mark.parametrize("sign", [",", "\t"])
def test_the_header_of_a_joined_file_is_no_pair(tmp_path: Path, sign: str) -> None:
    path = tmp_path / {",": "a.csv", "\t": "a.tsv"}[sign]
    path.write_text("query,positive\na,b\nquery,positive\n\0,d\n".replace(",", sign))
    assert [item if isinstance(item, dict) else item.reason for item in rows(path)] == [
        {"query": "a", "positive": "b"},
        "the header once more, as in files joined",
        "holds NUL bytes",
    ]


@pytest.mark.parametrize(
    ("name", "data", "wanted"),
    [
        ("a.jsonl", b'[\n {"query": "a"}\n]', "is one JSON array; wanted an object a line: jq"),
        ("a.jsonl", b'[{"query":"a"},{"query":"b"}]', "is one JSON array"),
        ("a.jsonl", b'{\n "query": "a"\n}', "a JSON object goes over several lines"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "is packed with gzip; name it ….gz"),
        ("a.jsonl.gz", gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), "is packed with gzip"),
        ("a.csv", b"PK\x03\x04 and so on", "is a zip archive or an Excel sheet; unpack it first, or save the sheet"),
        ("a.tsv", pickle.dumps({"query": ["a"]}), "is a Python pickle, which is code"),
        ("a.csv", b"<!DOCTYPE html><html>", "is a web page; perhaps a login was in the way"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
        ("a.tar", b"\xfd7zXZ\0", "is packed with xz; unpack it first"),
        ("a.csv", "query,positive\n".encode("utf-16-be"), "is UTF-16; wanted UTF-8"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path: Path, name: str, data: bytes, wanted: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=f"{name}: ") as error:
        read(tmp_path / name)
    assert wanted in str(error.value)


@pytest.mark.parametrize("depth", [900, 100_000])
def test_json_nested_deeply_is_one_bad_row(tmp_path: Path, depth: int) -> None:
    deep = b'{"query":' + b"[" * depth + b"]" * depth + b"}"
    (tmp_path / "a.jsonl").write_bytes(deep + b"\n" + PAIR)
    (tmp_path / "a.tar").write_bytes(tar_of(("a.json", deep), ("b.json", PAIR)))
    for name in ("a.jsonl", "a.tar"):
        first, last = rows(tmp_path / name)
        assert last == json.loads(PAIR)
        assert isinstance(first, dict) or "not JSON" in first.reason


# ---- columns of Arrow ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"caf\xc3\xa9", b"\xff", None], pa.binary_view()),
        pa.array([b"caf\xc3\xa9", b"\xff", None], pa.large_binary()),
        pa.array([b"caf\xc3\xa9", b"\xff", None]).dictionary_encode(),
        pa.array(["café", "x", None], pa.string_view()),
        pa.array(["café", "x", "café"]).dictionary_encode(),
        pa.array([[b"caf\xc3\xa9"], [b"\xff", None], None], pa.list_(pa.binary())),
        pa.array([{"text": b"caf\xc3\xa9"}, {"text": b"\xff"}, None]),
        pa.array([[{"t": b"caf\xc3\xa9"}], [{"t": b"\xff"}], []], pa.large_list(pa.struct({"t": pa.binary()}))),
        pa.array([b"abcd", b"\xff\xff\xff\xff", None], pa.binary(4)),
    ],
    ids=lambda column: str(column.type),
)
def test_binary_columns_of_any_shape_are_text(tmp_path: Path, column: pa.Array) -> None:
    def decoded(value):
        if isinstance(value, bytes):
            return value.decode() if b"\xff" not in value else NotText("not UTF-8: byte 0")
        if isinstance(value, list):
            return [decoded(item) for item in value]
        return {name: decoded(item) for name, item in value.items()} if isinstance(value, dict) else value

    table = pa.table({"x": column})
    wanted = [{"x": decoded(value)} for value in column.to_pylist()]
    found = [row for batch in table.to_batches() for _, row in rows_of([batch])]
    assert found == wanted
    try:
        pq.write_table(table, tmp_path / "a.parquet")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return  # a type that Parquet has not
    assert rows(tmp_path / "a.parquet") == wanted
