"""What is found in an input folder, and each way a row or a file can be bad."""

from __future__ import annotations

import csv
import datetime
import gzip
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jemb.config import FieldsConfig
from jemb.errors import InputError
from jemb.prepare.formats import Unreadable
from jemb.prepare.sources import find_sources, read_rows
from jemb.records import Sample

FIELDS = FieldsConfig()


def read(path, fields=FIELDS):
    """(samples, unreadable) of the one data set at `path`."""
    (source,) = find_sources(path)
    rows = list(read_rows(source, fields))
    return [row for row in rows if isinstance(row, Sample)], [row for row in rows if isinstance(row, Unreadable)]


def texts(samples):
    return [(row.query, row.positive, *row.negatives) for row in samples]


# ---- what is found -------------------------------------------------------------------------------------------------


def test_every_documented_kind_is_found_in_order(tmp_path, caplog):
    for name in ("b.jsonl", "a.csv", "d.e.JSONL.GZ", "c.parquet", "t.tsv", ".hidden.jsonl", "notes.txt", "README"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "tars").mkdir()
    for name in ("x-2.tar", "x-1.tar", ".x-0.tar"):
        (tmp_path / "tars" / name).write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with caplog.at_level(logging.WARNING):
        found = find_sources(tmp_path)
    assert [(source.name, source.format) for source in found] == [
        ("a", ".csv"),
        ("b", ".jsonl"),
        ("c", ".parquet"),
        ("d.e", ".jsonl.gz"),
        ("t", ".tsv"),
        ("tars", ".tar"),
    ]
    assert [path.name for path in found[-1].paths] == ["x-1.tar", "x-2.tar"]
    assert "README, empty, notes.txt" in caplog.text
    assert ".hidden" not in caplog.text


def test_one_file_or_one_folder_of_tars_is_a_data_set(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.tar").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(b"")
    assert [source.name for source in find_sources(tmp_path / "set")] == ["set"]
    assert [source.name for source in find_sources(tmp_path / "b.jsonl")] == ["b"]


def test_the_output_inside_the_input_is_no_source(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.tar").write_bytes(b"")
    assert [source.name for source in find_sources(tmp_path, leave_out=tmp_path / "out")] == ["a"]
    assert not caplog.text


@pytest.mark.parametrize(
    ("names", "wanted"),
    [([], "no data set in it"), (["a.txt"], "no data set in it"), (["a.jsonl", "a.csv"], "both be data set 'a'")],
)
def test_folders_that_hold_no_clear_data_sets(tmp_path, names, wanted):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=wanted):
        find_sources(tmp_path)


def test_missing_path_and_unknown_file(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        find_sources(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_bytes(b"")
    with pytest.raises(InputError, match="unknown kind of file"):
        find_sources(tmp_path / "a.txt")


# ---- formats give the same rows ------------------------------------------------------------------------------------

PAIRS = [
    {"query": 'say "hi", twice', "positive": "hi\nhi", "score": 0.5},
    {"query": "Grüße\t", "positive": "挨拶 🙂", "score": None},
]


def write_table(path, records, delimiter):
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, records[0].keys(), delimiter=delimiter)
        table.writeheader()
        table.writerows(records)


def test_all_formats_give_the_same_samples(tmp_path, write_jsonl):
    write_jsonl(tmp_path / "a.jsonl", PAIRS)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    write_table(tmp_path / "c.csv", PAIRS, ",")
    write_table(tmp_path / "d.tsv", PAIRS, "\t")
    pq.write_table(pa.Table.from_pylist(PAIRS), tmp_path / "e.parquet")
    wanted = [("000000000", 'say "hi", twice', "hi\nhi"), ("000000001", "Grüße\t", "挨拶 🙂")]
    for name in ("a.jsonl", "b.jsonl.gz", "c.csv", "d.tsv", "e.parquet"):
        samples, unreadable = read(tmp_path / name)
        assert [(row.key, row.query, row.positive) for row in samples] == wanted, name
        assert not unreadable
        table = name in ("c.csv", "d.tsv")
        assert [row.extra for row in samples] == [{"score": "0.5" if table else 0.5}, {"score": "" if table else None}]


def test_byte_order_mark_blank_lines_and_carriage_returns(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'\xef\xbb\xbf{"query":"a","positive":"b"}\r\n\r\n  \n{"query":"c","positive":"d"}'
    )
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbfquery,positive\r\na,b\r\n\r\nc,d\r\n")
    for name in ("a.jsonl", "b.csv"):
        samples, unreadable = read(tmp_path / name)
        assert texts(samples) == [("a", "b"), ("c", "d")]
        assert [row.key for row in samples] == ["000000000", "000000001"]
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
        samples, unreadable = read(tmp_path / name)
        assert texts(samples) == rows, name
        assert not unreadable
        assert all(row.extra == {} for row in samples)


def test_mapped_fields(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "a.jsonl", [{"title": "t", "body": "b", "wrong": ["w"], "query": 7, "id": 1}])
    samples, _ = read(path, FieldsConfig(query="title", positive="body", negatives="wrong"))
    assert texts(samples) == [("t", "b", "w")]
    # A field of the source that is named like one of the sample's own cannot be carried beside it.
    assert samples[0].extra == {"id": 1}


def test_fields_that_json_cannot_hold_are_carried_as_text(tmp_path):
    record = {
        "query": "q",
        "positive": "p",
        "day": datetime.date(2024, 2, 29),
        "nan": float("nan"),
        "list": [b"\xff", {"a": 1}],
    }
    pq.write_table(pa.Table.from_pylist([{**record, "list": [1.5, float("inf")]}]), tmp_path / "a.parquet")
    (row,), _ = read(tmp_path / "a.parquet")
    assert row.extra == {"day": "2024-02-29", "nan": None, "list": [1.5, None]}
    assert json.loads(json.dumps(row.extra, allow_nan=False)) == row.extra


def test_binary_parquet_columns_are_text(tmp_path):
    table = pa.table({"query": pa.array([b"caf\xc3\xa9", b"\xff"]), "positive": ["p", "p"]})
    pq.write_table(table, tmp_path / "a.parquet")
    samples, (bad,) = read(tmp_path / "a.parquet")
    assert texts(samples) == [("café", "p")]
    assert (bad.line, bad.reason.split(" (")[0]) == (2, "field 'query' is bytes")


# ---- bad rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"query":"a","positive":', "not JSON"),
        (b'{"query":"\xff","positive":"b"}', "not UTF-8: byte 10"),
        (b'["a","b"]', "JSON is list; wanted an object"),
        (b'{"query":"a"}', "field 'positive' is missing"),
        (b'{"query":5,"positive":"b"}', "field 'query' is int (5); wanted text"),
        (b'{"query":null,"positive":"b"}', "field 'query' is null; wanted text"),
        (b'{"query":"a","positive":"b","negatives":"n"}', "field 'negatives' is text; wanted a JSON list"),
        (b'{"query":"a","positive":"b","negatives":{"n":1}}', "field 'negatives' is dict"),
        (b'{"query":"a","positive":"b","negatives":["n",1]}', "a negative is int (1); wanted text"),
        (b'{"query":"\\ud83d","positive":"b"}', "half a surrogate pair"),
        (b'{"query":"a","positive":"b","note":["\\udc00"]}', "half a surrogate pair"),
        (b"[" * 100_000, "not JSON"),
        (b'{"query":"a","positive":"b","deep":' + b"[" * 900 + b"]" * 900 + b"}", "nested too deeply"),
        (b'{"query":"a","positive":"b","n":' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_a_bad_line_spoils_only_itself(tmp_path, line, reason):
    good = b'{"query":"x","positive":"y"}\n'
    (tmp_path / "a.jsonl").write_bytes(good + line + b"\n" + good)
    samples, (bad,) = read(tmp_path / "a.jsonl")
    assert [row.key for row in samples] == ["000000000", "000000002"]
    assert (bad.file.name, bad.line, bad.rest_lost) == ("a.jsonl", 2, False)
    assert reason in bad.reason
    assert len(bad.text) <= 200
    json.dumps(bad.to_json(), ensure_ascii=False).encode()


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
    samples, unreadable = read(tmp_path / "a.csv")
    assert texts(samples) == [("a", "b"), ("two\nlines", "d"), ("e", "f")]
    assert [(bad.line, bad.reason.split(":")[0]) for bad in unreadable] == [
        (3, "1 columns; the header has 2"),
        (4, "3 columns; the header has 2"),
        (5, "not UTF-8"),
        (8, "bad quoting in the row from line 8"),
    ]


def test_an_unclosed_quote_counts_every_line_it_swallows(tmp_path):
    lines = [f"q{number},p{number}" for number in range(1000)]
    lines[100] = '"q100,p100'
    (tmp_path / "a.csv").write_text("query,positive\n" + "\n".join(lines) + "\n")
    samples, unreadable = read(tmp_path / "a.csv")
    assert len(samples) == 100
    assert [bad.line for bad in unreadable] == list(range(102, 1002))


def test_headers_that_cannot_be_used(tmp_path):
    (tmp_path / "a.csv").write_text("query,positive,query\na,b,c\n")
    with pytest.raises(InputError, match="column 'query' comes twice"):
        read(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"\xff,positive\na,b\n")
    with pytest.raises(InputError, match="header is not UTF-8"):
        read(tmp_path / "a.csv")


# ---- files that break off ------------------------------------------------------------------------------------------


def test_truncated_gzip_gives_what_is_there_and_says_so(tmp_path):
    lines = "".join(
        json.dumps({"query": f"question {n * 7919}", "positive": f"answer {n}"}) + "\n" for n in range(5000)
    )
    data = gzip.compress(lines.encode())
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
    samples, (bad,) = read(tmp_path / "a.jsonl.gz")
    assert 0 < len(samples) < 5000
    assert samples[-1].positive == f"answer {len(samples) - 1}"
    assert bad.rest_lost
    assert bad.line == len(samples) + 1
    assert "truncated gzip" in bad.reason


@pytest.mark.parametrize("damage", [lambda data: b"no gzip at all", lambda data: data[:-6] + b"\0" * 6])
def test_damaged_gzip(tmp_path, damage):
    (tmp_path / "a.jsonl.gz").write_bytes(damage(gzip.compress(b'{"query":"a","positive":"b"}\n')))
    _, (bad,) = read(tmp_path / "a.jsonl.gz")
    assert bad.rest_lost


def test_truncated_parquet(tmp_path):
    pq.write_table(pa.table({"query": ["q"] * 100, "positive": ["p"] * 100}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:-20])
    samples, (bad,) = read(tmp_path / "a.parquet")
    assert not samples
    assert bad.rest_lost
    assert "Parquet" in bad.reason


# ---- names of fields -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_wrong_field_name_is_one_message_with_the_right_ones(tmp_path, write_jsonl, name):
    records = [{"title": "a", "positive": "b"}, {"title": "c", "positive": "d"}]
    if name == "a.jsonl":
        write_jsonl(tmp_path / name, records)
    elif name == "a.csv":
        write_table(tmp_path / name, records, ",")
    else:
        pq.write_table(pa.Table.from_pylist(records), tmp_path / name)
    with pytest.raises(InputError) as error:
        read(tmp_path / name, FieldsConfig(query="titel"))
    message = str(error.value)
    assert name in message
    assert "'titel' (fields.query)" in message
    assert "did you mean 'title'" in message
    assert "positive" in message


def test_a_field_missing_from_some_rows_only_is_bad_rows(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "a.jsonl", [{"query": "a", "positive": "b"}, {"positive": "b"}])
    samples, unreadable = read(path)
    assert (len(samples), len(unreadable)) == (1, 1)


def test_a_wrong_name_of_the_negatives_is_warned_of(tmp_path, write_jsonl, caplog):
    path = write_jsonl(tmp_path / "a.jsonl", [{"query": "a", "positive": "b", "negatives": ["c"]}])
    read(path, FieldsConfig(negatives="hard"))
    assert "no row has the field 'hard' (fields.negatives)" in caplog.text
