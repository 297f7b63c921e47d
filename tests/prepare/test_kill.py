"""SIGKILL in the middle of a real run: the next run gives the bytes of an undisturbed one, and no worker is left.

The kill of the normal suite falls on chosen moments of every step; `-m soak` adds 50 random ones.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.prepare_tools import running

JOB = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from tests.helpers.prepare_tools import TOOLS
from jemb.prepare.options import PrepareConfig
from jemb.prepare.stages.decontaminate import DecontaminateConfig
from jemb.prepare import prepare
from jemb.prepare.engine import job, read

read.PIECE_ROWS = 40
job.SERIAL_BELOW = 0
write, done = job.write_json, 0

def run(where, workers, limit=0):
    def count(path, value):
        # A marker is about to be written; the job ends here with its work done and no marker.
        global done
        done += 1
        if done == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, value)

    if limit:
        job.write_json = count
    prepare(PrepareConfig(input=where + "/in", output=where + "/out", workers=workers, shard_samples=70,
        keep_dropped=True, stages=["exact", "near_duplicates", "decontaminate", "language", "consistency"],
        decontaminate=DecontaminateConfig(against=[where + "/task.txt"])), TOOLS)

if __name__ == "__main__":
    first, second, *limits = sys.argv[1:]
    run(first, workers=1 if limits else 2)
    for limit in map(int, limits):  # a fork of this process, in which all that takes long to import is there
        if not (child := os.fork()):
            run(second, 1, limit)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(limit, os.waitstatus_to_exitcode(status), os.path.exists(second + "/out/banana/manifest.json"))
"""


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen[str]]:
    """make(name) starts the job in folder NAME with two workers. make(name, other, *limits): first the job in folder
    NAME, undisturbed; then that of folder OTHER, which kills itself before its `limit`-th marker (0: never), for each
    limit; a line for each says how it ended, and whether all was done."""
    root = tmp_path_factory.mktemp("kill")
    script = root / "job.py"
    script.write_text(JOB.format(tests=str(Path(__file__).parents[2])))
    words = [hashlib.sha1(f"{n}".encode()).hexdigest()[:5] for n in range(80)]

    def place(name: str) -> Path:
        where = root / name
        if not where.exists():
            (where / "in").mkdir(parents=True)
            (where / "task.txt").write_text("where is the house called first\n")
            chosen = random.Random(1)
            for data_set in ("apple", "banana"):
                lines = []
                for _ in range(170):
                    a, b, c = chosen.choices(words, k=3)
                    lines.append(
                        f'{{"query": "where is the house called {a} {b} {c}", "positive": "the {a} {b} is at home"}}'
                    )
                lines += ["not json", *lines[:9]]
                (where / "in" / f"{data_set}.jsonl").write_text("\n".join(lines))
        return where

    def start(name: str, other: str = "unused", *limits: int) -> subprocess.Popen[str]:
        command = [sys.executable, script, place(name), place(other), *map(str, limits)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, cwd=root, text=True, stdout=subprocess.PIPE)

    start.root = root  # type: ignore[attr-defined]
    return start


LIMITS = (1, 4, 7, 9, 12, 15)


@pytest.fixture(scope="module")
def killed(make) -> list[str]:
    said, _ = make("plain", "markers", *LIMITS, 0).communicate()
    return said.splitlines()


@pytest.fixture(scope="module")
def undisturbed(make, killed) -> dict[str, bytes]:
    found = files(make.root / "plain" / "out")
    assert {"apple/manifest.json", "banana/dropped/manifest.json", "apple/unreadable.jsonl"} <= found.keys()
    return found


def test_a_kill_before_any_marker_costs_no_byte(make, killed, undisturbed):
    """Six kills of one job, each a few markers further on."""
    assert killed == [*(f"{limit} {-signal.SIGKILL} False" for limit in LIMITS), "0 0 True"]
    assert files(make.root / "markers" / "out") == undisturbed


@pytest.mark.slow
def test_workers_end_with_a_killed_job_and_the_next_one_goes_on(make, undisturbed):
    job = make("workers")
    work = make.root / "workers" / "out" / ".work"
    wait(lambda: len(children(job.pid)) >= 2 and any(work.rglob("*.done")))
    workers = children(job.pid)
    job.send_signal(signal.SIGKILL)
    job.wait()
    wait(lambda: not any(map(running, workers)))
    before = {path: path.stat().st_ino for path in work.rglob("*.done")}
    assert before
    assert make("workers").wait() == 0
    assert files(make.root / "workers" / "out") == undisturbed


@pytest.mark.soak
def test_fifty_random_kills(make, undisturbed):
    chosen = random.Random(7)
    for number in range(50):
        job = make(f"random-{number}")
        time.sleep(chosen.uniform(0.5, 12))
        job.send_signal(signal.SIGKILL)
        job.wait()
        assert make(f"random-{number}").wait() == 0
        assert files(make.root / f"random-{number}" / "out") == undisturbed, number


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def wait(done: Callable[[], bool]) -> None:
    for _ in range(1200):
        if done():
            return
        time.sleep(0.05)
    pytest.fail("waited a minute in vain")
