"""Training from s3:// and to it, on a real S3 server behind a network that fails: as from and to a folder."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jemb.data import BatchPlan, PlanSource
from jemb.data.wanted import needed_at_once
from jemb.mirror import Mirror
from jemb.run_folder import RunFolder
from jemb.shards import cache_home, open_datasets
from jemb.tables import transfer
from tests.helpers.object_store import BUCKET, CREDENTIALS, FaultyProxy, bytes_on_disk, put_folder
from tests.helpers.training_runs import SMALL, Training, losses, slowly, weights

Start = Callable[..., Training]
STEPS = 30
WINDOW = 2


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """28 shards of 20 kB in two data sets."""
    root = tmp_path_factory.mktemp("s3")
    make_dataset(root, "long", 200, shard_samples=10)
    make_dataset(root, "short", 77, shard_samples=10)
    return root


@pytest.fixture
def stored(shards: Path, s3_port: int) -> str:
    put_folder(s3_port, shards, "train")
    return f"s3://{BUCKET}/train"


def options(place: object, *more: str) -> list[str]:
    plain = [*SMALL, f"shards={place}", "global_batch_size=8", f"max_steps={STEPS}", "log_samples=true"]
    return [*plain, f"shuffle_shards={WINDOW}", *more]


@pytest.fixture(scope="module")
def local_run(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> RunFolder:
    """The undisturbed run from the folder, in two processes."""
    return Training(tmp_path_factory.mktemp("local") / "run", options(shards), processes=2).succeed()


def environments() -> list[dict[str, str]]:
    """What the proxy's fixture has set; the processes come from a server that was started before."""
    return [{name: os.environ[name] for name in (*CREDENTIALS, "AWS_ENDPOINT_URL", "JEMB_CACHE")}] * 2


def assert_same(run: RunFolder, local_run: RunFolder) -> None:
    assert run.samples.read_bytes() == local_run.samples.read_bytes()
    assert losses(run) == losses(local_run)
    assert weights(run) == weights(local_run)


def tight(shards: Path) -> tuple[int, str]:
    """(bytes that the windows of any batch may need, the option that allows no more)."""
    needed, _ = needed_at_once(open_datasets(shards), WINDOW, 8)
    return needed, f"cache_gb={needed / 1e9!r}"


@pytest.mark.slow
def test_two_processes_with_workers_over_a_bad_network(
    tmp_path: Path, start: Start, shards: Path, local_run: RunFolder, proxy: FaultyProxy, stored: str
) -> None:
    """5 % of the requests fail; for three seconds nothing gets through; and the cache holds less than half of the data.
    No sample is lost or repeated, and the limit holds."""
    needed, limit = tight(shards)
    total = sum(path.stat().st_size for path in shards.glob("*/*.tar"))
    assert needed < total / 2
    proxy.rate = 0.05
    training = start(
        tmp_path / "run",
        options(stored, "workers=2", "read_ahead=3", limit),
        processes=2,
        prelude=slowly,
        environments=environments(),
    )
    most = 0
    cut = False
    while training.processes[0].is_alive():
        if (folder := cache_home() / "shards").exists():
            most = max(most, bytes_on_disk(folder))
        if not cut and len(losses(training.run)) >= 5:
            cut = proxy.down = True
            threading.Timer(3.0, lambda: setattr(proxy, "down", False)).start()
        time.sleep(0.005)
    assert_same(training.succeed(), local_run)
    assert cut
    assert {request.fate for request in proxy.seen} >= {"pass", "drop"}
    assert sum(request.fate in ("500", "503", "cut") for request in proxy.seen) >= 3
    assert needed / 2 < most <= needed
    assert proxy.sent(".tar") > total, "shards were evicted and fetched again"


@pytest.mark.slow
def test_killed_while_fetching(
    tmp_path: Path, start: Start, shards: Path, local_run: RunFolder, proxy: FaultyProxy, stored: str
) -> None:
    """SIGKILL to all processes and loader workers, three times, at moments when shards are on their way."""
    _, limit = tight(shards)
    proxy.delay = 0.05
    draw = random.Random(0)
    killed = 0
    for _ in range(3):
        training = start(
            tmp_path / "run",
            options(stored, "workers=1", "checkpoint_every=4", limit),
            processes=2,
            environments=environments(),
        )
        deadline = time.monotonic() + 100
        while training.processes[0].is_alive() and time.monotonic() < deadline:
            if list((cache_home() / "shards").glob("*.part")) and draw.random() < 0.05:
                break
            time.sleep(0.005)
        killed += training.processes[0].is_alive()
        for number in range(2):
            kill_group(training.pid_of(number))
        training.kill()
    assert killed >= 1
    proxy.delay = 0.0
    run = start(
        tmp_path / "run",
        options(stored, "workers=1", "checkpoint_every=4", limit),
        processes=2,
        environments=environments(),
    ).succeed()
    assert_same(run, local_run)
    for path in (cache_home() / "shards").glob("*.tar"):
        assert path.stem in {digest(one) for one in shards.glob("*/*.tar")}


def kill_group(pid: int) -> None:
    """The process and the loader processes it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, 9)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_url_that_is_gone_ends_the_run(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, shards: Path, proxy: FaultyProxy, stored: str
) -> None:
    """Exit code 2 and one message with the URL, from a loader process too."""
    proxy.fates = ["403"] * 10_000
    training = start(tmp_path / "run", options(stored, "workers=1", "read_ahead=0"), environments=environments())
    assert training.wait() == [2]
    assert f"{stored}/" in training.output
    assert "cannot be read (PermissionError" in training.output
    assert "Traceback" not in training.output


def test_data_larger_than_the_cache(tmp_path: Path, start: Start, proxy: FaultyProxy, stored: str) -> None:
    training = start(
        tmp_path / "run", options(stored, "cache_gb=0.0003", "shuffle_shards=null"), environments=environments()
    )
    assert training.wait() == [2]
    assert "cache_gb=0.0003: the shards needed at once have 0.000" in training.output
    assert "use shuffle_shards=N" in " ".join(training.output.split())


def test_windows_are_part_of_the_plan(tmp_path: Path, start: Start, shards: Path) -> None:
    """Another value is refused when the run goes on; where the data lie and the cache are free to change."""
    run = start(tmp_path / "run", options(shards, "max_steps=4")).succeed()
    training = start(run.path, options(shards, "max_steps=6", "shuffle_shards=3"))
    assert training.wait() == [2]
    assert "shuffle_shards: 2 before, 3 now" in training.output
    assert start(run.path, options(f"file://{shards}", "max_steps=6", "read_ahead=1", "cache_gb=7")).wait() == [0]


def test_what_is_needed_at_once_is_enough(shards: Path) -> None:
    """The room that `jemb train` asks for holds the windows of any batch."""
    readers = {"long": open_datasets(shards)["long"]}
    infos = readers["long"].manifest.shards
    sizes = tuple(shard.num_samples for shard in infos)
    for number, batch in ((1, 8), (2, 8), (2, 32), (5, 8), (30, 8), (None, 8)):
        needed, hint = needed_at_once(readers, number, batch)
        source = PlanSource("long", sum(sizes), "print", 1.0, sizes)
        plan = BatchPlan([source], seed=0, global_batch_size=batch, shuffle_shards=number)
        worst = 0
        for step in range(5 * math.ceil(sum(sizes) / batch)):
            parts = [plan.window_shards("long", window) for window in plan.windows(step)[1]]
            worst = max(worst, sum(infos[i].bytes for i in set(np.concatenate(parts).tolist())))
        assert worst <= needed <= sum(shard.bytes for shard in infos)
        assert ("smaller shuffle_shards" in hint) == (number is not None)


@pytest.mark.slow
def test_a_run_at_a_url_goes_on_from_there(
    tmp_path: Path, start: Start, shards: Path, local_run: RunFolder, proxy: FaultyProxy
) -> None:
    """Killed, and its folder lost with the machine: the run that was copied is fetched, and ends as the undisturbed.
    The network fails all the while."""
    url = f"s3://{BUCKET}/runs/first"
    proxy.rate = 0.05
    arguments = options(shards, f"output={url}", "checkpoint_every=4", "keep_checkpoints=1")
    run = RunFolder(Mirror(url).folder)
    for step in (6, 17):
        training = start(tmp_path / "unused", arguments, processes=2, prelude=slowly, environments=environments())
        training.run = run
        training.wait_for_step(step)
        training.kill()
        shutil.rmtree(run.path)
        assert step_there(url) >= step - step % 4
    training = start(tmp_path / "unused", arguments, processes=2, environments=environments())
    training.succeed()
    assert_same(run, local_run)
    assert run.read_record()["status"] == "finished"
    assert "continuing after step 16 of 30" in training.output
    proxy.rate = 0.0
    there = transfer.list_tree(url)
    here = {
        path.relative_to(run.path).as_posix(): path.stat().st_size for path in run.path.rglob("*") if path.is_file()
    }
    assert there == {name: size for name, size in here.items() if not name.startswith(".")}
    assert not (tmp_path / "unused").exists()
    shutil.rmtree(run.path)
    again = start(tmp_path / "unused", arguments, environments=environments())
    again.succeed()
    assert "was already finished" in again.output
    assert_same(run, local_run)


def step_there(url: str) -> int:
    return max(int(name.split("/")[1][5:]) for name in transfer.list_tree(url) if name.endswith("position.json"))


@pytest.mark.slow
def test_uploads_that_fail(
    tmp_path: Path, start: Start, shards: Path, local_run: RunFolder, proxy: FaultyProxy
) -> None:
    """While the URL cannot be written to, the run goes on and says so; at the end it fails, naming the folder that has
    it all, and the same command copies it."""
    url = f"s3://{BUCKET}/runs/second"
    run = RunFolder(Mirror(url).folder)
    arguments = options(shards, f"output={url}", "checkpoint_every=4")
    training = start(tmp_path / "unused", arguments, processes=2, prelude=slowly, environments=environments())
    training.run = run
    training.wait_for_step(6)
    proxy.forbidden = "PUT"
    codes = training.wait()
    assert codes[0] == 1
    assert_same(run, local_run)
    assert f"All of it is in {run.path}; the same command copies it from there" in training.output
    assert step_there(url) == 4
    proxy.forbidden = ""
    start(tmp_path / "unused", arguments, processes=2, environments=environments()).succeed()
    assert step_there(url) == STEPS
    assert "model/modules.json" in transfer.list_tree(url)


@pytest.mark.slow
def test_two_machines_without_a_common_folder(
    tmp_path: Path, start: Start, shards: Path, local_run: RunFolder, proxy: FaultyProxy, stored: str
) -> None:
    """Each has a cache of its own for shards and run; the second starts from what the first has copied. Then the first
    one is lost, and what is left goes on with a new one."""
    url = f"s3://{BUCKET}/runs/third"
    arguments = options(stored, f"output={url}", "checkpoint_every=4", "workers=1")

    def machines(*names: str) -> list[dict[str, str]]:
        own = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        return [
            {**environment, **own, "GROUP_RANK": str(rank), "JEMB_CACHE": str(tmp_path / name)}
            for rank, (name, environment) in enumerate(zip(names, environments(), strict=True))
        ]

    (name,) = [Mirror(url).folder.relative_to(cache_home())]
    training = start(tmp_path / "unused", arguments, processes=2, prelude=slowly, environments=machines("one", "two"))
    training.run = RunFolder(tmp_path / "one" / name)
    training.wait_for_step(10)
    training.kill()
    assert list((tmp_path / "two" / "shards").glob("*.tar"))
    assert {path.name for path in (tmp_path / "two" / name).iterdir() if path.name[0] != "."} == {"start"}
    training = start(tmp_path / "unused", arguments, processes=2, environments=machines("three", "two"))
    training.succeed()
    assert "continuing after step 8 of 30" in training.output
    assert_same(RunFolder(tmp_path / "three" / name), local_run)
