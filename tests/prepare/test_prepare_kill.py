"""SIGKILL in the middle of a real run: the next run gives the bytes of an undisturbed one, and no worker is left."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

JOB = """
import sys, time
from pathlib import Path

sys.path.insert(0, {tests!r})
from conftest import bag_of_words
from jemb.config import PrepareConfig
from jemb.prepare import prepare, workers
import jemb.prepare.run

workers.MIN_CHUNKS = 0
where, how = sys.argv[1:]

def make_encoder(name):
    def encode(texts):
        if how == "encode" and any("banana" in text for text in texts):
            Path(where, "here").touch()
            time.sleep(60)
        return bag_of_words(texts)
    return encode

real = jemb.prepare.run.shuffled
def slow(rows, *args):
    for number, row in enumerate(real(rows, *args)):
        if how == "write" and "banana" in row.query and number == 30:
            Path(where, "here").touch()
            time.sleep(60)
        yield row

if __name__ == "__main__":
    jemb.prepare.run.shuffled = slow
    prepare(PrepareConfig(input=where + "/in", output=where + "/out", workers=2, shard_samples=20,
        stages=["exact", "near_duplicates", "consistency"]), make_encoder)
"""


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find worker processes")
def test_sigkill_costs_one_data_set_and_no_byte(tmp_path, write_jsonl):
    for number, name in enumerate(["a_apple", "b_banana", "c_cherry"]):
        fruit = name[2:]
        words = [hashlib.sha1(f"{fruit}{n}".encode()).hexdigest() for n in range(60 + number)]
        records = [
            {
                "query": f"Where is the {fruit} called {w[:9]} {w[9:18]}?",
                "positive": f"The {w[:9]} {w[9:18]} is at home.",
            }
            for w in words
        ]
        for where in ("plain", "killed"):
            write_jsonl(tmp_path / where / "in" / f"{name}.jsonl", records)
    script = tmp_path / "job.py"
    script.write_text(JOB.format(tests=str(Path(__file__).parent)))

    def start(where: str, how: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, script, tmp_path / where, how], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )

    plain = start("plain", "never")
    killed = tmp_path / "killed"
    for how in ("encode", "write"):
        job = start("killed", how)
        wait(lambda: (killed / "here").exists())
        workers = children(job.pid)
        job.send_signal(signal.SIGKILL)
        job.wait()
        assert len(workers) >= 2
        wait(lambda workers=workers: not any(map(alive, workers)))
        (killed / "here").unlink()
        # The data set before is whole, the one it was at and the one after are not there.
        assert [path.name for path in sorted((killed / "out").iterdir()) if path.name[0] != "."] == ["a_apple"]
    assert any(path.name.startswith(".b_banana.") for path in (killed / "out").iterdir())
    first = (killed / "out" / "a_apple" / "manifest.json").stat()
    assert start("killed", "never").wait() == 0
    assert plain.wait() == 0
    assert (killed / "out" / "a_apple" / "manifest.json").stat().st_ino == first.st_ino
    undisturbed = files(tmp_path / "plain" / "out")
    assert files(killed / "out") == undisturbed
    assert json.loads(undisturbed["b_banana/manifest.json"])["num_samples"] > 30


def wait(done) -> None:
    for _ in range(600):
        if done():
            return
        time.sleep(0.1)
    pytest.fail("waited a minute in vain")
