"""The writer: bytes as tarfile would make them, whole or absent."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from jemb.core.errors import InputError
from jemb.core.records import Sample
from jemb.shards import ShardReader, StageCount, read_manifest, write_dataset
from jemb.shards.member import encode_header
from tests.helpers.made_shards import write_shards

SAMPLES = [
    Sample("0", "plain", "text"),
    Sample("ключ-日本", "Größe?\n\tline two\r\n", "emoji 🦊, e\u0301, \u2028 and \x00 inside"),
    Sample("empty", "", ""),
    Sample("extra", "q", "p", (), {"id": 7, "nested": {"a": [None, True, 0.5]}, "z": "ü"}),
    Sample("k" * 90, "q" * 5_000, "a block's worth: " + "x" * 495),
]


def write(folder: Path, samples: list[Sample] = SAMPLES, name: str = "data", shard_samples: int = 2) -> Path:
    return write_shards(folder, name, samples, shard_samples)


def tars(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar"))


def test_round_trip(tmp_path):
    reader = ShardReader(write(tmp_path / "d"))
    assert list(reader) == SAMPLES
    assert [reader.key(row) for row in range(len(reader))] == [sample.key for sample in SAMPLES]
    assert [shard.num_samples for shard in reader.manifest.shards] == [2, 2, 1]
    reader.verify()


def test_triplets_round_trip(tmp_path):
    samples = [Sample(f"{i}", "q", "p", ("n1 ü", "n2")[: 1 + i % 2], {"w": i}) for i in range(5)]
    reader = ShardReader(write(tmp_path / "d", samples))
    assert reader.manifest.kind == "triplets"
    assert list(reader) == samples


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=600)
extra = st.dictionaries(
    text.filter(lambda name: name not in ("query", "positive", "negatives")),
    st.recursive(st.none() | st.booleans() | st.integers() | text, lambda value: st.lists(value), max_leaves=4),
    max_size=3,
)


@settings(max_examples=25)
@given(st.lists(st.tuples(text, text, extra), min_size=1, max_size=6), st.integers(1, 7))
def test_any_text_survives(tmp_path_factory, rows, shard_samples):
    samples = [Sample(f"{i}", query, positive, (), more) for i, (query, positive, more) in enumerate(rows)]
    folder = write(tmp_path_factory.mktemp("any") / "d", samples, shard_samples=shard_samples)
    assert list(ShardReader(folder)) == samples


def test_bytes_are_those_of_tarfile(tmp_path):
    """Headers, padding and end of the archive, against Python's own writer."""
    folder = write(tmp_path / "d", shard_samples=100)
    with tarfile.open(tmp_path / "reference.tar", "w", format=tarfile.USTAR_FORMAT) as reference:
        for sample in SAMPLES:
            value = {"query": sample.query, "positive": sample.positive, **sample.extra}
            payload = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
            info = tarfile.TarInfo(f"{sample.key}.json")
            info.size = len(payload)
            (tmp_path / "payload").write_bytes(payload)
            with (tmp_path / "payload").open("rb") as file:
                reference.addfile(info, file)
    assert tars(folder)[0].read_bytes() == (tmp_path / "reference.tar").read_bytes()


@pytest.mark.parametrize("size", [0, 1, 511, 512, 2**32 - 1])
def test_header_of_any_size(size):
    info = tarfile.TarInfo("ключ.json")
    info.size = size
    assert encode_header("ключ", size) == info.tobuf(tarfile.USTAR_FORMAT, "utf-8")


def test_webdataset_reads_the_tars(tmp_path):
    folder = write(tmp_path / "d")
    stream = webdataset.WebDataset([str(tar) for tar in tars(folder)], shardshuffle=False).decode()
    found = [Sample(s["__key__"], s["json"].pop("query"), s["json"].pop("positive"), (), s["json"]) for s in stream]
    assert found == SAMPLES


def test_same_samples_same_bytes_whatever_the_name(tmp_path):
    first, second = write(tmp_path / "a", name="a"), write(tmp_path / "sub" / "b", name="b")
    assert [path.read_bytes() for path in tars(first)] == [path.read_bytes() for path in tars(second)]
    assert read_manifest(first).fingerprint == read_manifest(second).fingerprint
    moved = first.rename(tmp_path / "moved")
    assert ShardReader(moved).manifest.fingerprint == read_manifest(second).fingerprint


def test_fingerprint_follows_content_order_and_sharding(tmp_path):
    def fingerprint(name: str, samples: list[Sample], shard_samples: int) -> str:
        return read_manifest(write(tmp_path / name, samples, shard_samples=shard_samples)).fingerprint

    other = [*SAMPLES[:-1], Sample(SAMPLES[-1].key, "q", "p")]
    found = {
        fingerprint("a", SAMPLES, 2),
        fingerprint("b", SAMPLES[::-1], 2),
        fingerprint("c", SAMPLES, 3),
        fingerprint("d", other, 2),
    }
    assert len(found) == 4


def test_fingerprint_by_hand(tmp_path):
    """sha256 of the canonical JSON, worked out with the system's sha256sum."""
    folder = write(tmp_path / "d", shard_samples=100)
    sha = subprocess.run(["sha256sum", tars(folder)[0]], capture_output=True, text=True, check=True).stdout[:64]
    canonical = f'["pairs",5,[[5,"{sha}"]]]'
    run = subprocess.run(["sha256sum"], input=canonical, capture_output=True, text=True, check=True)
    assert read_manifest(folder).fingerprint == run.stdout[:64]


def test_manifest_carries_stages_and_source(tmp_path):
    stages = [StageCount("exact", 1, {"duplicate": 3, "empty": 0}, {"fold_case": True})]
    made = write_dataset(tmp_path / "d", "größe", SAMPLES[:1], 10, stages, {"file": "a.jsonl", "rows": 4})
    assert read_manifest(tmp_path / "d") == made
    assert made.stages == tuple(stages)
    assert made.source == {"file": "a.jsonl", "rows": 4}
    on_disk = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert on_disk["version"] == 1
    assert on_disk["num_samples"] == 1
    assert on_disk["bytes"] == tars(tmp_path / "d")[0].stat().st_size
    assert on_disk["stages"][0]["dropped"] == {"duplicate": 3, "empty": 0}


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([Sample("a", "q", "p"), Sample("a", "x", "y")], "'a' comes twice"),
        ([Sample("a.b", "q", "p")], "'a.b'"),
        ([Sample("a/b", "q", "p")], "'a/b'"),
        ([Sample("a\nb", "q", "p")], "control"),
        ([Sample("", "q", "p")], "wanted 1 to 90 bytes"),
        ([Sample("ü" * 46, "q", "p")], "wanted 1 to 90 bytes"),
        ([Sample("\ud800", "q", "p")], "key"),
        ([Sample("a", "q", "p", ("n",))], "'a' is of kind triplets"),
        ([Sample("a", "q", "p", (), {"query": 1})], "'query'"),
        ([Sample("a", "q", "p", (), {"x": float("nan")})], "'a'.*JSON"),
        ([Sample("a", "q", "p", (), {"x": {1, 2}})], "'a'.*JSON"),
        ([Sample("a", "half a pair \ud83d", "p")], "'a'.*UTF-8"),
        ([], "no samples"),
    ],
)
def test_refused_and_nothing_left(tmp_path, samples, message):
    before = [Sample("before", "q", "p")] if samples else []
    with pytest.raises(InputError, match=f"(?s){message}"):
        write_dataset(tmp_path / "d", "d", before + samples, 1)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path):
    write(tmp_path / "d")
    before = {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()}
    with pytest.raises(InputError, match="already"):
        write(tmp_path / "d", SAMPLES[:1])
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()}


CHILD = """
import resource, sys
from pathlib import Path
from jemb.shards import write_shard
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
write_shard(Path(sys.argv[1], "shard-000000.tar"), [(str(i), b"q" * 9_000) for i in range(8)])
"""


def test_full_disk_leaves_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_shards_of_no_samples_are_refused(tmp_path):
    with pytest.raises(InputError, match="shard_samples=0: wanted at least 1"):
        write(tmp_path / "d", shard_samples=0)
    assert not (tmp_path / "d").exists()
