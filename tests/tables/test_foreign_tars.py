"""Tars made by others: grouped as webdataset groups them; damage never passes as the end of the tar."""

import gzip
import io
import json
import pickle
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset

from jemb.core.errors import InputError
from jemb.tables.records import Bad, NotText
from jemb.tables.tars import iter_members
from jemb.tables.whole import read_table


def make(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pair(query: str, positive: str, **extra: Any) -> bytes:
    return json.dumps({"query": query, "positive": positive, **extra}).encode()


def read(path: Path) -> list[Any]:
    """The fields of each sample; the `Bad` ones as they are."""
    return [item if isinstance(item, Bad) else item[1] for item in read_table(str(path), "tar")]


def broken(path: Path) -> str:
    """How it breaks off."""
    *_, bad = read_table(str(path), "tar")
    assert isinstance(bad, Bad)
    assert bad.rest_lost
    return bad.reason


MIXED = [
    ("a.json", pair("qa", "pa", id=1)),
    ("a.lang.txt", b"en"),
    ("a.jpg", b"\xff\xd8\xff\xe0\0"),
    ("dir.v1/b.query.txt", "größe\n".encode()),
    ("dir.v1/b.positive.txt", "日本".encode()),
    ("dir.v1/b.negatives.json", b'["x", "y"]'),
    ("c.TXT", b"upper"),
    ("c.cls", b"7"),
]


def test_multi_member_samples(tmp_path):
    assert read(make(tmp_path / "x.tar", MIXED)) == [
        {"query": "qa", "positive": "pa", "id": 1, "lang": "en", "jpg": NotText("not UTF-8: byte 0")},
        {"query": "größe\n", "positive": "日本", "negatives": ["x", "y"]},
        {"txt": "upper", "cls": "7"},
    ]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_keys_are_those_of_webdataset(tmp_path, form):
    long = "p" * 60 + "/" + "n" * 80 + ".json"
    members = [
        *MIXED,
        (long, pair("q", "p")),
        ("ünï.json", pair("q", "p")),
        ("__meta__/x.json", b"{}"),
        ("./dot.json", pair("q", "p")),
        ("._hidden.json", b"\0\1"),
        ("no-extension", b"x"),
    ]
    path = make(tmp_path / "x.tar", members, form)
    reference = [sample["__key__"] for sample in webdataset.WebDataset(str(path), shardshuffle=False)]
    with path.open("rb") as file:
        assert list(dict.fromkeys(key for key, *_ in iter_members(file))) == reference
    assert len(read(path)) == len(reference) == 6


def test_webdataset_writer_is_read(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        for i in range(5):
            writer.write({"__key__": f"{i:03d}", "query.txt": f"q{i}", "json": {"positive": f"p{i}"}})
    assert read(tmp_path / "x.tar") == [{"query": f"q{i}", "positive": f"p{i}"} for i in range(5)]


@pytest.mark.parametrize(
    ("member", "data", "reason"),
    [
        ("b.json", b'{"query": ', "Expecting value"),
        ("b.json", b"[1]", "JSON is list; wanted an object"),
        ("b.json", b'{"query": "\xff"}', "b.json: not UTF-8: byte 11"),
        ("b.query.txt", b"caf\xe9", "b.query.txt: not UTF-8: byte 3"),
        ("b.query.txt", b"a\0b", "b.query.txt: holds NUL bytes"),
        ("b.json", b'{"query": "a", "query": "b"}', "key 'query' comes twice"),
        ("b.json", b"[" * 100_000, "recursion"),
        ("b.x.json", b"{", "Expecting property name"),
    ],
)
def test_one_bad_sample_does_not_end_the_tar(tmp_path, member, data, reason):
    path = make(tmp_path / "x.tar", [("a.json", pair("q", "p")), (member, data), ("c.json", pair("q", "p"))])
    first, bad, last = read(path)
    assert first == last == {"query": "q", "positive": "p"}
    assert isinstance(bad, Bad)
    assert bad.line == 2
    assert bad.reason.startswith(f"{member}: ")
    assert reason in bad.reason
    assert len(bad.text) <= 200
    assert not bad.rest_lost


def test_byte_order_marks_are_no_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    members = [("a.json", mark + pair("q", "p")), ("b.query.txt", mark + b"x"), ("b.positive", mark + b"y")]
    assert read(make(tmp_path / "x.tar", members)) == [
        {"query": "q", "positive": "p"},
        {"query": "x", "positive": "y"},
    ]


def test_field_given_twice_is_unreadable(tmp_path):
    path = make(tmp_path / "x.tar", [("a.json", pair("q", "p")), ("a.query.txt", b"other")])
    (bad,) = read(path)
    assert isinstance(bad, Bad)
    assert "'query' comes twice" in bad.reason


@pytest.mark.parametrize(
    ("members", "wanted"),
    [
        ([("a.json", b"{}"), ("a.json", b"{}")], "'a.json' comes twice, again at byte 1536"),
        ([("a.json", b"{}"), ("b.json", b"{}"), ("a.json", b"{}")], "a sample of this key was there before"),
        (
            [("a.query.txt", b"x"), ("b.query.txt", b"x"), ("a.positive.txt", b"y"), ("b.positive.txt", b"y")],
            "'a.positive.txt' at byte 2560: a sample of this key was there before, with 'a.query.txt', and others "
            "came between. WebDataset wants the members of a sample next to each other",
        ),
    ],
)
def test_members_that_do_not_make_samples(tmp_path, members, wanted):
    with pytest.raises(InputError) as error:
        read(make(tmp_path / "x.tar", members))
    assert str(error.value).startswith(f"{tmp_path}/x.tar: ")
    assert wanted in str(error.value)


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    members = [(f"{kind}.{kind}", pickle.dumps(Bomb())) for kind in ("pyd", "pickle", "pkl", "npy", "pth")]
    assert {type(value) for fields in read(make(tmp_path / "x.tar", members)) for value in fields.values()} == {NotText}
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_truncated_anywhere(tmp_path, form):
    """Cut at every 100 bytes up to the end mark; tarfile alone accepts every cut between two members."""
    members = [(f"{i}.json", pair("ü" * 300, "p")) for i in range(3)] + [("ü" * 70 + ".json", pair("q", "p"))]
    if form == tarfile.USTAR_FORMAT:
        members.pop()
    whole = make(tmp_path / "x.tar", members, form).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    cut = tmp_path / "cut.tar"
    for size in {*range(0, end + 512, 100), *range(0, end + 512, 512)}:
        cut.write_bytes(whole[:size])
        assert re.search(r"(cut off|damaged).* byte \d+", broken(cut)), size
    cut.write_bytes(whole[: end + 1024])
    assert len(read(cut)) == len(members)


def test_damaged_header_is_not_the_end(tmp_path):
    whole = make(tmp_path / "x.tar", [(f"{i}.json", pair("q", "p")) for i in range(3)]).read_bytes()
    second = 1024
    for position in [*range(0, 512, 7), 124, 148, 156, 257]:
        damaged = bytearray(whole)
        damaged[second + position] ^= 0x11
        (tmp_path / "x.tar").write_bytes(damaged)
        assert "byte 1024" in broken(tmp_path / "x.tar"), position


def test_joined_tars_are_refused(tmp_path):
    """`cat a.tar b.tar`: tarfile and webdataset both stop after the first without a word."""
    first, second = (make(tmp_path / f"{n}.tar", [(f"{n}.json", pair("q", "p"))]).read_bytes() for n in "ab")
    (tmp_path / "x.tar").write_bytes(first + second)
    assert "joined" in broken(tmp_path / "x.tar")


def test_compressed_and_foreign_files_are_refused(tmp_path):
    plain = make(tmp_path / "x.tar", [("a.json", b"{}")]).read_bytes()
    (tmp_path / "x.tar").write_bytes(gzip.compress(plain))
    with pytest.raises(InputError, match=r"x\.tar: is packed with gzip; name it"):
        read(tmp_path / "x.tar")
    for content in (b"", b"text " * 500):
        (tmp_path / "x.tar").write_bytes(content)
        assert "damaged or cut off after byte 0" in broken(tmp_path / "x.tar")


def test_tar_without_members_is_empty(tmp_path):
    assert read(make(tmp_path / "x.tar", [])) == []
