"""Adopting tars made by others: read like our own, never changed, refused when not readable."""

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import webdataset

from jemb.core.errors import InputError
from jemb.core.records import Sample
from jemb.shards import ShardReader, adopt, open_datasets, write_dataset

FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def make(path: Path, members: dict[str, object], form: int = tarfile.USTAR_FORMAT, **info_fields: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, value in members.items():
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, content in info_fields.items():
                setattr(info, field, content)
            tar.addfile(info, io.BytesIO(data))
    return path


def pairs(first: int, count: int) -> dict[str, object]:
    return {f"{i}.json": {"query": f"größe {i}", "positive": "p" * i, "id": i} for i in range(first, first + count)}


@pytest.mark.parametrize("form", FORMS)
def test_adopted_tars_read_like_ours(tmp_path, form):
    folder = tmp_path / "foreign"
    # A fraction of a second and a long owner make tarfile write pax headers before each member.
    more = {"mtime": 1.5, "uname": "ü" * 10} if form == "pax" else {}
    make(folder / "b.tar", pairs(0, 40), FORMS[form], **more)
    make(folder / "a-train.tar", pairs(40, 30), FORMS[form], **more)
    before = {path.name: path.read_bytes() for path in folder.glob("*.tar")}
    manifest = adopt(folder)
    assert (manifest.name, manifest.kind, manifest.num_samples) == ("foreign", "pairs", 70)
    assert [shard.file for shard in manifest.shards] == ["a-train.tar", "b.tar"]
    assert before == {path.name: path.read_bytes() for path in folder.glob("*.tar")}
    reader = open_datasets(folder)["foreign"]
    wanted = [*range(40, 70), *range(40)]
    assert list(reader) == [Sample(f"{i}", f"größe {i}", "p" * i, (), {"id": i}) for i in wanted]
    assert [reader.key(row) for row in range(70)] == [f"{i}" for i in wanted]
    reader.verify()


def test_our_own_tars_adopted_have_the_same_fingerprint(tmp_path):
    made = write_dataset(tmp_path, "d", [Sample(f"{i}", "q", "p", ("n",)) for i in range(7)], 3)
    ours = {path.name: path.read_bytes() for path in tmp_path.glob("*.idx.npy")}
    for path in tmp_path.iterdir():
        if path.suffix != ".tar":
            path.unlink()
    assert adopt(tmp_path).fingerprint == made.fingerprint
    assert ours == {path.name: path.read_bytes() for path in tmp_path.glob("*.idx.npy")}


def test_webdataset_shard_writer(tmp_path):
    with webdataset.ShardWriter(str(tmp_path / "%03d.tar"), maxcount=4, verbose=0) as writer:
        for i in range(10):
            writer.write({"__key__": f"s{i}", "json": {"query": f"q{i}", "positive": f"p{i}"}})
    assert adopt(tmp_path).num_samples == 10
    assert [sample.key for sample in ShardReader(tmp_path)] == [f"s{i}" for i in range(10)]


@pytest.mark.skipif(not shutil.which("tar"), reason="no tar command")
@pytest.mark.parametrize("form", FORMS)
def test_tar_command(tmp_path, form):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for i in range(4):
        text = json.dumps({"query": f"q{i}", "positive": "p"})
        (tmp_path / "in" / "sub" / f"{i}.json").write_text(text)
    (tmp_path / "out").mkdir()
    command = [
        "tar",
        f"--format={form}",
        "--sort=name",
        "-cf",
        tmp_path / "out" / "x.tar",
        "-C",
        tmp_path / "in",
        ".",
    ]
    subprocess.run(command, check=True)
    adopt(tmp_path / "out")
    reference = webdataset.WebDataset(str(tmp_path / "out" / "x.tar"), shardshuffle=False)
    reader = ShardReader(tmp_path / "out")
    assert [sample.key for sample in reader] == [sample["__key__"] for sample in reference]
    assert [sample.query for sample in reader] == ["q0", "q1", "q2", "q3"]


def test_long_name_that_ustar_splits(tmp_path):
    name = "folder" * 20 + "/" + "n" * 50
    make(tmp_path / "x.tar", {f"{name}.json": {"query": "q", "positive": "p"}})
    adopt(tmp_path)
    assert ShardReader(tmp_path).read(0) == Sample(name, "q", "p")


@pytest.mark.parametrize("form", ["gnu", "pax"])
@pytest.mark.parametrize("name", ["n" * 120, "folder" * 20 + "/" + "n" * 50])
def test_name_that_does_not_fit_the_plain_header(tmp_path, form, name):
    make(tmp_path / "x.tar", {f"{name}.json": {"query": "q", "positive": "p"}}, FORMS[form])
    with pytest.raises(InputError, match=r"x\.tar: member '.*plain header.*jemb prepare"):
        adopt(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


GOOD = {"query": "q", "positive": "p"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.json": {"query": "q"}}, "member 'a.json' at byte 512: .*positive is missing"),
        ({"a.json": {"query": "q", "positive": 3}}, "positive is 3"),
        ({"a.json": {**GOOD, "negatives": "n"}}, "negatives is 'n'; wanted a list"),
        ({"a.json": {**GOOD, "negatives": [1]}}, r"negatives is \[1\]"),
        ({"a.json": b"{"}, "member 'a.json'"),
        ({"a.json": b'{"query": "\xff", "positive": ""}'}, "utf-8"),
        ({"a.json": b'{"query": "\\ud83d", "positive": ""}'}, "surrogates"),
        ({"a.json": b"[" * 100_000}, "nested"),
        ({"a.query.txt": b"q", "a.positive.txt": b"p"}, "member 'a.query.txt'.*KEY.json"),
        ({"a.json": GOOD, "a.cls": b"1"}, "member 'a.cls'"),
        ({"a.JSON": GOOD}, "member 'a.JSON'"),
        (
            {"a.json": GOOD, "b.json": {**GOOD, "negatives": ["n"]}},
            "x.tar:a.json is of kind pairs and x.tar:b.json is of kind triplets",
        ),
    ],
)
def test_refused_with_the_way_out(tmp_path, members, message):
    make(tmp_path / "x.tar", members)
    with pytest.raises(InputError, match=f"(?s){message}.*jemb prepare"):
        adopt(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_key_in_two_tars(tmp_path):
    make(tmp_path / "a.tar", pairs(0, 3))
    make(tmp_path / "b.tar", pairs(2, 3))
    with pytest.raises(InputError, match=r"b\.tar: key '2' comes twice"):
        adopt(tmp_path)


def test_truncated_tar(tmp_path):
    path = make(tmp_path / "x.tar", pairs(0, 9))
    path.write_bytes(path.read_bytes()[: 3 * 1024])  # between two members
    with pytest.raises(InputError, match=r"x\.tar: cut off at byte 3072"):
        adopt(tmp_path)


def test_folders_that_cannot_be_adopted(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        adopt(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no \*\.tar"):
        adopt(tmp_path)
    make(tmp_path / "x.tar", {})
    with pytest.raises(InputError, match="no samples in 1 tars"):
        adopt(tmp_path)
    make(tmp_path / "y.tar", pairs(0, 2))
    adopt(tmp_path)
    with pytest.raises(InputError, match="already"):
        adopt(tmp_path)
    assert len(ShardReader(tmp_path)) == 2  # a tar without samples stands before it
