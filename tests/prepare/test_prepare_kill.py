"""SIGKILL in the middle of a real run: the next run gives the bytes of an undisturbed one, and no worker is left.

The kill of the normal suite falls on chosen moments of every step; `-m slow` adds 50 random ones.
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
from prepare_tools import running

JOB = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from prepare_tools import TOOLS
from jemb.prepare.options import PrepareConfig
from jemb.prepare.stages.decontaminate import DecontaminateConfig
from jemb.prepare import prepare
from jemb.prepare.engine import job, read

read.PIECE_ROWS = 40
job.SERIAL_BELOW = 0
where, limit = sys.argv[1], int(sys.argv[2])
write, done = job.write_json, 0

def count(path, value):
    # In this process: a marker is about to be written; the job ends here with its work done and no marker.
    global done
    done += 1
    if done == limit:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, value)

if __name__ == "__main__":
    workers = 1 if limit else 2
    if limit:
        job.write_json = count
    prepare(PrepareConfig(input=where + "/in", output=where + "/out", workers=workers, shard_samples=70,
        keep_dropped=True, stages=["exact", "near_duplicates", "decontaminate", "language", "consistency"],
        decontaminate=DecontaminateConfig(against=[where + "/task.txt"])), TOOLS)
"""


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], subprocess.Popen[bytes]]:
    """make(name, limit) starts the job in folder NAME; it kills itself before its `limit`-th marker (0: never)."""
    root = tmp_path_factory.mktemp("kill")
    script = root / "job.py"
    script.write_text(JOB.format(tests=str(Path(__file__).parent)))
    chosen = random.Random(0)
    words = [hashlib.sha1(f"{n}".encode()).hexdigest()[:5] for n in range(80)]

    def start(name: str, limit: int) -> subprocess.Popen[bytes]:
        where = root / name
        if not where.exists():
            (where / "in").mkdir(parents=True)
            (where / "task.txt").write_text("where is the house called first\n")
            chosen.seed(1)
            for data_set in ("apple", "banana"):
                lines = []
                for _ in range(170):
                    a, b, c = chosen.choices(words, k=3)
                    lines.append(
                        f'{{"query": "where is the house called {a} {b} {c}", "positive": "the {a} {b} is at home"}}'
                    )
                lines += ["not json", *lines[:9]]
                (where / "in" / f"{data_set}.jsonl").write_text("\n".join(lines))
        return subprocess.Popen(
            [sys.executable, script, where, str(limit)], env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=root
        )

    start.root = root  # type: ignore[attr-defined]
    return start


@pytest.fixture(scope="module")
def undisturbed(make) -> dict[str, bytes]:
    assert make("plain", 0).wait() == 0
    found = files(make.root / "plain" / "out")
    assert {"apple/manifest.json", "banana/dropped/manifest.json", "apple/unreadable.jsonl"} <= found.keys()
    return found


def test_a_kill_before_any_marker_costs_no_byte(make, undisturbed):
    """Six kills of one job, each a few markers further on."""
    for limit in (1, 4, 7, 9, 12, 15):
        assert make("markers", limit).wait() == -signal.SIGKILL
        assert not (make.root / "markers" / "out" / "banana" / "manifest.json").exists()
    assert make("markers", 0).wait() == 0
    assert files(make.root / "markers" / "out") == undisturbed


def test_workers_end_with_a_killed_job_and_the_next_one_goes_on(make, undisturbed):
    job = make("workers", 0)
    work = make.root / "workers" / "out" / ".work"
    wait(lambda: len(children(job.pid)) >= 2 and any(work.rglob("*.done")))
    workers = children(job.pid)
    job.send_signal(signal.SIGKILL)
    job.wait()
    wait(lambda: not any(map(running, workers)))
    before = {path: path.stat().st_ino for path in work.rglob("*.done")}
    assert before
    assert make("workers", 0).wait() == 0
    assert files(make.root / "workers" / "out") == undisturbed


@pytest.mark.slow
def test_fifty_random_kills(make, undisturbed):
    chosen = random.Random(7)
    for number in range(50):
        job = make(f"random-{number}", 0)
        time.sleep(chosen.uniform(0.5, 12))
        job.send_signal(signal.SIGKILL)
        job.wait()
        assert make(f"random-{number}", 0).wait() == 0
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
