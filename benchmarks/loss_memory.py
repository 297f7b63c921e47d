"""What the loss of a large batch costs: memory and time of forward and backward, by tiles and with all logits at once.

    python -m benchmarks.loss_memory                      # 32,768 pairs of 384 numbers, CPU
    python -m benchmarks.loss_memory --device cuda
    python -m benchmarks.loss_memory --rows 8192 --check  # exit code 1 if tiles add more than 10 % of full logits

Three cases, each in a process of its own: `tiles` is L_pairs as training computes it (both directions, equal texts
hidden); `full` the same by cross_entropy of whole tables of logits, without masks; `products` the eight matrix products
that tiles cannot do without (a direction needs one forward, three backward), over the same tiles, and nothing else.

Memory is what a case adds at its peak to what the vectors take: resident memory on a CPU, allocated memory on a GPU.
CPU seconds are of all threads; on a machine with other work on it they say more than wall time. Where memory for full
logits is short, they are measured on fewer rows and scaled up by rows squared, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MOST = 0.10
"""Share of full logits' memory that tiles may add."""
TABLES = 5
"""Tables of rows x rows fp32 numbers that full logits need at most; to see beforehand whether they fit."""
TEMPERATURE = 0.05


@dataclass(frozen=True, slots=True)
class Cost:
    """rows: pairs it was measured on. seconds, cpu_seconds: the least of the repetitions. added: bytes at the peak,
    over the vectors."""

    case: str
    rows: int
    seconds: float
    cpu_seconds: float
    added: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32768, help="pairs in the global batch")
    parser.add_argument("--width", type=int, default=384, help="numbers in a vector")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the CPU")
    parser.add_argument("--repeat", type=int, default=3, help="times each case is timed")
    parser.add_argument("--tile", type=int, nargs=2, metavar=("ROWS", "CANDIDATES"), help="default: the loss's own")
    parser.add_argument("--check", action="store_true", help=f"fail if tiles add over {MOST:.0%} of full logits")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.case:
        print(json.dumps(asdict(_measure(options))))
        return 0
    tiles, products = _run("tiles", options.rows, options), _run("products", options.rows, options)
    fits = options.rows
    while fits > 1024 and TABLES * 4 * fits**2 > _free(options.device):
        fits //= 2
    full = _run("full", fits, options)
    scale = (options.rows / fits) ** 2
    print(f"{options.rows:,} pairs of {options.width} numbers, {options.device}, {options.threads} threads\n")
    print("| case | adds MiB | seconds | CPU seconds |\n|---|---|---|---|")
    for cost, factor in ((products, 1.0), (tiles, 1.0), (full, scale)):
        note = f", scaled from {cost.rows:,}" if factor > 1 else ""
        values = (f"{value * factor:,.{digits}f}" for value, digits in _numbers(cost))
        print(f"| {cost.case}{note} | {' | '.join(values)} |")
    share = tiles.added / (full.added * scale)
    time_of_products = tiles.cpu_seconds / products.cpu_seconds, tiles.seconds / products.seconds
    print(
        f"\ntiles add {share:.1%} of full logits' memory (wanted: at most {MOST:.0%}) and take "
        f"{tiles.seconds / full.seconds / scale:.2f} of their time, {tiles.cpu_seconds / full.cpu_seconds / scale:.2f} "
        f"of their CPU time; {time_of_products[1]:.2f} times the bare products', {time_of_products[0]:.2f} in CPU time"
    )
    return int(options.check and share > MOST)


def _numbers(cost: Cost) -> list[tuple[float, int]]:
    return [(cost.added / 2**20, 0), (cost.seconds, 2), (cost.cpu_seconds, 2)]


def _run(case: str, rows: int, options: argparse.Namespace) -> Cost:
    command = [sys.executable, "-m", "benchmarks.loss_memory", "--case", case, "--rows", str(rows)]
    for name in ("width", "device", "threads", "repeat"):
        command += [f"--{name}", str(getattr(options, name))]
    if options.tile:
        command += ["--tile", *map(str, options.tile)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(options.threads)}
    root = Path(__file__).parent.parent
    out = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return Cost(**json.loads(out))


def _free(device: str) -> int:
    """Bytes that are free, less a fifth for everybody else."""
    if device == "cuda":
        import torch

        return int(0.8 * torch.cuda.mem_get_info()[0])
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(0.8 * 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")))


def _measure(options: argparse.Namespace) -> Cost:
    import torch

    from benchmarks.measure import resident
    from jemb.loss import tiles

    torch.set_num_threads(options.threads)
    if options.tile:
        tiles.TILE[options.device] = tuple(options.tile)
    on_gpu = options.device == "cuda"
    work = CASES[options.case]
    work(256, 8, options.device)()  # loads libraries and their work space
    step = work(options.rows, options.width, options.device)
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else resident(os.getpid())
    times = []
    for _ in range(options.repeat):
        start, cpu_start = time.perf_counter(), time.process_time()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start, time.process_time() - cpu_start))
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds, cpu_seconds = (min(kind) for kind in zip(*times, strict=True))
    return Cost(options.case, options.rows, seconds, cpu_seconds, peak - before)


def _vectors(rows: int, width: int, device: str) -> list[Tensor]:
    """Queries, and positives near them: a loss as in the middle of training."""
    import torch
    from torch.nn.functional import normalize

    generator = torch.Generator().manual_seed(0)
    q = normalize(torch.randn(rows, width, generator=generator), dim=1)
    p = normalize(q + 0.1 * torch.randn(rows, width, generator=generator), dim=1)
    return [x.to(device).requires_grad_() for x in (q, p)]


def _tiles(rows: int, width: int, device: str) -> Callable[[], None]:
    import torch

    from jemb.loss import Pairs, Rows, Texts

    vectors = _vectors(rows, width, device)
    # One text in a hundred comes twice. Hashes stay on the host, as in training.
    hashes = [torch.randint(100 * rows, (rows,), generator=torch.Generator().manual_seed(i)) for i in range(2)]
    texts = [Rows(local_BD=v, all_ND=v, hash_B=h, hash_N=h) for v, h in zip(vectors, hashes, strict=True)]
    objective = Pairs(temperature=TEMPERATURE)

    def step() -> None:
        objective(Texts(*texts)).total.backward()
        _forget(vectors)

    return step


def _full(rows: int, width: int, device: str) -> Callable[[], None]:
    import torch
    from torch.nn.functional import cross_entropy

    q, p = _vectors(rows, width, device)
    targets = torch.arange(rows, device=device)

    def step() -> None:
        loss = cross_entropy(q @ p.T / TEMPERATURE, targets) + cross_entropy(p @ q.T / TEMPERATURE, targets)
        loss.backward()
        _forget([q, p])

    return step


def _products(rows: int, width: int, device: str) -> Callable[[], None]:
    import torch

    from jemb.loss.tiles import LARGE_TILE, TILE

    q, p = (x.detach() for x in _vectors(rows, width, device))
    height, breadth = (min(size, rows) for size in TILE.get(device, LARGE_TILE))

    def both_ways(a: torch.Tensor, b: torch.Tensor, backward: bool) -> None:
        buffer = a.new_empty(height * breadth)
        grads = [torch.zeros_like(a), torch.zeros_like(b)] if backward else []
        for i in range(0, rows, height):
            for j in range(0, rows, breadth):
                mine, theirs = slice(i, i + height), slice(j, j + breadth)
                tile = buffer[: len(a[mine]) * len(b[theirs])].view(len(a[mine]), len(b[theirs]))
                torch.mm(a[mine], b[theirs].T, out=tile)
                if backward:
                    grads[0][mine].addmm_(tile, b[theirs])
                    grads[1][theirs].addmm_(tile.T, a[mine])

    def step() -> None:
        for a, b in ((q, p), (p, q)):
            both_ways(a, b, backward=False)
            both_ways(a, b, backward=True)

    return step


def _forget(vectors: Sequence[Tensor]) -> None:
    for x in vectors:
        x.grad = None


CASES: dict[str, Callable[[int, int, str], Callable[[], None]]] = {
    "products": _products,
    "tiles": _tiles,
    "full": _full,
}


if __name__ == "__main__":
    sys.exit(main())
