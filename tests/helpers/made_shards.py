"""Small data sets, written as shards."""

from __future__ import annotations

import random
from pathlib import Path

from jemb.core.records import Sample
from jemb.shards import write_dataset

WORDS = [
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heron",
    "iris",
    "jade",
    "koala",
    "lotus",
    "maple",
    "north",
    "ocean",
    "pearl",
]


def make_samples(name: str, size: int, negatives: int = 0) -> list[Sample]:
    """Samples with keys `NAME-0`, …; every seventh has the positive of the one before it, as real data do."""
    draw = random.Random(name)
    samples: list[Sample] = []
    for number in range(size):
        words = draw.choices(WORDS, k=draw.randint(2, 6))
        positive = samples[-1].positive if number % 7 == 6 else f"{name} " + " ".join(words + draw.choices(WORDS, k=3))
        wrong = tuple(f"no {number} " + " ".join(draw.choices(WORDS, k=draw.randint(1, 8))) for _ in range(negatives))
        key = f"{name}-{number}".replace(".", "_")
        samples.append(Sample(key, " ".join(words), positive, wrong))
    return samples


def write_shards(folder: Path, name: str, samples: list[Sample], shard_samples: int = 16) -> Path:
    write_dataset(folder, name, samples, shard_samples)
    return folder
