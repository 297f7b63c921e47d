"""Files made to fill the memory, files of another kind than their name, and what programs leave behind in tables."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jemb.core.errors import InputError
from jemb.evaluate.beir import read_qrels
from jemb.evaluate.rows import read_rows
from jemb.tables.columns import rows_of
from jemb.tables.records import MAX_RECORD, Bad, NotText
from jemb.tables.whole import read_table


def read(path: Path) -> list:
    kind = next(kind for kind in ("jsonl", "csv", "tsv", "parquet", "tar") if f".{kind}" in path.name)
    return list(read_table(str(path), kind))


def rows(path: Path) -> list[dict]:
    return [item if isinstance(item, Bad) else item[1] for item in read(path)]


PAIR = b'{"query":"q","positive":"p"}'


def tar_of(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


# ---- records without end -------------------------------------------------------------------------------------------


def test_a_line_without_end_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"query":"' + b"a" * (3 * MAX_RECORD) + b'"}\n' + PAIR, 1))
    tracemalloc.start()
    bad, good = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (bad.line, bad.reason, bad.rest_lost) == (1, "more than 64 MiB", False)
    assert good[1] == {"query": "q", "positive": "p"}
    assert peak < 4.5 * MAX_RECORD


def test_a_video_beside_a_text_is_not_even_read(tmp_path: Path) -> None:
    video = b"\0" * (MAX_RECORD + 1)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of(("a.json", PAIR), ("a.mp4", video), ("a.txt", b"x")), 1))
    (fields,) = rows(tmp_path / "a.tar.gz")
    assert fields == {"query": "q", "positive": "p", "txt": "x", "mp4": NotText("more than 64 MiB")}


def test_a_quote_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'query,positive\nq,p\nr,"s"t\nu,v\n"' + b"a\n" * 200)
    row, wrong, next_row, bad = read(tmp_path / "a.csv")
    assert (row, next_row) == ((2, {"query": "q", "positive": "p"}), (4, {"query": "u", "positive": "v"}))
    assert (wrong.line, wrong.rest_lost) == (3, False)
    assert (bad.line, bad.rest_lost, "unexpected end of data" in bad.reason) == (5, True, True)


# ---- TSV -----------------------------------------------------------------------------------------------------------


def test_a_quote_in_a_tsv_is_a_character(tmp_path: Path) -> None:
    lines = ['"a" b\tc "d', '"open\tp', 'q"\t"', "5\" pipe\t6'", '"as in ""CSV"""\tp', "x\ty\tz", "\t"]
    (tmp_path / "a.tsv").write_text("query\tpositive\n" + "\n".join(lines) + "\n")
    found = rows(tmp_path / "a.tsv")
    assert [tuple(row.values()) for row in found if not isinstance(row, Bad)] == [
        tuple(line.split("\t")) for line in lines if line.count("\t") == 1
    ]
    assert found[5] == Bad(7, "3 fields; the header has 2", "x\ty\tz")


def test_the_tsv_of_a_task_is_read_like_any(tmp_path: Path) -> None:
    (tmp_path / "sts.tsv").write_text('sentence1\tsentence2\tscore\n"He said\t"yes\t5\nx"\ty\t1\n')
    assert [row.fields["sentence1"] for row in read_rows(tmp_path / "sts.tsv")] == ['"He said', 'x"']


# ---- byte order marks, joined files, other kinds -------------------------------------------------------------------

MARK = "\ufeff"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", f'{MARK}{{"query":"a","positive":"b"}}\n{MARK}{{"query":"c","positive":"d"}}\n'),
        ("a.csv", f'{MARK}"query",positive\na,b\n"c",d\n'),
        ("a.tsv", f"{MARK}query\tpositive\r\na\tb\r\nc\td\r\n"),
    ],
)
def test_byte_order_marks_are_no_text(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, newline="")
    assert rows(tmp_path / name) == [{"query": "a", "positive": "b"}, {"query": "c", "positive": "d"}]


def test_byte_order_marks_of_judgements(tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text(f"{MARK}query-id\tcorpus-id\tscore\nq\td\t1\n")
    assert read_qrels(tmp_path / "test.tsv") == {"q": {"d": 1}}


@pytest.mark.parametrize("sign", [",", "\t"])
def test_the_header_of_a_joined_file_is_no_pair(tmp_path: Path, sign: str) -> None:
    path = tmp_path / {",": "a.csv", "\t": "a.tsv"}[sign]
    path.write_text("query,positive\na,b\nquery,positive\n".replace(",", sign))
    assert [item if isinstance(item, dict) else item.reason for item in rows(path)] == [
        {"query": "a", "positive": "b"},
        "the header once more, as in files joined",
    ]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b'[{"query": "a"}]'),
        ("a.jsonl", gzip.compress(b"{}", mtime=0)),
        ("a.tar", b"\xfd7zXZ\0"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid"),
        ("a.csv", "query,positive\n".encode("utf-16")),
        ("a.csv", gzip.compress(b"query,positive\n", mtime=0)),
    ],
)
def test_a_file_of_another_kind_has_no_rows(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    try:
        found = rows(tmp_path / name)
    except InputError as error:
        assert name in str(error)  # noqa: PT017
    else:
        assert found
        assert all(isinstance(item, Bad) for item in found)


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
