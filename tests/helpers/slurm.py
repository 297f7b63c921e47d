"""A real Slurm cluster on this machine: munged, slurmctld and a slurmd for each node, all in a temporary folder.

Each node has namespaces of its own for mounts, host name and processes: it calls itself n0, n1 or n2, its name resolves
without a change to this machine's /etc/hosts, files may be different on it (`on_node`), and to kill it kills all that
runs on it. Needs root and the packages slurm-wlm and munge; leaves nothing behind, also when the tests are killed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "unshare", "nsenter", "setpriv")
ISOLATED = ["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"]
PATIENCE = 300
"""Seconds until a wait fails; the machine may be busy."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")

CONF = """\
ClusterName=jemb
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
FirstJobId={first}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=6
KillWait=15
MinJobAge=3600
SchedulerParameters=batch_sched_delay=0,sched_interval=3,bf_interval=3
"""
# cred_expire: a requeued job waits until its old credential cannot be used any more. SlurmdTimeout: until a silent node
# is DOWN. KillWait: between SIGTERM and SIGKILL.


def missing() -> str | None:
    """Why no cluster can be started here; None where one can."""
    if os.geteuid():
        return "a Slurm cluster of its own needs root"
    if absent := [name for name in PROGRAMS if not _which(name)]:
        return f"no {', '.join(absent)} here: apt-get install slurm-wlm munge"
    if subprocess.run([*ISOLATED, "true"], capture_output=True).returncode:
        return "namespaces cannot be made here"
    return None


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class SlurmCluster:
    """Nodes n0, n1 and n2, which is taken last, in one partition. `environment`: what Slurm's commands need."""

    nodes = ("n0", "n1", "n2")

    def __init__(self, folder: Path, cpus: int = 4) -> None:
        self.folder, self.cpus = folder, cpus
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Returns once all nodes are idle, about 5 s later."""
        (self.folder / "state").mkdir(parents=True)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost {socket.gethostname()} {' '.join(self.nodes)}\n")
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        host = socket.gethostname().partition(".")[0]
        # Jobs meet at ports after their numbers, and another worker of pytest-xdist may have a cluster, too.
        first = 1 + 1000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        conf = CONF.format(host=host, port=_free_port(), first=first, folder=self.folder)
        for weight, name in enumerate(self.nodes, 1):
            address = f"NodeAddr=127.0.0.1 Port={_free_port()}"
            conf += f"NodeName={name} {address} CPUs={self.cpus} RealMemory=4000 Weight={weight}\n"
        every = f"Nodes={','.join(self.nodes)} MaxTime=INFINITE State=UP"
        conf += f"PartitionName=main {every} Default=YES PriorityTier=1 GraceTime=60\n"
        conf += f"PartitionName=urgent {every} PriorityTier=2\n"
        (self.folder / "slurm.conf").write_text(conf)
        files = [f"--{kind}-file={self.folder}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
        self._start("munged", ["munged", "--force", "--foreground", f"--socket={self.folder}/munge.socket", *files])
        self._until(lambda: (self.folder / "munge.socket").exists(), "munged made no socket")
        self._start("slurmctld", ["slurmctld", "-D", "-f", str(self.folder / "slurm.conf")])
        for name in self.nodes:
            self.start_node(name)
        self.wait_for_nodes()

    def stop(self) -> None:
        """Kills everything: nodes first, with all that runs on them."""
        for name in reversed(list(self.daemons)):
            self._kill(name)

    def start_node(self, name: str) -> None:
        """Boot a node: a fresh process tree whose first process is a shell that waits for slurmd."""
        hosts = shlex.quote(str(self.folder / "hosts"))
        boot = f"mount --bind {hosts} /etc/hosts && hostname {name} && {{ slurmd -D -N {name} & wait $!; }}"
        self._start(name, [*ISOLATED, "bash", "-c", boot])

    def kill_node(self, name: str) -> None:
        """As when its power fails: slurmd, its step daemons and all tasks on it are gone at once."""
        self._kill(name)

    def wait_for_nodes(self) -> None:
        """Until all nodes are idle."""
        self._until(
            lambda: (
                [line.split() for line in self.run("sinfo", "-hN", "-p", "main", "-o", "%N %t").splitlines()]
                == [[name, "idle"] for name in self.nodes]
            ),
            "the nodes do not become idle",
        )

    def on_node(self, name: str, command: str) -> str:
        """What a shell command says that runs on the node, for instance a `mount --bind` that only the node sees."""
        shell = Path(f"/proc/{self.daemons[name].pid}/task/{self.daemons[name].pid}/children").read_text().split()[0]
        enter = ["nsenter", "--target", shell, "--mount", "--uts", "--pid", "bash", "-ec", command]
        return subprocess.run(enter, check=True, capture_output=True, text=True, env=self.environment).stdout

    def run(self, *command: str) -> str:
        """What one of Slurm's commands says."""
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=PATIENCE)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}{self.logs()}"
        return done.stdout

    def sbatch(self, *arguments: str, folder: Path, more: Mapping[str, str] | None = None) -> int:
        """The number of the job that `sbatch` made of the arguments, in `folder`, with `more` variables."""
        done = self.try_sbatch(*arguments, folder=folder, more=more)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1])

    def try_sbatch(
        self, *arguments: str, folder: Path, more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **(more or {})}
        command = ["sbatch", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env=environment, timeout=PATIENCE, check=False
        )

    def job(self, number: int | str) -> dict[str, str]:
        """What Slurm knows of a job: JobState, Restarts, Reason, ExitCode, …"""
        words = self.run("scontrol", "--oneliner", "show", "job", str(number)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: int | str, *states: str, patience: float = PATIENCE) -> dict[str, str]:
        """The job, once it is in one of `states` (by default: has ended for good)."""
        deadline = time.monotonic() + patience
        while (job := self.job(number))["JobState"] not in (states or ENDED):
            assert time.monotonic() < deadline, f"job {number} is {job['JobState']}: {job}{self.logs()}"
            time.sleep(0.2)
        return job

    def clear(self) -> None:
        """Cancel all jobs, and wait until the nodes are idle."""
        self.run("scancel", "--user=root")
        for name in self.nodes:
            if self.daemons[name].poll() is not None:
                self.start_node(name)
        self.wait_for_nodes()

    def logs(self, lines: int = 15) -> str:
        """The ends of the daemons' logs."""
        shown = [f"--- {path.name}\n" + _tail(path, lines) for path in sorted(self.folder.glob("*.out"))]
        return "\n" + "\n".join(shown)

    def _start(self, name: str, command: Sequence[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                [*DIES_WITH_US, _which(command[0]) or command[0], *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
                start_new_session=True,
            )

    def _kill(self, name: str) -> None:
        self.daemons[name].send_signal(signal.SIGKILL)
        self.daemons[name].wait()

    def _until(self, ready: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            assert not dead, f"{problem}; ended: {dead}{self.logs()}"
            assert time.monotonic() < deadline, f"{problem}{self.logs()}"
            time.sleep(0.1)


def _tail(path: Path, lines: int) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
