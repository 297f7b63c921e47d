"""Names, links and texts that come from outside do what they say and nothing else: no file is written elsewhere."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from jemb.app.cli import main
from jemb.config import ModelConfig
from jemb.core.errors import InputError
from jemb.core.files import check_name, create, inside, open_lock, write_atomic
from jemb.core.folders import alone, whole_folder
from jemb.evaluate.comparison import file_name
from jemb.model import load_encoder, make_tiny
from jemb.model.cross_encoder import load_cross_encoder
from jemb.run_folder import RunFolder
from jemb.shards import open_datasets
from jemb.shards.cache import ShardCache
from jemb.shards.manifest import read_manifest, write_manifest
from jemb.tables.places import file_system
from jemb.train.logs.record import locked
from tests.helpers.made_shards import make_samples, write_shards
from tests.helpers.object_store import BUCKET, FaultyProxy

OUTSIDE = [
    "/abs/f",
    "../f",
    "x/../../f",
    "x//abs/f",
    "x/./f",
    "",
    "x/",
    "..",
    "a\\..\\f",
    "a\0b",
    "a\nb",
    None,
    3,
    ["x"],
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_from_outside_stay_in_their_folder(tmp_path: Path, name: object) -> None:
    with pytest.raises(InputError, match=r"^somewhere: names .*; wanted a relative name that stays in its folder$"):
        inside(tmp_path, name, "somewhere")


@pytest.mark.parametrize("name", ["f", "a/b.json", ".hidden", "..a/b..", "ünïcode\u00a0日本/x y", "a:b|c"])
def test_ordinary_names_are_taken(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name, "somewhere") == tmp_path / name
    assert check_name(name, "somewhere") == name


def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "door").symlink_to(outside)
    (folder / "plain").mkdir()
    (folder / "within").symlink_to("plain")
    with pytest.raises(InputError, match="is a link out of"):
        inside(folder, "door/f", "somewhere")
    assert inside(folder, "within/f", "somewhere") == folder / "within" / "f"


KEYS = ["x/../../../../escaped", "x//abs/escaped", "../escaped", "/tmp/escaped", "back\\slash"]


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "model=URL", "tasks=[sts:STS]", "output=OUT/scores.json"],
        ["export", "run=URL", "output=OUT/model"],
        ["train", "shards=SHARDS", "output=URL", "max_steps=1", "global_batch_size=4", "model=tiny"],
        ["evaluate", "model=bm25", "tasks=[sts:STS]", "output=URL"],
    ],
    ids=["evaluate", "export", "train", "output"],
)
def test_keys_of_a_bucket_write_nothing_elsewhere(
    tmp_path: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, command: list[str], key: str,
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    url = f"s3://{BUCKET}/hostile-{abs(hash(request.node.name))}/run"
    cache = tmp_path / "home" / "deep" / "cache"
    monkeypatch.setenv("JEMB_CACHE", str(cache))
    files, folder = file_system(url)
    files.invalidate_cache()
    if command[-1] == "output=URL":
        url = f"{url}/.."
    else:
        record = json.dumps({"id": "one", "steps": 1, "status": "finished"}).encode()
        for name, data in {"run.json": record, "config.yaml": b"objective: pairs", key: b"escaped"}.items():
            files.call_s3("put_object", Bucket=BUCKET, Key=f"{folder.removeprefix(f'{BUCKET}/')}/{name}", Body=data)
    sts = tmp_path / "sts.jsonl"
    sts.write_text("".join(json.dumps({"sentence1": "a", "sentence2": "b", "score": i}) + "\n" for i in range(3)))
    shards = write_shards(tmp_path / "shards", "one", make_samples("one", 8)) if "train" in command else ""
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    values = {"URL": url, "STS": sts, "OUT": tmp_path / "out", "SHARDS": shards}
    for word, value in values.items():
        command = [part.replace(word, str(value)) for part in command]
    assert main(command) == 2
    assert "wanted a relative name that stays in its folder" in capsys.readouterr().err
    now = {path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(cache)}
    assert now == before
    assert not [path for path in cache.rglob("*") if "escaped" in path.name or "slash" in path.name]


def test_a_manifest_names_no_folder_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its data set's name becomes a folder of tokens, its shards become files."""
    shards = write_shards(tmp_path / "shards", "one", make_samples("one", 8))
    manifest = read_manifest(shards)
    write_manifest(shards, replace(manifest, name="../../escaped"))
    model = tmp_path / "tiny"
    make_tiny(
        ["a b c"], ModelConfig(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2), seed=0, max_length=8
    ).save(model)
    assert main(["tokenize", f"shards={shards}", f"model={model}", f"output={tmp_path / 'a' / 'b'}"]) == 2
    assert "names '../../escaped'" in capsys.readouterr().err
    assert not (tmp_path / "escaped").exists()
    (one,) = manifest.shards
    write_manifest(shards, replace(manifest, shards=(replace(one, file="../one.tar"),)))
    with pytest.raises(InputError, match=r"names|file is"):
        open_datasets(shards)


def test_file_names_of_tasks_and_models() -> None:
    for name in ("..", "../..", "mteb:../../x", "/", "", "a" * 300, "日" * 300):
        made = file_name(name)
        assert made
        assert made[0] != "."
        assert "/" not in made
        assert len(made.encode()) < 245


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / f".f.{os.getpid()}.tmp").symlink_to(victim)
    write_atomic(folder / "f", b"new")
    assert (folder / "f").read_bytes() == b"new"
    assert not (folder / "f").is_symlink()
    (folder / "g").symlink_to(victim)
    with create(folder / "g") as file:
        file.write(b"mine")
    (folder / f".whole.{os.getpid()}.tmp").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    with whole_folder(folder / "whole") as made:
        (made / "x").write_text("x")
    assert not list((tmp_path / "elsewhere").iterdir())
    assert (folder / "whole" / "x").is_file()
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("lock", [".lock", ".scores.lock"])
def test_a_lock_is_no_link(tmp_path: Path, lock: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / lock).symlink_to(victim)
    uses = {
        ".lock": [
            lambda: ShardCache(str(folder)),
            lambda: locked(RunFolder(folder)).__enter__(),
            lambda: alone(folder, "jemb prepare").__enter__(),
        ],
        ".scores.lock": [lambda: RunFolder(folder).keep_scores({}, ""), lambda: open_lock(folder / lock)],
    }
    for use in uses[lock]:
        with pytest.raises(InputError, match=r"lock: is a link, which jemb never makes there; remove it"):
            use()
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("path", ["../../elsewhere", "/etc", "a\\..\\b", "a/../../b"])
def test_folders_of_modules_stay_in_the_model(tmp_path: Path, path: str) -> None:
    modules = [{"idx": 0, "name": "0", "path": path, "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    for load in (load_encoder, load_cross_encoder):
        with pytest.raises(InputError, match=r"modules\.json: names .* stays in its folder"):
            load(str(tmp_path))
