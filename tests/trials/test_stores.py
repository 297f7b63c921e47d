"""Buckets and web servers that lie, lose or forbid: nothing is written outside, nothing wrong is trained on, no secret
gets into a file."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.helpers.object_store import CREDENTIALS, put_folder
from tests.helpers.object_store import put as put_object
from tests.trials.damage import cut, gone, put, replaced
from tests.trials.fault import Fault, check, refused, run
from tests.trials.world import EVALUATE, EXPORT, PREPARE, STEPS

TAR, MANIFEST = "shards/answers/shard-000001.tar", "shards/answers/manifest.json"
TRAIN = f"train shards=URL/shards output=out {STEPS} cache_dir=cache cache_gb=0.1"
SCORE = EVALUATE.format("sts:eval/sts.jsonl").replace("model=model", "model=URL/model")


@dataclass(frozen=True, slots=True)
class Store:
    """A place in a bucket of this trial's alone."""

    port: int
    name: str

    @property
    def url(self) -> str:
        return f"s3://bucket/{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def fill(self, world: Path, *folders: str) -> None:
        for folder in folders:
            put_folder(self.port, world / folder, f"{self.name}/{folder}")


@pytest.fixture
def store(s3_port: int, tmp_path: Path) -> Store:
    return Store(s3_port, tmp_path.name)


def planted(key: str) -> Callable[[Store], None]:
    """An object of this name among the others."""
    return lambda store: put_object(store.port, f"{store.name}/{key}", b"harm")


def nothing(store: Store) -> None:
    pass


EXPORT_URL, RUN_URL = EXPORT.replace("run=run", "run=URL/run"), TRAIN.replace("output=out", "output=URL/run")
FAULTS: list[tuple[Fault, Callable[[Store], None]]] = [
    *((refused(f"{name} with a key {key}", command, None), planted(f"{folder}/{key}"))
      for name, command, folder in [("model", SCORE, "model"), ("run", EXPORT_URL, "run"), ("output", RUN_URL.replace("URL/shards", "shards"), "run")]
      for key in ["x/../../../../../../harmed", "x//../../../../harmed", "x//tmp/harmed"]),
    (refused("shards that are not there", TRAIN.replace("URL/shards", "URL/shard"), None, "shard"), nothing),
    (refused("a bucket that is not there", TRAIN.replace("URL/shards", "s3://nobucket/shards"), None, "nobucket"), nothing),
    (refused("a manifest that is gone", TRAIN, gone(MANIFEST)), nothing),
    (refused("a manifest not JSON", TRAIN, put(MANIFEST, "{"), "manifest.json"), nothing),
    (refused("a manifest that leaves its folder", TRAIN, replaced(MANIFEST, b"shard-000001.tar", b"../../../out.tar"), "manifest.json"), nothing),
    (refused("a tar that is gone", TRAIN, gone(TAR), "shard-000001.tar"), nothing),
    (refused("a tar cut off", TRAIN, cut(TAR, 512), "shard-000001.tar"), nothing),
    (refused("a tar with another text", TRAIN, replaced(TAR, b"answers ", b"answerz "), "shard-000001.tar"), nothing),
    (refused("an index that is gone", TRAIN, gone(TAR.replace(".tar", ".idx.npy")), "shard-000001"), nothing),
    (refused("an index of another length", TRAIN, cut(TAR.replace(".tar", ".idx.npy"), 12), "shard-000001"), nothing),
    (refused("a model that is not there", SCORE.replace("URL/model", "URL/modle"), None, "modle"), nothing),
    (refused("raw data that are not there", PREPARE.replace("=raw", "=URL/rwa"), None, "rwa"), nothing),
    (Fault("scores into a bucket that is not there", EVALUATE.format("sts:eval/sts.jsonl").replace("=out/", "=s3://nobucket/"), None, 1, ("nobucket",)), nothing),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "plant"), FAULTS, ids=[str(fault) for fault, _ in FAULTS])
def test_bucket(fault: Fault, plant: Callable[[Store], None], world: Path, store: Store) -> None:
    breaks = fault.breaks

    def fill(world: Path) -> None:
        if breaks:
            breaks(world)
        store.fill(world, *(name for name in ("shards", "model", "run", "raw") if f"URL/{name}" in fault.command))
        plant(store)

    command = str(fault.command).replace("URL", store.url)
    changes = ("cache",)
    check(replace(fault, command=command, breaks=fill, environment=store.environment, changes=changes), world)
    assert not Path("/tmp/harmed").exists()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def web(world: Path) -> Iterator[str]:
    """The world on a web server: HOST:PORT."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(world)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_password_in_a_url_gets_into_no_file(world: Path, web: str) -> None:
    """Neither in the run nor in what is published."""
    shards = f"http://someone:s3cret@{web}/shards/answers"
    outcome = run(world, TRAIN.replace("URL/shards", shards).split())
    assert outcome.code == 0, outcome.output
    assert (done := run(world, ["export", "run=out", "output=published"])).code == 0, done.output
    for folder in ("out", "published"):
        for path in (world / folder).rglob("*"):
            assert not path.is_file() or b"s3cret" not in path.read_bytes(), path
    published = json.loads((world / "published/training.json").read_text())
    assert "answers" in json.dumps(published)


@pytest.mark.parametrize(
    ("path", "said"), [("shards/answerz", "answerz"), ("raw/pairs.jsonl", "pairs.jsonl"), ("eval", "eval")]
)
def test_a_web_page_instead_of_shards(world: Path, web: str, path: str, said: str) -> None:
    check(refused(path, TRAIN.replace("URL/shards", f"http://{web}/{path}"), None, said, changes=["cache"]), world)


def test_a_web_server_that_is_down(world: Path) -> None:
    """Nobody listens there."""
    command = PREPARE.replace("=raw", "=http://127.0.0.1:9/pairs.jsonl")
    check(refused("down", command, None, "127.0.0.1:9"), world)
