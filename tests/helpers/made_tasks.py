"""Tasks of every kind, of random sentences; and vectors that can be worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

WORDS = ["the", "cat", "dog", "runs", "sleeps", "house", "river", "small", "big", "under", "water", "stone", "not"]


def sentence(seed: int) -> str:
    """1 to 29 words."""
    draw = np.random.default_rng(seed)
    return " ".join(draw.choice(WORDS, draw.integers(1, 30)))


def write_tasks(folder: Path, *, first_query: int = 0) -> None:
    """sts.jsonl, negation.jsonl and a BEIR folder `beir`; where the first query is 0, queries are passages too."""
    (folder / "beir" / "qrels").mkdir(parents=True)
    sts = [{"sentence1": sentence(i), "sentence2": sentence(i // 2), "score": i % 5} for i in range(31)]
    negation = [{"anchor": sentence(i), "entailment": sentence(i // 2), "negative": sentence(i + 1)} for i in range(30)]
    corpus = [{"_id": f"d{i}", "title": "", "text": sentence(i)} for i in range(130)]
    queries = [{"_id": f"q{i}", "text": sentence(first_query + i)} for i in range(10)]
    for name, rows in (("sts", sts), ("negation", negation), ("beir/corpus", corpus), ("beir/queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "beir/qrels/test.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(10)))


def at_angle(texts: Sequence[str]) -> np.ndarray:
    """A text is an angle in degrees (its last word): the nearer the angles, the higher the cosine."""
    degrees = np.radians(np.array([float(text.split()[-1]) for text in texts]))
    return np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
