"""The preparation job as a whole: growth and memory, two workers against one, Ray against local, kills.

    python -m benchmarks.prepare growth --pairs 100_000 1_000_000 10_000_000
    python -m benchmarks.prepare workers | ray | kills

Each run is the real command in processes of its own. Input is made on the spot and kept in --folder. Tables go to
stdout.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Cost, run
from benchmarks.texts import write_pairs

STAGES = "stages=[exact,near_duplicates,language]"
"""Without a model; consistency has a benchmark of its own."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["growth", "workers", "ray", "kills"])
    parser.add_argument("--pairs", type=int, nargs="+", help="numbers of pairs")
    parser.add_argument("--stages", default=STAGES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "jemb-benchmarks")
    arguments = parser.parse_args()
    globals()[arguments.what](arguments)


def command(source: Path, output: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "jemb.app.cli", "prepare", f"input={source}", f"output={output}", *options]


def prepare(source: Path, output: Path, *options: str) -> Cost:
    """One undisturbed run into a fresh folder, which is removed again."""
    shutil.rmtree(output, ignore_errors=True)
    cost = run(command(source, output, *options), environment={"HF_HUB_OFFLINE": "1"})
    return cost


def growth(arguments: argparse.Namespace) -> None:
    print("| pairs | wall, s | CPU, s | CPU µs a pair | peak resident of all processes, GB | largest process, GB |")
    print("|---|---|---|---|---|---|")
    for count in arguments.pairs or [100_000, 1_000_000, 10_000_000]:
        source = write_pairs(arguments.folder / f"pairs-{count}.jsonl", count)
        cost = prepare(source, arguments.folder / "out", arguments.stages)
        print(
            f"| {count:,} | {cost.seconds:.1f} | {cost.cpu:.1f} | {cost.cpu / count * 1e6:.1f} | "
            f"{cost.peak / 1e9:.2f} | {cost.largest / 1e9:.2f} |",
            flush=True,
        )
        shutil.rmtree(arguments.folder / "out")


def workers(arguments: argparse.Namespace) -> None:
    """Two workers against one, in turn."""
    count = (arguments.pairs or [1_000_000])[0]
    source = write_pairs(arguments.folder / f"pairs-{count}.jsonl", count)
    compare(arguments, source, {"1 worker": ["workers=1"], "2 workers": ["workers=2"]})


def ray(arguments: argparse.Namespace) -> None:
    """Ray on this machine against local processes, in turn."""
    count = (arguments.pairs or [1_000_000])[0]
    source = write_pairs(arguments.folder / f"pairs-{count}.jsonl", count)
    compare(arguments, source, {"local": ["workers=2"], "ray": ["workers=2", "executor=ray"]})


def compare(arguments: argparse.Namespace, source: Path, ways: dict[str, list[str]]) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: set[str] = set()
    for _ in range(arguments.repeats):
        for name, options in ways.items():
            output = arguments.folder / "out"
            seconds[name].append(prepare(source, output, arguments.stages, *options).seconds)
            found.add(digest(output))
            shutil.rmtree(output)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    print("| | median wall, s | all | ratio to the first |")
    print("|---|---|---|---|")
    for name, median in medians.items():
        runs = ", ".join(f"{value:.1f}" for value in seconds[name])
        print(f"| {name} | {median:.1f} | {runs} | {first / median:.2f} |")
    print(f"\nsame bytes: {'yes' if len(found) == 1 else 'NO'}")


def kills(arguments: argparse.Namespace) -> None:
    """SIGKILL of the job at random moments; the same command goes on; the bytes are those of an undisturbed run."""
    count = (arguments.pairs or [60_000])[0]
    source = write_pairs(arguments.folder / f"pairs-{count}.jsonl", count)
    output = arguments.folder / "out"
    cost = prepare(source, output, arguments.stages, "workers=2", "keep_dropped=true")
    wanted = digest(output)
    chosen = random.Random(0)
    equal = 0
    for number in range(arguments.kills):
        shutil.rmtree(output)
        job = command(source, output, arguments.stages, "workers=2", "keep_dropped=true")
        process = subprocess.Popen(
            job, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"},
            start_new_session=True,
        )  # fmt: skip
        moment = chosen.uniform(0.2, 0.98) * cost.seconds
        time.sleep(moment)
        whole = chosen.random() < 0.5
        (os.killpg if whole else os.kill)(process.pid, signal.SIGKILL)
        ended = process.wait()
        run(job, environment={"HF_HUB_OFFLINE": "1"})
        same = digest(output) == wanted
        equal += same
        what = "all processes" if whole else "the main process"
        print(
            f"{number + 1}: {what} after {moment:.1f} s (exit {ended}): {'equal' if same else 'DIFFERENT'}", flush=True
        )
    print(f"\n{equal} of {arguments.kills} byte-identical to the undisturbed run of {cost.seconds:.1f} s")


def digest(folder: Path) -> str:
    """Of all files and their names."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".lock":
            total.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


if __name__ == "__main__":
    main()
