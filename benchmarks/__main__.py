"""Every benchmark that is small enough, one after the other, and their tables into one file.

    python -m benchmarks [--output results.md]            # 2 cores, about 15 minutes
    python -m benchmarks --device cuda                    # those that a GPU decides

Each runs in processes of its own; what fails is named at the end, and the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

CPU = {
    "training step": ["training_step", "--steps", "2", "--rounds", "1"],
    "gradient caching": [
        "training_step", "--model", "bert-tiny", "--batch", "4096", "--cached", "32", "--steps", "2", "--rounds", "1",
    ],
    "memory of gradient caching": ["caching_memory"],
    "loss": ["loss_memory", "--rows", "8192"],
    "loader": ["loader"],
    "cold start": ["cold_start", "--samples", "10_000_000"],
    "one and two processes against bare DDP": ["step_overhead"],
    "batch plan": ["plan"],
    "near duplicates": ["near_duplicates", "--texts", "50000"],
    "consistency": ["consistency"],
    "encode": ["encode", "--texts", "200"],
}  # fmt: skip
CUDA = {
    "training step, texts up to 128 and 512 tokens": [
        "training_step", "--device", "cuda", "--model", "bert-base", "t5-base", "--batch", "4096",
        "--max-length", "128", "512", "--cached", "512", "--steps", "8",
    ],
    "gradient caching": [
        "training_step", "--device", "cuda", "--model", "bert-base", "--batch", "65536", "--cached", "1024",
    ],
    "memory of gradient caching": ["caching_memory", "--device", "cuda"],
    "loss": ["loss_memory", "--device", "cuda", "--rows", "65536", "--width", "768"],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path, help="Markdown file; else only the screen")
    arguments = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    parts = [
        f"# Benchmarks, {datetime.date.today()}\n\n{platform.machine()}, {os.cpu_count()} CPUs, {arguments.device}, "
        f"commit {commit or 'unknown'}, load {os.getloadavg()[0]:.1f} at the start\n"
    ]
    failed = []
    for title, command in (CUDA if arguments.device == "cuda" else CPU).items():
        print(f"== {title}", flush=True)
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{command[0]}", *command[1:]],
            stdout=subprocess.PIPE,
            env={**os.environ, "DS_ACCELERATOR": arguments.device},  # or DeepSpeed says among the tables what it found
        )
        text = done.stdout.decode().strip()
        print(f"{text}\n({time.perf_counter() - began:.0f} s)\n", flush=True)
        parts.append(f"## {title}\n\n`python -m benchmarks.{' '.join(command)}`\n\n{text}\n")
        if done.returncode:
            failed.append(title)
    if arguments.output:
        arguments.output.write_text("\n".join(parts))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
