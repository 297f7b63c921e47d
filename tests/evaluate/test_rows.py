"""Task files in every format, and a complaint with its place for everything that cannot be read."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jemb.core.errors import InputError
from jemb.evaluate.rows import read_rows

ROWS = [
    {"sentence1": "Ein Hund – läuft", "sentence2": 'he said "hi",\tand left', "score": "3.8", "source": "a"},
    {"sentence1": "", "sentence2": "two\nlines", "score": "5", "source": "b"},
]


def write(path: Path) -> Path:
    """`ROWS` in the format the name tells, by other means than ours."""
    text = ""
    if ".jsonl" in path.name:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in ROWS)
    elif ".parquet" not in path.name:
        quoted = [['"' + value.replace('"', '""') + '"' for value in row.values()] for row in ROWS]
        text = "\ufeff" + "\r\n".join([",".join(ROWS[0]), *map(",".join, quoted)]) + "\r\n"
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        data = text.encode()
        path.write_bytes({".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)(data))
    return path


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.b.jsonl.gz", "a.jsonl.zst", "a.csv", "a.csv.gz", "a.csv.zst", "a.parquet"]
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = list(read_rows(write(tmp_path / name)))
    assert [dict(row.fields) for row in rows] == ROWS
    assert rows[0].number("score") == 3.8
    assert rows[1].text("sentence2") == "two\nlines"


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_a_tsv_has_no_quotes(tmp_path: Path, name: str) -> None:
    text = '\ufefftext\tscore\r\nhe said "hi\t3.8\r\n"\t5\r\n'.encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    rows = [(row.text("text"), row.number("score")) for row in read_rows(tmp_path / name)]
    assert rows == [('he said "hi', 3.8), ('"', 5)]


def test_the_end_of_the_name_is_the_format(tmp_path: Path) -> None:
    path = tmp_path / "my.csv.in.TSV"
    path.write_text("text\tscore\na,b\t1\n")
    assert [row.fields for row in read_rows(path)] == [{"text": "a,b", "score": "1"}]


def complaint(path: Path) -> str:
    def read() -> None:
        for row in read_rows(path):
            row.text("text")
            row.number("score")

    with pytest.raises(InputError) as caught:
        read()
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b'{"text": "a", "score": 1', ["line 3", "not JSON"]),
        (b'["a", 1]', ["line 3", "JSON object"]),
        (b'{"score": 1}', ["line 3", "no field 'text'", "score"]),
        (b'{"texts": "a", "score": 1}', ["line 3", "did you mean 'texts'"]),
        (b'{"text": null, "score": 1}', ["line 3", "'text' is None"]),
        (b'{"text": 7, "score": 1}', ["line 3", "'text' is 7"]),
        (b'{"text": "\\ud800", "score": 1}', ["line 3", "'text'", "Unicode"]),
        (b'{"text": "\xff", "score": 1}', ["line 3", "UTF-8"]),
        (b'{"text": "a", "score": "high"}', ["line 3", "'score' is 'high'"]),
        (b'{"text": "a", "score": NaN}', ["line 3", "'score' is nan"]),
        (b'{"text": "a", "score": "inf"}', ["line 3", "'score' is 'inf'"]),
        (b'{"text": "a", "score": true}', ["line 3", "'score' is True"]),
        (b'{"text": "a", "score": null}', ["line 3", "'score' is None"]),
    ],
)
def test_an_unreadable_line_is_named(tmp_path: Path, line: bytes, wanted: list[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a", "score": 1}\n\n' + line + b"\n")
    message = complaint(path)
    assert all(part in message for part in [str(path), *wanted]), message


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("text\tscore\na\t1\nb\n", ["line 3", "1 fields", "header has 2"]),
        ("text\tscore\na\t1\nb\t2\t3\n", ["line 3", "3 fields", "header has 2"]),
        ('text,score\na,1\n"b" c,2\n', ["after line 2", "quote"]),
        ('text,score\n"a,1\nb,2\n', ["quote"]),  # a quote that never ends would swallow the file
        ("text;score\na;1\n", ["line 2", "no field 'text'", "it has ';' between its names", "a tab in .tsv"]),
        ("\0t\0e", ["is UTF-16; wanted UTF-8"]),
        ("", ["no rows"]),
        ("text\tscore\n", ["no rows"]),
    ],
)
def test_a_broken_table_is_named(tmp_path: Path, text: str, wanted: list[str]) -> None:
    path = tmp_path / ("rows.csv" if "," in text else "rows.tsv")
    path.write_text(text)
    message = complaint(path)
    assert all(part in message for part in [str(path), *wanted]), message


def test_damaged_missing_and_strange_files_are_named(tmp_path: Path) -> None:
    line = b'{"text": "a", "score": 1}\n'
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(line * 10_000)[:-20])
    assert "cut.jsonl.gz: damaged after line" in complaint(tmp_path / "cut.jsonl.gz")
    (tmp_path / "plain.jsonl.gz").write_bytes(line)
    assert "plain.jsonl.gz: damaged after line 0" in complaint(tmp_path / "plain.jsonl.gz")
    (tmp_path / "cut.jsonl.zst").write_bytes(zstandard.compress(line * 10_000)[:-2])
    assert "cut.jsonl.zst: damaged after line" in complaint(tmp_path / "cut.jsonl.zst")
    (tmp_path / "cut.tsv.gz").write_bytes(gzip.compress(b"text\tscore\n" + b"a\t1\n" * 10_000)[:-20])
    assert "cut.tsv.gz: damaged after line" in complaint(tmp_path / "cut.tsv.gz")
    (tmp_path / "bad.tsv").write_bytes(b"text\tscore\na\xff\t1\n")
    assert "not UTF-8" in complaint(tmp_path / "bad.tsv")
    (tmp_path / "no.parquet").write_bytes(line)
    assert "no.parquet: damaged after row 0" in complaint(tmp_path / "no.parquet")
    (tmp_path / "rows.json").write_bytes(line)
    assert "rows.json: unknown format; wanted .jsonl" in complaint(tmp_path / "rows.json")
    assert "plain.jsonl: no such file" in complaint(tmp_path / "plain.jsonl")
    assert "did you mean 'plain.jsonl.gz'" in complaint(tmp_path / "plain.jsonl")
    assert "no such file" in complaint(tmp_path / "nowhere" / "x.jsonl")
    assert "is a folder" in complaint(tmp_path)
