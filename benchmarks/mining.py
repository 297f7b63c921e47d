"""Mining from a corpus: time and memory, planted hard negatives found, planted right answers kept out.

    python -m benchmarks.mining --data FOLDER [--documents 100_000] [--rows 2_000]

Half of the rows are premises of NLI with an entailed sentence; what contradicts them (by people) stands in the corpus
and should be mined. The other half are sentences with one simplification; two more of each, which are right answers as
well, stand in the corpus and should not be mined. The rest of the corpus are documents of other sets. The encoder is
all-MiniLM-L6-v2; the reranker is a cross-encoder that is trained here, from the same weights, on other rows of both
sets. All of it is done by `jemb prepare` in a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.experiments.material import Material
from benchmarks.measure import Cost, run
from jemb.model import find_folder
from jemb.shards import open_datasets

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
HARD, RIGHT = "triplets/nli_new_protocols", "pairs/asset_simplification"
FILLERS = ["wordnet_word_gloss", "multi30k_captions", "debian_package", "opentrivia_qa", "git_commit"]
TOP = 20
MAX_LENGTH = 64
STEPS = 300
"""Of the reranker, 32 pairs each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--output", type=Path, default=Path("runs/mining"))
    arguments = parser.parse_args()
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    hard, right, rest = planted(Material(arguments.data), arguments.rows // 2)
    rows = [{"query": query, "positive": positive} for query, positive, _ in hard + right]
    write(folder / "rows.jsonl", rows)
    documents = [text for _, _, texts in hard + right for text in texts]
    documents += itertools.islice(
        fillers(Material(arguments.data), set(documents)), arguments.documents - len(documents)
    )
    random.Random(0).shuffle(documents)
    write(folder / "corpus.jsonl", [{"text": text} for text in documents])
    reranker = folder / "reranker"
    if not reranker.exists():
        train_reranker(rest, reranker)
    print(f"{len(rows):,} rows, {len(documents):,} documents, top {TOP}, {MAX_LENGTH} tokens\n")
    print("| | wall s | CPU s | peak of one process, GB | hard negatives found | right answers kept out |")
    print("|---|---:|---:|---:|---:|---:|")
    for arm, options in {
        "bounds off": ["mine.max_share=null"],
        "max_share=0.95": [],
        "max_share=0.95, rerank": [f"mine.rerank={reranker}"],
    }.items():
        name = arm.replace(" ", "-").replace(",", "")
        cost = mine(folder, name, options)
        found, kept_out = shares(folder / name, hard, right)
        costs = f"{cost.seconds:.0f} | {cost.cpu:.0f} | {cost.largest / 1e9:.2f}"
        print(f"| {arm} | {costs} | {found:.1%} | {kept_out:.1%} |", flush=True)


Planted = list[tuple[str, str, list[str]]]
"""Of each row its query, its positive, and its texts in the corpus."""


def planted(material: Material, number: int) -> tuple[Planted, Planted, list[tuple[str, str, float]]]:
    """(rows with a hard negative in the corpus, rows with two right answers there, pairs of others with a label)."""
    hard = {row["query"]: row for row in material.rows(HARD)}
    several: dict[str, list[str]] = {}
    for row in material.rows(RIGHT):
        several.setdefault(row["query"], []).append(row["positive"])
    right = [(query, texts) for query, texts in several.items() if len(set(texts)) == len(texts) >= 3]
    chosen = list(hard.values())
    labelled = [
        (row["query"], row[side], label)
        for row in chosen[number:]
        for side, label in (("positive", 1.0), ("negative", 0.0))
    ]
    for (query, texts), (_, others) in itertools.pairwise(right[number:]):
        labelled += [(query, texts[0], 1.0), (query, texts[1], 1.0), (query, others[0], 0.0)]
    random.Random(0).shuffle(labelled)
    return (
        [(row["query"], row["positive"], [row["negative"]]) for row in chosen[:number]],
        [(query, texts[0], texts[1:3]) for query, texts in right[:number]],
        labelled,
    )


def fillers(material: Material, there: set[str]) -> Iterator[str]:
    for name in FILLERS:
        for row in material.rows(f"pairs/{name}"):
            if row["positive"] not in there:
                there.add(row["positive"])
                yield row["positive"]


def train_reranker(labelled: list[tuple[str, str, float]], folder: Path) -> None:
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    model = CrossEncoder(str(find_folder(ENCODER)), num_labels=1, max_length=2 * MAX_LENGTH, device="cpu")
    columns = {
        name: list(values) for name, values in zip(("query", "text", "label"), zip(*labelled, strict=True), strict=True)
    }
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(folder) + ".runs", max_steps=STEPS, per_device_train_batch_size=32, learning_rate=5e-5,
        warmup_steps=30, use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, seed=0,
    )  # fmt: skip
    trainer = CrossEncoderTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=BinaryCrossEntropyLoss(model)
    )
    trainer.train()
    model.save_pretrained(str(folder))


def mine(folder: Path, name: str, options: list[str]) -> Cost:
    return run(
        [
            sys.executable, "-m", "jemb.app.prepare", f"input={folder / 'rows.jsonl'}", f"output={folder / name}",
            "stages=[mine]", f"mine.corpus={folder / 'corpus.jsonl'}", "mine.pool_size=0", f"mine.top={TOP}",
            f"mine.num_negatives={TOP}", f"mine.max_length={MAX_LENGTH}", f"mine.cache={folder / 'vectors'}", *options,
        ],
        environment={"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def shares(shards: Path, hard: Planted, right: Planted) -> tuple[float, float]:
    """(share of the planted hard negatives that were mined, of the planted right answers that were not)."""
    mined = {sample.query: set(sample.negatives) for reader in open_datasets(shards).values() for sample in reader}

    def mean(rows: Planted) -> float:
        found = [text in mined.get(query, ()) for query, _, texts in rows for text in texts]
        return sum(found) / len(found)

    return mean(hard), 1 - mean(right)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
