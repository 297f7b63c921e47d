"""The small world that each fault breaks: raw files, shards, tokens, a model, two runs, evaluation sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM

from tests.trials.fault import at, me, run

TINY = "model.hidden_size=32 model.num_layers=1 model.vocab_size=300 max_length=16 trackers=[]"
PREPARE = "prepare input=raw output=out stages=[exact] workers=1"
STEPS = f"{TINY} global_batch_size=8 max_steps=8 warmup_steps=0 checkpoint_every=2 workers=0 device=cpu"
TRAIN = f"train shards=shards output=out {STEPS}"
RESUME = f"train shards=shards output=part {STEPS}"
EVALUATE = "evaluate model=model tasks=[{}] output=out/scores.json bootstrap=0 device=cpu"
EXPORT = "export run=run output=out"
INSPECT = "inspect shards"
TOKENIZE = "tokenize shards=shards model=model output=out workers=1 max_length=16"

_WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron"]
ROWS: list[dict[str, object]] = [
    {"query": f"{a} {b}", "positive": f"the {a} of {b}"} for a in _WORDS for b in _WORDS if a != b
]
"""56 pairs, all different, of words that the shards have."""


def lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def build(world: Path, make_dataset: Callable[..., Path]) -> Path:
    """The undamaged world, made by the commands themselves."""
    (world / "raw").mkdir(parents=True)
    (world / "raw" / "pairs.jsonl").write_text(lines(ROWS))
    make_dataset(world / "shards", "answers", 50)
    make_dataset(world / "triplets", "nli", 40, negatives=3)
    _evaluation_sets(world / "eval")
    for command, prelude in (
        (TRAIN.replace("output=out", "output=run"), None),
        (TRAIN.replace("output=out", "output=part"), at("step-00000004$", me(SIGTERM), after=True)),
        ("export run=run output=model", None),
        (TOKENIZE.replace("output=out", "output=tokens"), None),
    ):
        outcome = run(world, command.split(), prelude)
        assert outcome.code == 0, outcome.output
    return world


def _evaluation_sets(folder: Path) -> None:
    beir = folder / "beir"
    (beir / "qrels").mkdir(parents=True)
    pairs = [(row["query"], row["positive"]) for row in ROWS[:8]]
    (folder / "sts.jsonl").write_text(
        lines([{"sentence1": a, "sentence2": b, "score": n % 5} for n, (a, b) in enumerate(pairs)])
    )
    (folder / "negation.jsonl").write_text(
        lines([{"anchor": a, "entailment": b, "negative": f"not {b}"} for a, b in pairs])
    )
    (folder / "reranking.jsonl").write_text(
        lines([{"query": a, "positive": [b], "negative": [f"not {b}", "no"]} for a, b in pairs])
    )
    (beir / "queries.jsonl").write_text(lines([{"_id": f"q{n}", "text": a} for n, (a, _) in enumerate(pairs)]))
    (beir / "corpus.jsonl").write_text(
        lines([{"_id": f"p{n}", "title": "", "text": b} for n, (_, b) in enumerate(pairs)])
    )
    qrels = "".join(f"q{n}\tp{n}\t1\n" for n in range(len(pairs)))
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)
