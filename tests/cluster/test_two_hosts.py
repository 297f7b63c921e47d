"""Training over two hosts whose cable is pulled: a clear end, and the same command goes on exactly.

The hosts are namespaces of this machine: each has its own network, host name, hosts file and processes, and a cable
(veth) to the other. All of it ends with the processes that hold it, whatever ends the tests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jemb.run_folder import RunFolder

TORCHRUN = Path(__file__).parents[2] / "launch" / "torchrun.sh"
ADDRESSES = {"h0": "198.51.100.1", "h1": "198.51.100.2"}
"""Of the network that RFC 5737 sets apart for examples."""
HOLD = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc"]
PATIENCE = 300
"""Seconds until a wait fails; the machine may be busy."""
SLOWED = """
import sys
if "jemb.app.train" in sys.orig_argv and "torch.distributed.run" not in sys.orig_argv:
    import time
    from jemb.train.module import EmbeddingModule
    step = EmbeddingModule.training_step
    EmbeddingModule.training_step = lambda *arguments: (time.sleep(0.3), step(*arguments))[1]
"""
"""Python runs a module of this name first of all: the 30 steps take so long that the cable is pulled in time."""


class TwoHosts:
    """h0 and h1. folder: for the hosts file and what the commands write to stderr."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{a} {h}\n" for h, a in ADDRESSES.items()))
        self.holders: dict[str, subprocess.Popen[bytes]] = {}
        self.inner: dict[str, str] = {}

    def start(self) -> None:
        for host in ADDRESSES:
            boot = f"mount --bind {self.folder}/hosts /etc/hosts && hostname {host} && echo && sleep infinity"
            command = [*HOLD, "--kill-child=SIGKILL", "bash", "-c", boot]
            self.holders[host] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for host, holder in self.holders.items():
            assert holder.stdout is not None
            assert holder.stderr is not None
            assert holder.stdout.readline(), holder.stderr.read()
            self.inner[host] = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0]
        ends = ["eth0", "netns", self.inner["h0"], "type", "veth", "peer", "name", "eth0", "netns", self.inner["h1"]]
        subprocess.run(["ip", "link", "add", *ends], check=True)
        for host, address in ADDRESSES.items():
            self.ip(host, "address", "add", f"{address}/24", "dev", "eth0")
            self.ip(host, "link", "set", "eth0", "up")
            self.ip(host, "link", "set", "lo", "up")

    def stop(self) -> None:
        for holder in self.holders.values():
            holder.kill()  # and with it all that runs on the host
            holder.communicate()

    def ip(self, host: str, *arguments: str) -> None:
        subprocess.run(["nsenter", "--target", self.inner[host], "--net", "ip", *arguments], check=True)

    def cut(self) -> None:
        self.ip("h1", "link", "set", "eth0", "down")

    def mend(self) -> None:
        self.ip("h1", "link", "set", "eth0", "up")

    def launch(self, arguments: list[str], environment: dict[str, str]) -> dict[str, subprocess.Popen[bytes]]:
        """`launch/torchrun.sh` with the same arguments on both; stderr goes to `said`."""
        variables = {**environment, "NNODES": "2", "NPROC_PER_NODE": "1", "HEAD_NODE": "h0"}
        started = {}
        for host in ADDRESSES:
            enter = ["nsenter", "--target", self.inner[host], "--net", "--mount", "--uts", "--pid"]
            with (self.folder / f"{host}.stderr").open("wb") as file:
                started[host] = subprocess.Popen([*enter, TORCHRUN, *arguments], stderr=file, env=variables)
        return started

    def said(self, host: str) -> str:
        return (self.folder / f"{host}.stderr").read_text()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[TwoHosts]:
    made = TwoHosts(tmp_path)
    if os.geteuid():
        pytest.skip("network namespaces need root")
    try:
        possible = subprocess.run([*HOLD, "ip", "-V"], capture_output=True).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("no network namespaces here, or no `ip` (apt-get install iproute2)")
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def options(pair_shards: Path) -> list[str]:
    small = ["model.hidden_size=32", "model.num_layers=1", "model.vocab_size=400", "max_length=16", "workers=0"]
    run = [f"shards={pair_shards}", "global_batch_size=8", "max_steps=30", "checkpoint_every=2", "log_samples=true"]
    return [*small, *run, "timeout_minutes=0.5"]


def steps(run: RunFolder) -> list[int]:
    if not run.metrics.exists():
        return []
    return [json.loads(line)["step"] for line in run.metrics.read_text().splitlines(keepends=True) if line[-1] == "\n"]


def wait(done: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


@pytest.mark.slow
def test_a_pulled_cable_ends_the_run_clearly_and_costs_nothing(
    tmp_path: Path, hosts: TwoHosts, options: list[str]
) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    (tmp_path / "slowed").mkdir()
    (tmp_path / "slowed" / "sitecustomize.py").write_text(SLOWED)
    slowed = {**environment, "PYTHONPATH": f"{tmp_path / 'slowed'}:{os.environ.get('PYTHONPATH', '')}"}

    whole = RunFolder(tmp_path / "undisturbed")
    here = {**environment, "NPROC_PER_NODE": "2"}
    done = subprocess.run([TORCHRUN, *options, f"output={whole.path}"], env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    run = RunFolder(tmp_path / "run")
    command = [*options, f"output={run.path}"]

    def shown() -> str:
        return f"steps: {steps(run)}\n" + "\n".join(f"--- {host}\n{hosts.said(host)}" for host in ADDRESSES)

    started = hosts.launch(command, slowed)
    wait(lambda: len(steps(run)) >= 5 or started["h0"].poll() is not None, shown)

    # A short cut: the connections outlast it, and the run goes on by itself.
    hosts.cut()
    time.sleep(3)
    before = len(steps(run))
    hosts.mend()
    wait(lambda: len(steps(run)) >= before + 5 or started["h0"].poll() is not None, shown)
    assert started["h0"].poll() is None, shown()

    # A long one: both ends say so after timeout_minutes, and stop. (The torchrun of h1 itself waits for its store on h0
    # until the cable is back, or TCP gives up.)
    hosts.cut()
    lost = r"jemb train: no answer for 0\.5 minutes \(timeout_minutes\) from process 1 \(h1, pid \d+\): stopped or out"
    cut_off = r"jemb train: process 1: process 0 at h0 cannot be reached"
    goes_on = r".*\. The same command continues from the last checkpoint"
    wait(lambda: started["h0"].poll() is not None and "jemb train:" in hosts.said("h1"), shown)
    last = steps(run)[-1]
    assert last < 30, shown()
    assert re.search(lost + goes_on, hosts.said("h0")), shown()
    assert re.search(cut_off + goes_on, hosts.said("h1")), shown()
    hosts.mend()
    wait(lambda: started["h1"].poll() is not None, shown)
    assert [process.returncode for process in started.values()] == [1, 1], shown()
    assert not run.model.exists()

    again = hosts.launch(command, environment)
    wait(lambda: all(process.poll() is not None for process in again.values()), shown)
    assert [process.returncode for process in again.values()] == [0, 0], shown()
    assert run.samples.read_bytes() == whole.samples.read_bytes()
    assert (run.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()
    resumed = run.read_record()["starts"][1]["step"]
    assert 8 <= resumed <= last, "the last checkpoint, and not an earlier one"
    assert resumed >= last - 2
