"""Tasks in real processes, local and on a real Ray: results, errors, dead workers, and what a second start skips."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from jemb.core.errors import Failure, InputError
from jemb.prepare.engine.executor import Executor, LocalExecutor
from jemb.prepare.engine.job import Job
from tests.helpers.prepare_tools import running


def double(item: int) -> dict[str, int]:
    return {"twice": 2 * item, "pid": os.getpid()}


def refuse(item: int) -> dict[str, int]:
    if item == 3:
        raise InputError("three: wanted any other number")
    return {}


def full_disk(item: int) -> dict[str, int]:
    raise OSError(28, "No space left on device", "/some/file")


def die(item: int) -> dict[str, int]:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


def die_once(folder: Path, item: int) -> dict[str, int]:
    mark = folder / "died"
    if item == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"twice": 2 * item}


def note(folder: Path, item: int) -> dict[str, int]:
    (folder / f"ran-{item}-{time.time_ns()}").touch()
    return {"item": item}


@pytest.fixture(scope="module", params=["serial", "local", "ray"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "ray":
        pytest.importorskip("ray")
        from jemb.prepare.engine.ray_executor import RayExecutor

        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        made: Executor = RayExecutor(None, 2)
    else:
        made = LocalExecutor(1 if request.param == "serial" else 2)
    with made:
        list(made.run(double, range(4)))  # starts the workers, which serve all tests of this module
        yield made


def job(folder: Path, executor: Executor) -> Job:
    folder.mkdir(exist_ok=True)
    return Job(folder, executor, "test")


@pytest.mark.slow
def test_results_come_in_the_order_of_the_items(tmp_path, executor):
    results = job(tmp_path, executor).map("double", double, range(20), serial_below=0)
    assert [result["twice"] for result in results] == list(range(0, 40, 2))
    others = {result["pid"] for result in results} - {os.getpid()}
    assert (len(others) >= 1) == (not isinstance(executor, LocalExecutor) or executor.workers > 1)


@pytest.mark.slow
def test_errors_of_a_task_come_through_as_they_are(tmp_path, executor):
    with pytest.raises(InputError, match=r"^three: wanted any other number$"):
        job(tmp_path, executor).map("refuse", refuse, range(6), serial_below=0)
    with pytest.raises(OSError, match="No space left on device: '/some/file'") as error:
        job(tmp_path, executor).map("full", full_disk, range(2), serial_below=0)
    assert error.value.filename == "/some/file"


def test_little_work_stays_here(tmp_path, executor):
    results = job(tmp_path, executor).map("double", double, range(20), sizes=[10] * 20)
    assert {result["pid"] for result in results} == {os.getpid()}


def test_what_is_done_is_not_done_again(tmp_path, executor):
    work = partial(note, tmp_path)
    first = job(tmp_path / "job", executor).map("note", work, range(5), serial_below=0)
    (tmp_path / "job" / "note-000002.done").unlink()
    assert job(tmp_path / "job", executor).map("note", work, range(5), serial_below=0) == first
    assert sorted(path.name.split("-")[1] for path in tmp_path.glob("ran-*")) == list("012234")


def test_a_killed_local_worker_is_one_clear_error():
    with (
        LocalExecutor(2) as executor,
        pytest.raises(Failure, match="one of 2 worker processes was killed"),
    ):
        list(executor.run(die, range(6)))


def test_ray_runs_the_task_of_a_killed_worker_again(tmp_path, executor):
    if isinstance(executor, LocalExecutor):
        pytest.skip("local workers are not replaced")
    results = job(tmp_path / "job", executor).map("die", partial(die_once, tmp_path), range(6), serial_below=0)
    assert (tmp_path / "died").exists()
    assert [result["twice"] for result in results] == list(range(0, 12, 2))


def test_a_ray_cluster_that_is_not_there():
    pytest.importorskip("ray")
    from jemb.prepare.engine.ray_executor import RayExecutor

    with pytest.raises(InputError, match=r"ray.address=127.0.0.1:1: no Ray cluster there"):
        RayExecutor("127.0.0.1:1", 0)


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from tests.prepare.test_executor import double\n"
        "from jemb.prepare.engine.executor import LocalExecutor\n"
        "if __name__ == '__main__':\n"
        "    with LocalExecutor(2) as executor:\n"
        "        print(*{result['pid'] for _, result in executor.run(double, range(50))}, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert ended.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in ended.stdout.split()]
    assert pids
    for _ in range(300):
        if not any(running(pid) for pid in pids):
            return
        time.sleep(0.1)
    pytest.fail("workers are still there after 30 s")


@pytest.mark.slow
def test_ended_workers_leave_no_semaphore(tmp_path: Path) -> None:
    """Ctrl-C ends workers as they are; the bars they had must not come up as leaked (a semaphore each)."""
    script = tmp_path / "interrupted.py"
    script.write_text(
        "import time\n"
        "from tqdm import tqdm\n"
        "from jemb.prepare.engine.executor import LocalExecutor\n"
        "def work(seconds):\n"
        "    list(tqdm(range(3), disable=True))\n"
        "    time.sleep(seconds)\n"
        "if __name__ == '__main__':\n"
        "    with LocalExecutor(2) as executor:\n"
        "        for _ in executor.run(work, [0, 600, 600]):\n"
        "            raise KeyboardInterrupt\n"
    )
    ended = subprocess.run([sys.executable, script], stderr=subprocess.PIPE, text=True)
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")
    assert "leaked" not in ended.stderr
