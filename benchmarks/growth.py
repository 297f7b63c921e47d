"""How the cost of training grows: with the global batch, with the length of the texts, with the size of the model.

    python -m benchmarks.growth [--batches 256 1024 4096 16384] [--lengths 16 64 256] [--shapes 2x128 6x384]
    python -m benchmarks.growth --device cuda --batches 4096 16384 65536 --lengths 32 128 512 --shapes 6x384 12x768

Real `jemb train` runs of a BERT made on the spot, on texts of so many words, each of which is one token; gradient
caching of 8,192 tokens at once, so memory stays bounded. Steps after the first are counted. The floor is the arithmetic
of forward and backward, at the rate of a matrix product measured here; caching computes forward twice, so its own floor
is 3/4 of that.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

PLAIN_BATCH, PLAIN_LENGTH, PLAIN_SHAPE = 256, 32, "2x128"
MICRO_TOKENS = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 1024, 4096, 16384])
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--shapes", nargs="+", default=["2x128", "4x256", "6x384", "12x768"], help="LAYERSxWIDTH")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    from benchmarks.measure import matrix_rate

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lengths = sorted({PLAIN_LENGTH, *arguments.lengths})
        for length in lengths:
            write_texts(folder / f"shards-{length}", max(arguments.batches) if length == PLAIN_LENGTH else 2048, length)
        rate = matrix_rate(arguments.device)
        print(f"{arguments.device}, {rate / 1e12:.2f} TFLOP/s of a matrix product")
        head = "pairs/s | µs a pair | share of the floor | peak memory, GB |\n|---:|---:|---:|---:|---:|"
        print(f"\n{PLAIN_SHAPE}, {PLAIN_LENGTH} tokens a text\n\n| global batch | {head}")
        for batch in arguments.batches:
            row(folder, batch, PLAIN_LENGTH, PLAIN_SHAPE, arguments.device, rate, f"{batch:,}")
        print(f"\n{PLAIN_SHAPE}, global batch {PLAIN_BATCH}\n\n| tokens a text | {head}")
        for length in arguments.lengths:
            row(folder, PLAIN_BATCH, length, PLAIN_SHAPE, arguments.device, rate, str(length))
        print(f"\n{PLAIN_LENGTH} tokens a text, global batch {PLAIN_BATCH}\n\n| layers x width | {head}")
        for shape in arguments.shapes:
            row(folder, PLAIN_BATCH, PLAIN_LENGTH, shape, arguments.device, rate, shape)


def row(folder: Path, batch: int, length: int, shape: str, device: str, rate: float, label: str) -> None:
    from benchmarks.measure import run

    layers, width = map(int, shape.split("x"))
    steps = 3 if batch > 1024 or width > 256 else 8
    with tempfile.TemporaryDirectory() as name:
        options = [
            f"shards={folder}/shards-{length}", f"output={name}/run", f"model.hidden_size={width}",
            f"model.num_layers={layers}", f"model.num_heads={width // 32}", f"max_length={length + 2}",
            f"global_batch_size={batch}", f"max_steps={1 + steps}", f"micro_batch_tokens={MICRO_TOKENS}",
            f"device={device}", "strategy=single", "trackers=[]", "warmup_steps=0",
        ]  # fmt: skip
        cost = run([sys.executable, "-m", "jemb.app.train", *options], environment={"HF_HUB_OFFLINE": "1"})
        times = [json.loads(line)["time"] for line in (Path(name) / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds = float(np.median(np.diff(times)))
    tokens = length + 2
    products = 2 * (4 * width * width + 2 * width * 4 * width) * tokens + 4 * width * tokens**2
    floor = 3 * 2 * layers * products / rate  # two texts a pair; backward is twice forward
    each = seconds / batch
    print(
        f"| {label} | {1 / each:,.0f} | {1e6 * each:,.0f} | {floor / each:.0%} | {cost.largest / 1e9:.2f} |", flush=True
    )


def write_texts(folder: Path, count: int, length: int) -> None:
    """`count` pairs of different texts of `length` words each."""
    from benchmarks.texts import vocabulary
    from jemb.core.records import Sample
    from jemb.shards import write_dataset

    words = [word for word in vocabulary()[0][:4000] if len(word) < 12]
    drawn = np.random.default_rng(length).integers(len(words), size=(count, 2, length))
    texts = ([" ".join(words[i] for i in side) for side in sides] for sides in drawn)
    write_dataset(folder, "words", (Sample(str(number), *sides) for number, sides in enumerate(texts)), 25_000)


if __name__ == "__main__":
    main()
