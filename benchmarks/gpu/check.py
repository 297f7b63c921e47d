"""What one GPU can tell about jemb, in about a quarter of an hour.

    python -m benchmarks.gpu.check --out gpu-check [--only parity strategies …]
    python -m benchmarks.gpu.check --device cpu --out cpu-check     # every stage in its smallest size

Each stage is a process of its own with a limit in seconds; what it finds goes to OUT/results.jsonl at once, so that a
stage which hangs or fails costs only itself. Stages that need no quiet GPU run beside each other, first. The exit code
is 1 where a finding is bad. docs/gpu.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import fast, right
from benchmarks.gpu.findings import Found

Stage = Callable[[Found, str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """limit: seconds. alone: it measures time, and so has the machine to itself."""

    stage: Stage
    limit: int
    alone: bool = False


STAGES = {
    "parity": Plan(right.parity, 300),
    "models": Plan(right.models, 300),
    "strategies": Plan(right.strategies, 200),
    "collectives": Plan(right.collectives, 60),
    "resume": Plan(right.resume, 120),
    "failures": Plan(right.failures, 250),
    "prepare": Plan(right.decisions, 150),
    "packing": Plan(fast.packing, 240, alone=True),
    "speed": Plan(fast.speed, 300, alone=True),
    "caching": Plan(fast.caching, 120, alone=True),
    "loss": Plan(fast.loss, 100, alone=True),
    "encode": Plan(fast.encode, 60, alone=True),
    "profile": Plan(fast.profile, 60, alone=True),
    "parts": Plan(fast.parts, 90, alone=True),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder for the results and logs")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--limit", type=int, help="seconds for each stage, instead of its own")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.stage:
        STAGES[options.stage].stage(Found(options.out, options.stage), options.device)
        return 0
    began = time.monotonic()
    results = options.out / "results.jsonl"
    results.write_text(json.dumps(machine(options.device)) + "\n")
    beside = [name for name in options.only if not STAGES[name].alone]
    for name, started in [(name, start(options, name)) for name in beside]:
        finish(options, name, started)
    for name in options.only:
        if STAGES[name].alone:
            finish(options, name, start(options, name))
    findings = [json.loads(line) for line in results.read_text().splitlines()[1:]]
    for finding in findings:
        print(f"{'BAD ' if finding['bad'] else ''}{finding['stage']:12s} {finding['what']:48s} {finding['value']}")
    num_bad = sum(finding["bad"] for finding in findings)
    print(f"{num_bad} bad of {len(findings)} findings; {time.monotonic() - began:.0f} s; {results}")
    return int(num_bad > 0)


def machine(device: str) -> dict[str, Any]:
    """The first line of the results: on what they were found."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    versions = {"python": platform.python_version()}
    for name in ("torch", "lightning", "transformers", "sentence-transformers", "deepspeed"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    commit = "unknown"
    with suppress(OSError, subprocess.CalledProcessError):  # neither git nor its folder need have come along
        command = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "count": torch.cuda.device_count() if device == "cuda" else os.cpu_count(),
        **versions,
    }


def start(options: argparse.Namespace, name: str) -> tuple[subprocess.Popen[bytes], float]:
    """(the stage's process, when it must have ended)."""
    command = [sys.executable, "-m", "benchmarks.gpu.check", "--stage", name, "--out", str(options.out)]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "OMP_NUM_THREADS": "4" if options.device == "cuda" else "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    with (options.out / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--device", options.device],
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment,
        )  # fmt: skip
    return process, time.monotonic() + (options.limit or STAGES[name].limit)


def finish(options: argparse.Namespace, name: str, started: tuple[subprocess.Popen[bytes], float]) -> None:
    """Wait for a stage until its limit; a stage that fails or hangs is a finding."""
    process, deadline = started
    try:
        code: int | str = process.wait(max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        code = f"its limit, {options.limit or STAGES[name].limit} s"
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # also whatever the stage has left
    process.wait()
    if code:
        last = (options.out / f"{name}.log").read_text(errors="replace").splitlines()[-3:]
        Found(options.out, name)(f"ended with {code}", " / ".join(last)[-400:], bad=True)


if __name__ == "__main__":
    sys.exit(main())
