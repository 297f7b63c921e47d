"""Run a command and see what it costs: wall and CPU time, and the resident memory of it and all its children."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Cost:
    """seconds: wall time. cpu: seconds of all its processes. peak: highest sum of resident sets, bytes; pages that
    processes share count for each. largest: highest resident set of a single process, bytes."""

    seconds: float
    cpu: float
    peak: int
    largest: int


def run(command: Sequence[str | Path], *, environment: dict[str, str] | None = None, interval: float = 0.1) -> Cost:
    """Raises CalledProcessError when the command fails; its output is shown then."""
    began, before = time.perf_counter(), _children_cpu()
    process = subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peaks = [0, 0]

    def watch() -> None:
        while process.poll() is None:
            sizes = [resident(pid) for pid in _tree(process.pid)]
            peaks[0] = max(peaks[0], sum(sizes))
            peaks[1] = max(peaks[1], *sizes, 0)
            time.sleep(interval)

    thread = threading.Thread(target=watch)
    thread.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - began
    thread.join()
    if process.returncode:
        print(output, file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, list(map(str, command)), output)
    return Cost(seconds, _children_cpu() - before, peaks[0], peaks[1])


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tree(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for parent in found:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def highest() -> int:
    """The most bytes that were resident in this process since `forget`, or since it began."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def median_range(values: Sequence[float], digits: int = 0) -> str:
    """`3.20 (3.05-3.40)`."""
    middle, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low}-{high})"


def alternate(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each way gives in each round: they take turns, so that what else the machine does hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def print_rates(title: str, ways: Mapping[str, Callable[[], float]], rounds: int, against: str) -> None:
    """A table of the rates that the ways give, taking turns."""
    rates = alternate(ways, rounds)
    base = statistics.median(rates[against])
    print(f"\n| {title} | median (range) | ratio to {against} |\n|---|---:|---:|")
    for name, found in rates.items():
        print(f"| {name} | {median_range(found)} | {statistics.median(found) / base:.2f} |", flush=True)


def matrix_rate(device: str) -> float:
    """Operations a second of a matrix product: of a small layer in fp32 on the CPU, of a large one in bf16 on a GPU."""
    import torch

    from benchmarks.consistency import peak

    if device == "cpu":
        return peak(torch.float32, 384, columns=1536)
    one = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    times = []
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        one @ one
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * 8192**3 / statistics.median(times)
