"""Task files in every format, and a complaint with its place for everything that cannot be read."""

import gzip
from pathlib import Path

import pytest

from jemb.core.errors import InputError
from jemb.evaluate.tasks.rows import read_rows


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b'{"text": "two\\nlines", "score": "3.8", "source": "a"}\n\n{"text": "", "score": 5}\n'),
        ("a.b.csv.gz", b'text,score\r\n"two\nlines",3.8\r\n"",5\r\n'),
    ],
)
def test_fields_of_rows(tmp_path: Path, name: str, data: bytes) -> None:
    """The formats are those of prepare, and tested with `jemb.tables`."""
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    rows = [(row.text("text"), row.number("score")) for row in read_rows(tmp_path / name)]
    assert rows == [("two\nlines", 3.8), ("", 5)]


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
        ("text;score\na;1\n", ["line 2", "no field 'text'", "it has ';' between its names", "a tab in .tsv"]),
        ("text\tscore\n", ["no rows"]),
    ],
)
def test_a_broken_table_is_named(tmp_path: Path, text: str, wanted: list[str]) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text(text)
    message = complaint(path)
    assert all(part in message for part in [str(path), *wanted]), message


def test_damaged_missing_and_strange_files_are_named(tmp_path: Path) -> None:
    line = b'{"text": "a", "score": 1}\n'
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(line * 10_000)[:-20])
    assert "cut.jsonl.gz: damaged after line" in complaint(tmp_path / "cut.jsonl.gz")
    (tmp_path / "plain.jsonl.gz").write_bytes(line)
    assert "plain.jsonl.gz: damaged after line 0" in complaint(tmp_path / "plain.jsonl.gz")
    (tmp_path / "no.parquet").write_bytes(line)
    assert "no.parquet: damaged after row 0" in complaint(tmp_path / "no.parquet")
    (tmp_path / "rows.json").write_bytes(line)
    assert "rows.json: unknown format; wanted .jsonl" in complaint(tmp_path / "rows.json")
    assert "plain.jsonl: no such file" in complaint(tmp_path / "plain.jsonl")
    assert "did you mean 'plain.jsonl.gz'" in complaint(tmp_path / "plain.jsonl")
    assert "no such file" in complaint(tmp_path / "nowhere" / "x.jsonl")
    assert "is a folder" in complaint(tmp_path)
