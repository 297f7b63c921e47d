"""A training step from texts to updated weights: `jemb train` against the trainer of sentence-transformers.

    python -m benchmarks.training_step [--model bert t5] [--batch 256] [--cached ROWS]
    python -m benchmarks.training_step --device cuda --model bert-base t5-base --batch 4096 --max-length 128 512

Same model, same pairs, same loss (both directions, temperature 0.05), AdamW and clipping; each trainer draws its own
batches from the same pairs. They take turns, each in processes of its own; what counts is pairs/s from the end of
step WARM to the last one, tokenising included, the median of the rounds. Theirs runs with what its documentation
advises: a loader process, bf16 and, on a GPU, FlashAttention with unpadded inputs where it is installed.
`--cached ROWS`: gradient caching with so many rows at once, against CachedMultipleNegativesRankingLoss. Where that can
do so it also runs with as many tokens at once as ROWS (else 32) of the longest texts have; the faster one counts.
`--lora RANK`: jemb also trains adapters of that rank in place of all weights.
Pairs: first sentence and the rest of docstrings of the installed packages, or `--files PAIRS.jsonl[.gz] …`.
The floor is the arithmetic of forward and backward without padding, at the rate of a matrix product measured here.
"""

from __future__ import annotations

import argparse
import gzip
import inspect
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

WARM = 2
PEER = "sentence-transformers"
SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    "bert": (
        "bert",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    ),
    "t5": ("t5", {"d_model": 512, "num_layers": 6, "num_heads": 8, "d_kv": 64, "d_ff": 2048}),
    "bert-tiny": (
        "bert",
        {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
    ),
    "bert-base": ("bert", {}),
    "t5-base": ("t5", {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_kv": 64, "d_ff": 3072}),
}
"""bert: all-MiniLM-L6's shape; t5: that of the encoder of T5-small."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["bert", "t5"], choices=list(SHAPES))
    parser.add_argument("--max-length", type=int, nargs="+", default=[128])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--cached", type=int, metavar="ROWS")
    parser.add_argument("--lora", type=int, metavar="RANK")
    parser.add_argument("--steps", type=int, default=6, help=f"after {WARM} that are not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--files", type=Path, nargs="*", default=[])
    for hidden in ("--own", "--peer"):
        parser.add_argument(hidden, type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if job := arguments.own or arguments.peer:
        (in_this_process if arguments.own else sentence_transformers_run)(**job)
        write_peak(job)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = list(read_pairs(arguments.files)) if arguments.files else list(docstring_pairs(folder))
        random.Random(0).shuffle(pairs)
        write_data(folder, pairs)
        for model in arguments.model:
            make_model(model, folder / model)
            for max_length in arguments.max_length:
                compare(arguments, folder, model, max_length, pairs)


def compare(
    arguments: argparse.Namespace, folder: Path, model: str, max_length: int, pairs: Sequence[dict[str, str]]
) -> None:
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss

    from benchmarks.measure import median_range

    steps = WARM + arguments.steps
    job: dict[str, Any] = {
        "folder": str(folder),
        "model": model,
        "batch": arguments.batch,
        "cached": arguments.cached,
        "tokens": None,
        "steps": steps,
        "device": arguments.device,
        "max_length": max_length,
    }
    ways = {"jemb": (jemb_run, job), PEER: (peer_run, job)}
    if "mini_batch_num_tokens" in inspect.signature(CachedMultipleNegativesRankingLoss).parameters:
        tokens_at_once = (arguments.cached or 32) * max_length
        ways[f"{PEER}, {tokens_at_once:,} tokens at once"] = peer_run, {**job, "tokens": tokens_at_once}
    if arguments.lora:
        ways[f"jemb, LoRA of rank {arguments.lora}"] = jemb_run, {**job, "lora": arguments.lora}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, float] = {}
    for _ in range(arguments.rounds):
        for name, (run, given) in ways.items():
            ends, peaks[name] = run(given)
            rates[name].append(arguments.batch * arguments.steps / (ends[-1] - ends[-1 - arguments.steps]))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    best = max(rate for name, rate in medians.items() if name.startswith(PEER))
    per_pair, tokens, rate = floor(folder / model, pairs, max_length, arguments.device)
    how = f", {arguments.cached} rows at once" if arguments.cached else ""
    print(
        f"\n{model}, {arguments.device}, global batch {arguments.batch:,}{how}, texts up to {max_length} tokens, "
        f"{tokens:.0f} tokens a pair, {os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads\n"
    )
    print("| | pairs/s, median (range) | ratio | share of the floor | peak memory, GB |\n|---|---:|---:|---:|---:|")
    for name, found in rates.items():
        print(
            f"| {name} | {median_range(found, 1)} | {medians[name] / best:.2f} | "
            f"{medians[name] * per_pair / rate:.0%} | {peaks[name] / 1e9:.2f} |"
        )
    print(f"| floor: {per_pair / 1e9:.2f} GFLOP a pair at {rate / 1e12:.2f} TFLOP/s | {rate / per_pair:,.1f} | | | |")


def read_pairs(files: Sequence[Path]) -> Iterator[dict[str, str]]:
    for path in files:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            for row in map(json.loads, lines):
                yield {"query": row["query"], "positive": row["positive"]}


def docstring_pairs(folder: Path) -> Iterator[dict[str, str]]:
    from jemb.demo.corpus import build_corpus

    build_corpus(folder / "corpus", max_pairs=20_000, seed=0)
    yield from read_pairs(sorted((folder / "corpus" / "raw").glob("*.jsonl*")))


def write_data(folder: Path, pairs: Sequence[dict[str, str]]) -> None:
    from benchmarks.texts import write_shards

    with (folder / "pairs.jsonl").open("w") as file:
        file.writelines(json.dumps(pair) + "\n" for pair in pairs)
    write_shards(folder / "shards", pairs)


def make_model(shape: str, folder: Path) -> None:
    """Random weights in the wanted shape, with all-MiniLM's WordPiece tokenizer, as a sentence-transformers folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel, T5Config, T5EncoderModel

    from jemb.model import find_folder

    kind, sizes = SHAPES[shape]
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(os.environ.get("MINILM") or find_folder("all-MiniLM-L6-v2"))
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    backbone: Any = (
        BertModel(BertConfig(vocab_size=len(tokenizer), **no_dropout, **sizes))
        if kind == "bert"
        else T5EncoderModel(T5Config(vocab_size=len(tokenizer), dropout_rate=0.0, **sizes))
    )
    plain = folder.with_name(f"{folder.name}-plain")
    backbone.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    transformer = Transformer(str(plain), max_seq_length=512)
    dim = transformer.get_embedding_dimension()
    SentenceTransformer(modules=[transformer, Pooling(dim, "mean"), Normalize()], device="cpu").save(str(folder))


def jemb_run(job: dict[str, Any]) -> tuple[list[float], float]:
    """(time at the end of each step, peak memory in bytes: of the GPU where there is one)."""
    with tempfile.TemporaryDirectory() as output:
        peak = timed_run("--own", {**job, "output": output}, {})
        lines = (Path(output) / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["time"] for line in lines], peak


def peer_run(job: dict[str, Any]) -> tuple[list[float], float]:
    with tempfile.TemporaryDirectory() as output:
        peak = timed_run("--peer", {**job, "output": output}, {"TOKENIZERS_PARALLELISM": "false"})
        return json.loads((Path(output) / "ends.json").read_text()), peak


def timed_run(which: str, job: dict[str, Any], environment: dict[str, str]) -> float:
    """In a process of its own; its peak memory in bytes."""
    from benchmarks.measure import run

    command = [sys.executable, "-m", "benchmarks.training_step", which, json.dumps(job)]
    cost = run(command, environment={"HF_HUB_OFFLINE": "1", **environment})
    on_gpu = Path(job["output"], "peak")
    return float(on_gpu.read_text()) if on_gpu.exists() else cost.largest


def write_peak(job: dict[str, Any]) -> None:
    import torch

    if job["device"] == "cuda":
        Path(job["output"], "peak").write_text(str(torch.cuda.max_memory_allocated()))


def in_this_process(
    folder: str, model: str, batch: int, cached: int | None, steps: int, device: str, max_length: int, output: str,
    lora: int | None = None, **_: Any,
) -> None:  # fmt: skip
    from jemb.app.cli import run_command

    options = [
        f"shards={folder}/shards", f"model.path={folder}/{model}", f"output={output}/run", f"global_batch_size={batch}",
        f"max_steps={steps}", f"max_length={max_length}", f"device={device}", "strategy=single", "trackers=[]",
        "warmup_steps=0",
    ]  # fmt: skip
    options += [f"model.lora.rank={lora}"] if lora else []
    options += [f"micro_batch_size={cached}"] if cached else []
    if code := run_command("train", options):
        sys.exit(code)


def sentence_transformers_run(
    folder: str,
    model: str,
    batch: int,
    cached: int | None,
    tokens: int | None,
    steps: int,
    device: str,
    max_length: int,
    output: str,
) -> None:
    from datasets import load_dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss
    from transformers import TrainerCallback
    from transformers.utils import is_flash_attn_2_available

    on_gpu = device == "cuda"
    flash = on_gpu and is_flash_attn_2_available() and SHAPES[model][0] == "bert"
    options = {"attn_implementation": "flash_attention_2", "dtype": "bfloat16"} if flash else {}
    encoder = SentenceTransformer(f"{folder}/{model}", device=device, model_kwargs=options)
    encoder.max_seq_length = max_length
    both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    loss: Any
    if tokens:
        loss = CachedMultipleNegativesRankingLoss(encoder, mini_batch_num_tokens=tokens, **both)
    elif cached:
        loss = CachedMultipleNegativesRankingLoss(encoder, mini_batch_size=cached, **both)
    else:
        loss = MultipleNegativesRankingLoss(encoder, **both)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if on_gpu:
                import torch

                torch.cuda.synchronize()
            ends.append(time.time())

    rows = load_dataset("json", data_files=f"{folder}/pairs.jsonl", split="train", cache_dir=f"{output}/cache")
    SentenceTransformerTrainer(
        model=encoder,
        args=Arguments(
            output_dir=f"{output}/st", per_device_train_batch_size=batch, max_steps=steps, learning_rate=2e-4,
            weight_decay=0.01, max_grad_norm=1.0, dataloader_num_workers=1, save_strategy="no", report_to=[],
            bf16=on_gpu, use_cpu=not on_gpu, disable_tqdm=True, dataloader_drop_last=True,
        ),
        train_dataset=rows.select_columns(["query", "positive"]),
        loss=loss,
        callbacks=[Clock()],
    ).train()  # fmt: skip
    Path(output, "ends.json").write_text(json.dumps(ends))


def floor(model: Path, pairs: Sequence[dict[str, str]], max_length: int, device: str) -> tuple[float, float, float]:
    """(floating-point operations a pair, tokens a pair, operations/s of a matrix product here)."""
    import numpy as np

    from benchmarks.encode import operations
    from benchmarks.measure import matrix_rate
    from jemb.model import load_encoder

    encoder = load_encoder(str(model), max_length=max_length)
    chosen = random.Random(1).sample(list(pairs), min(2000, len(pairs)))
    texts = [text for pair in chosen for text in (pair["query"], pair["positive"])]
    tokens = encoder.tokenize(texts).lengths
    per_pair = 3 * operations(encoder, tokens) / len(chosen)  # backward is twice forward
    return per_pair, float(np.sum(tokens)) / len(chosen), matrix_rate(device)


if __name__ == "__main__":
    main()
