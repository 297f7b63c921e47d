"""Texts for the benchmarks, from what every machine has: words of Python's own documentation, in Zipf's proportions."""

from __future__ import annotations

import json
import pydoc_data.topics
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jemb.shards import Manifest

CHUNK = 20_000


def vocabulary() -> tuple[list[str], np.ndarray]:
    """(words, their shares) of Python's language reference, the most frequent first: about 5,000."""
    counts = Counter(re.findall(r"[a-z]+", " ".join(pydoc_data.topics.topics.values()).lower()))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    shares = np.array([counts[word] for word in words], float)
    return words, shares / shares.sum()


def pairs(count: int, *, seed: int = 0, duplicates: float = 0.05, near: float = 0.1) -> Iterator[dict[str, str]]:
    """`count` pairs of about 12 and 25 words; a share `duplicates` repeats an earlier one, a share `near` does so with
    one word of each side changed (Jaccard of character 5-grams about 0.85)."""
    words, shares = vocabulary()
    table = np.array(words, dtype=object)
    chosen = np.random.default_rng(seed)
    made = 0
    while made < count:
        size = min(CHUNK, count - made)
        lengths = chosen.integers((8, 16), (17, 35), size=(size, 2))
        drawn = table[chosen.choice(len(words), int(lengths.sum()), p=shares)]
        kind, earlier = chosen.random(size), (chosen.random(size) * np.arange(size)).astype(int)
        block: list[tuple[list[str], list[str]]] = []
        at = 0
        for row, (query, positive) in enumerate(lengths.tolist()):
            sides = list(drawn[at : at + query]), list(drawn[at + query : at + query + positive])
            at += query + positive
            if row and kind[row] < duplicates + near:
                old = block[int(earlier[row])]
                changed = [*old[0][:-1], sides[0][0]], [*old[1][:-1], sides[1][0]]
                sides = old if kind[row] < duplicates else changed
            block.append(sides)
            yield {"query": " ".join(sides[0]), "positive": " ".join(sides[1])}
        made += size


def write_shards(folder: Path, rows: Iterable[Mapping[str, str]], shard: int = 25_000) -> Manifest:
    """The pairs as a data set `pairs` of jemb, at most `shard` of them in a tar."""
    from jemb.core.records import Sample
    from jemb.shards import write_dataset

    return write_dataset(folder, "pairs", (Sample(f"{number:08d}", **row) for number, row in enumerate(rows)), shard)


def write_pairs(path: Path, count: int, **options: float) -> Path:
    """`pairs` as JSON lines; kept from an earlier call with the same name."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("w") as file:
            for pair in pairs(count, **options):  # type: ignore[arg-type]
                file.write(json.dumps(pair) + "\n")
        partial.rename(path)
    return path
