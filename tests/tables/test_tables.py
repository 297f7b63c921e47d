"""The one reader of tables: lines in ranges, packed files, places near and far, each against something independent."""

from __future__ import annotations

import datetime
import gzip
import http.server
import io
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fsspec.registry import _registry
from hypothesis import given, settings
from hypothesis import strategies as st

from jemb.core.errors import InputError
from jemb.tables import places, records, streams
from jemb.tables.columns import read_parquet
from jemb.tables.hub import HubName, hub_state, load_hub, read_hub
from jemb.tables.jsonl import read_json_lines
from jemb.tables.places import base_name, list_folder, look, open_bytes
from jemb.tables.records import Bad, NotText
from jemb.tables.streams import Damaged, lines, open_data
from jemb.tables.whole import kind_of, read_table

# ---- lines ---------------------------------------------------------------------------------------------------------


def lines_of(data: bytes, start: int, end: int | None, block: int) -> list[bytes]:
    return list(lines(io.BufferedReader(io.BytesIO(data), block), start, end))


PIECES = st.sampled_from([b"\n", b"\r\n", b"", b"a", b"\xc3\xa9", b"\xf0\x9f\x99\x82", b" ", b"long " * 5, b"\n\n"])


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=30).map(b"".join), st.lists(st.integers(1, 200), max_size=6), st.integers(1, 40))
def test_ranges_give_each_line_once(data: bytes, cuts: list[int], block: int) -> None:
    wanted = data.split(b"\n")
    if not wanted[-1]:
        wanted.pop()
    assert lines_of(data, 0, None, block) == wanted
    borders = sorted({cut for cut in cuts if cut < len(data)})
    found = []
    for start, end in zip([0, *borders], [*borders, len(data)], strict=True):
        found += lines_of(data, start, end, block)
    assert found == wanted


def test_a_line_belongs_to_the_range_in_which_it_begins() -> None:
    data = b"abc\ndef\nghi\n"
    ranges = [(0, 4), (4, 5), (5, 8), (8, 12)]
    assert [lines_of(data, *pair, 3) for pair in ranges] == [[b"abc"], [b"def"], [], [b"ghi"]]


def test_a_line_too_long_is_cut_and_costs_no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(streams, "MAX_RECORD", 100)
    monkeypatch.setattr(records, "MAX_RECORD", 100)
    good = b'{"a":1}'
    data = good + b"\n" + b'{"b":"' + b"x" * 1000 + b'"}\n' + good
    assert [len(line) for line in lines_of(data, 0, None, 64)] == [7, 101, 7]
    assert [len(line) for start in (0, 8, 9, 500) for line in lines_of(data, start, start + 8, 64)] == [7, 101]
    (tmp_path / "a.jsonl").write_bytes(data)
    first, bad, last = read_json_lines(str(tmp_path / "a.jsonl"))
    assert (first, last) == ((1, {"a": 1}), (3, {"a": 1}))
    assert isinstance(bad, Bad)
    assert bad.reason.startswith("more than")


# ---- JSON ----------------------------------------------------------------------------------------------------------

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.integers(10**15, 10**40) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["\ud83d", "\ud83d\ude00", "\x00", "\u2028"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
ODD = st.sampled_from(
    ["NaN", "-Infinity", "1e400", "-0", "-0.0", "01", "1.", ".5", "+1", "nan", '"\\ud83d"', '"\\udc00x"', '"\t"', "'a'",
     '{"a":1,"a":2}', "[1,]", "{}x", "9" * 30, "9" * 5000, "1e-400", "\u00a01", '"\\x"', "tru", "[" * 300 + "]" * 300]
)  # fmt: skip


@settings(max_examples=300)
@given((VALUES.map(json.dumps) | ODD | st.text(max_size=12)).filter(lambda text: "\n" not in text), st.booleans())
def test_rows_are_what_python_reads(text: str, inside: bool) -> None:
    """Python's parser says which lines are JSON, and with which value; a key that comes twice is a mistake."""
    line = (f'{{"v": {text}}}' if inside else text).encode("utf-8", "surrogatepass")
    try:
        wanted = json.loads(line.decode())
    except ValueError:
        wanted = None
    if text == '{"a":1,"a":2}':
        wanted = None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.jsonl").write_bytes(b"  \n" + line + b"\n")
        found = list(read_json_lines(str(Path(folder) / "a.jsonl")))
    if not line.strip():
        assert found == []
    elif isinstance(wanted, dict):
        ((number, value),) = found
        assert number == 2
        assert repr(value) == repr(wanted)  # types too, and NaN equals NaN
    else:
        assert isinstance(found[0], Bad)


# ---- packed files --------------------------------------------------------------------------------------------------

ROW = b'{"text": "a", "score": 1}\n'


def many_rows(count: int = 5000) -> bytes:
    return b"".join(b'{"text": "question %d", "score": %d}\n' % (n * 7919, n) for n in range(count))


def zstd_frames(data: bytes) -> bytes:
    """As `zstd` packs a stream, twice: sizes unknown, one frame after the other."""
    packed = b""
    for part in (data[: len(data) // 2], data[len(data) // 2 :]):
        packer = zstandard.ZstdCompressor().compressobj()
        packed += packer.compress(part) + packer.flush()
    return packed


PACKERS = [("gz", gzip.compress), ("zst", zstandard.compress), ("zst", zstd_frames)]


@pytest.mark.parametrize(("ending", "pack"), PACKERS)
def test_packed_files(tmp_path: Path, ending: str, pack) -> None:
    data = many_rows()
    plain, packed = tmp_path / "a.jsonl", tmp_path / f"b?.jsonl.{ending}"
    plain.write_bytes(data)
    packed.write_bytes(pack(data))
    wanted = list(read_table(str(plain), "jsonl"))
    assert list(read_table(str(packed), "jsonl")) == wanted
    # Cut off, it gives a start of the rows and says so; at most a block of ours and one of zstd's (128 KiB) is lost.
    packed.write_bytes(pack(data)[:-7])
    *rows, bad = read_table(str(packed), "jsonl")
    assert rows == wanted[: len(rows)]
    assert len(data) - sum(len(json.dumps(row)) + 1 for _, row in rows) < streams.PACKED_BLOCK + (
        2**17 if ending == "zst" else 0
    )
    assert isinstance(bad, Bad)
    assert (bad.rest_lost, bad.line) == (True, len(rows) + 1)
    assert {"gz": "gzip", "zst": "zstd"}[ending] in bad.reason
    for junk in (ROW, pack(data) + b"junk at the end of it"):
        packed.write_bytes(junk)
        *_, bad = read_table(str(packed), "jsonl")
        assert isinstance(bad, Bad)
        assert bad.rest_lost
    table = tmp_path / f"c.csv.{ending}"
    table.write_bytes(pack(b"text,score\na,1\nb,2\n"))
    assert list(read_table(str(table), "csv")) == [(2, {"text": "a", "score": "1"}), (3, {"text": "b", "score": "2"})]
    table.write_bytes(pack(b"text,score\n" + b"a,1\n" * 5000)[:-7])
    *_, bad = read_table(str(table), "csv")
    assert isinstance(bad, Bad)
    assert bad.rest_lost


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_utf16_is_named(tmp_path: Path, encoding: str, kind: str) -> None:
    text = '{"text": "a"}\n' if kind == "jsonl" else "text,score\na,1\n"
    (tmp_path / "a").write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match=r"/a: is UTF-16; wanted UTF-8: iconv"):
        list(read_table(str(tmp_path / "a"), kind))


def test_kinds_by_name() -> None:
    names = ["a.jsonl", "a.b.CSV.GZ", "x.tsv.zst", "y.parquet", "a.parquet.gz", ".jsonl", "a.json", "a"]
    found = [kind_of(name) for name in names]
    assert found == [("jsonl", "a"), ("csv", "a.b"), ("tsv", "x"), ("parquet", "y"), None, None, None, None]


# ---- columns -------------------------------------------------------------------------------------------------------


def test_texts_of_a_parquet_file_that_are_none(tmp_path: Path) -> None:
    """Arrow lets any bytes pass for a text; each spoils its own cell only."""
    offsets, data = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")
    texts = pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])
    pq.write_table(pa.table({"text": texts, "raw": pa.array([b"caf\xc3\xa9", b"\xff"])}), tmp_path / "a.parquet")
    assert list(read_parquet(str(tmp_path / "a.parquet"))) == [
        (1, {"text": "a", "raw": "café"}),
        (2, {"text": NotText("not UTF-8: byte 0"), "raw": NotText("not UTF-8: byte 0")}),
    ]


def test_times_that_python_cannot_hold_are_text(tmp_path: Path) -> None:
    times = pa.array([1, 10**15], pa.timestamp("ms"))  # 1970 and 33658
    pq.write_table(pa.table({"day": [datetime.date(2024, 2, 29)] * 2, "time": times}), tmp_path / "a.parquet")
    rows = list(read_parquet(str(tmp_path / "a.parquet")))
    assert rows[0] == (1, {"day": datetime.date(2024, 2, 29), "time": datetime.datetime(1970, 1, 1, 0, 0, 0, 1000)})
    assert rows[1][1]["time"] == "<value out of range: 1000000000000000>"


def test_row_groups(tmp_path: Path) -> None:
    table = pa.table({"n": list(range(50))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    rows = [row["n"] for start in range(8) for _, row in read_parquet(str(tmp_path / "a.parquet"), start, start + 1)]
    assert rows == list(range(50))
    assert [number for number, _ in read_parquet(str(tmp_path / "a.parquet"), 1, 3)] == list(range(1, 15))


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: column 'text' comes twice"):
        list(read_parquet(str(tmp_path / "a.parquet")))


# ---- places --------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/", recursive=True)


def test_a_url_is_a_place_like_any(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    data = many_rows(100)
    table = io.BytesIO()
    pq.write_table(pa.table({"n": [1, 2]}), table)
    for name, content in {"b.jsonl": data, "a.jsonl.gz": gzip.compress(data), "c.parquet": table.getvalue()}.items():
        memory.pipe(f"/raw/{name}", content)
        (tmp_path / name).write_bytes(content)
    memory.pipe("/raw/sub/x.csv", b"a\n1\n")
    memory.pipe("/raw/.hidden", b"")
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").touch()
    far, near = list_folder("memory://raw"), list_folder(str(tmp_path))
    assert [(item.name, item.is_folder) for item in far] == [(item.name, item.is_folder) for item in near]
    assert [item.name for item in far] == ["a.jsonl.gz", "b.jsonl", "c.parquet", "sub"]
    for item, local in zip(far[:3], near[:3], strict=True):
        assert look(item.place).size == look(local.place).size
        assert list(read_table(item.place, kind_of(item.name)[0])) == list(
            read_table(local.place, kind_of(item.name)[0])
        )
    wanted = list(read_json_lines(str(tmp_path / "b.jsonl"), 1000, 2000))
    assert wanted
    assert list(read_json_lines("memory://raw/b.jsonl", 1000, 2000)) == wanted
    assert list(read_json_lines(f"file://{tmp_path}/b.jsonl", 1000, 2000)) == wanted
    tag = look("memory://raw/b.jsonl").tag
    assert tag == look("memory://raw/b.jsonl").tag
    memory.pipe("/raw/b.jsonl", data[::-1])
    assert look("memory://raw/b.jsonl").tag != tag


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ("memory://no/such.jsonl", "memory://no/such.jsonl: no such file"),
        ("nope://x/a.jsonl", "nope://x/a.jsonl: Protocol not known: nope"),
        ("https://localhost:1/a.jsonl", "https://localhost:1/a.jsonl: "),
        ("/no/such.jsonl", "/no/such.jsonl: no such file"),
    ],
)
def test_places_where_nothing_is_are_named(place: str, wanted: str) -> None:
    for action in (look, open_bytes, lambda place: list(read_json_lines(place))):
        with pytest.raises(InputError) as error:
            action(place)
        assert wanted in str(error.value)


def test_a_file_system_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)  # another test may have used it
    with pytest.raises(InputError, match=r"s3://bucket/a\.jsonl: Install s3fs"):
        look("s3://bucket/a.jsonl")


def test_names_in_urls() -> None:
    names = [base_name(place) for place in ("https://h/x/a.jsonl?download=1", "s3://b/raw/", "raw/a b.csv", "/x/raw/")]
    assert names == ["a.jsonl", "raw", "a b.csv", "raw"]


def test_files_without_permission_are_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes(ROW)
        Path(folder).chmod(0o755)
        path.chmod(0)
        root = os.geteuid() == 0
        if root:  # whom no file refuses
            os.seteuid(65534)
        try:
            with pytest.raises(InputError, match=r"a\.jsonl: cannot be read \(Permission denied\)"):
                list(read_json_lines(str(path)))
        finally:
            if root:
                os.seteuid(0)


class Server(http.server.SimpleHTTPRequestHandler):
    """Knows no ranges of bytes, like Python's own; `broken.jsonl` ends in the middle."""

    def log_message(self, *_: object) -> None:
        pass

    def copyfile(self, source, outputfile) -> None:
        data = source.read()
        outputfile.write(data[: len(data) // 2] if "broken" in self.path else data)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_file_on_a_web_server(tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = many_rows(20_000)
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "broken.jsonl").write_bytes(data)
    wanted = list(read_json_lines(str(tmp_path / "a.jsonl")))
    assert list(read_json_lines(f"{web}/a.jsonl")) == wanted
    assert list(read_json_lines(f"{web}/a.jsonl.gz")) == wanted
    assert look(f"{web}/a.jsonl").size == len(data)
    # What is kept by column cannot be read in order.
    monkeypatch.setattr(places, "REMOTE_BLOCK", 1000)
    pq.write_table(pa.table({"n": list(range(10_000))}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read \(ValueError: The HTTP server doesn't"):
        list(read_parquet(f"{web}/a.parquet"))
    with pytest.raises(InputError, match=r"/no\.jsonl: no such file"):
        look(f"{web}/no.jsonl")
    with pytest.raises(InputError, match=r"broken\.jsonl: cannot be read \(ClientPayloadError"):
        list(read_json_lines(f"{web}/broken.jsonl"))


# ---- headers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_headers(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    sign = "," if kind == "csv" else "\t"
    for content in (b"", b"\n\n", "\ufeffa,b\r\n".encode()):
        path.write_bytes(content)
        assert list(read_table(str(path), kind)) == []
    path.write_bytes("\ufeffa,b\r\n1,2\r\n".replace(",", sign).encode())
    assert list(read_table(str(path), kind)) == [(2, {"a": "1", "b": "2"})]
    for content, wanted in ((b"a,b,a\n", "column 'a' comes twice"), (b"\xff,b\n", "header is not UTF-8")):
        path.write_bytes(content.replace(b",", sign.encode()))
        with pytest.raises(InputError, match=f"line 1: (the )?{wanted}"):
            list(read_table(str(path), kind))


def test_damage_in_the_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(b"no gzip")
    (bad,) = read_table(str(tmp_path / "a.csv.gz"), "csv")
    assert (bad.line, bad.rest_lost) == (1, True)
    assert bad.reason.startswith("damaged or truncated gzip")
    with pytest.raises(Damaged), open_data(str(tmp_path / "a.csv.gz")) as file:
        file.read()


# ---- Hugging Face --------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set folder with two splits, and a cache of its own."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    load_hub.cache_clear()
    folder = tmp_path / "questions"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(f'{{"query": "q{n}", "positive": "p{n}"}}\n' for n in range(2500)))
    (folder / "test.jsonl").write_text('{"query": "t", "positive": "u"}\n')
    return folder


def test_a_local_folder_of_the_hub_kind(hub_folder: Path) -> None:
    hub = f"hf:{hub_folder}"
    rows = list(read_hub(hub))
    assert rows == [(n + 1, {"query": f"q{n}", "positive": f"p{n}"}) for n in range(2500)]
    assert list(read_hub(hub, 1200, 1202)) == [(1, rows[1200][1]), (2, rows[1201][1])]
    assert list(read_hub(f"hf:{hub_folder}::test")) == [(1, {"query": "t", "positive": "u"})]
    state = hub_state(hub)
    assert (state["file"], state["split"], state["rows"]) == ("hf:questions", "train", 2500)
    (hub_folder / "train.jsonl").write_text('{"query": "other", "positive": "p"}\n')
    load_hub.cache_clear()
    assert hub_state(hub)["fingerprint"] != state["fingerprint"]


def test_data_sets_saved_to_disk(hub_folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"query": ["a", "b", "c"], "positive": ["x", "y", "z"]})
    one.select([2, 0]).save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=one, dev=one.select([1])).save_to_disk(str(tmp_path / "two"))
    assert [row["query"] for _, row in read_hub(f"hf:{tmp_path}/one")] == ["c", "a"]
    assert [row["query"] for _, row in read_hub(f"hf:{tmp_path}/two::dev")] == ["b"]
    with pytest.raises(InputError, match="Unknown split 'test'; there are train, dev"):
        load_hub(f"hf:{tmp_path}/two::test")


def test_a_cached_data_set_needs_no_network(hub_folder: Path, tmp_path: Path) -> None:
    """The cache as it is after a download: the built files under the name of the data set."""
    load_hub(f"hf:{hub_folder}")
    built = next((tmp_path / "cache").glob("**/dataset_info.json")).parent
    version = built.parent
    home = tmp_path / "cache" / "somebody___questions" / "default" / version.name / ("0" * 40)
    home.parent.mkdir(parents=True)
    built.rename(home)
    assert len(list(read_hub("hf:somebody/questions"))) == 2500


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("hf:no/such-data", "hf:no/such-data::train: cannot be loaded: Couldn't reach"),
        ("hf:{folder}::dev", 'Unknown split "dev"'),
        ("hf:{folder}:other", "BuilderConfig 'other' not found"),
    ],
)
def test_what_is_not_there_is_named_at_once(
    hub_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, wanted: str
) -> None:
    monkeypatch.setattr(time, "sleep", None)  # who tries again waits first
    with pytest.raises(InputError) as error:
        load_hub(name.format(folder=hub_folder))
    assert wanted in str(error.value)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    load_hub.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match=r"hf:any::train: reading it needs .* pip install 'jemb\[hf\]'"):
        load_hub("hf:any")


def test_names_of_hub_data_sets() -> None:
    assert HubName.parse("hf:a/b") == HubName("a/b", None, "train")
    assert HubName.parse("hf:a/b:c") == HubName("a/b", "c", "train")
    assert HubName.parse("hf:a/b:c:d[:10%]") == HubName("a/b", "c", "d[:10%]")
    assert HubName.parse(str(HubName("a/b", None, "dev"))) == HubName("a/b", None, "dev")
    assert HubName.parse("hf://datasets/a/b.jsonl") is None
    assert HubName.parse("raw/a.jsonl") is None
    with pytest.raises(InputError, match="wanted hf:NAME"):
        HubName.parse("hf:")
