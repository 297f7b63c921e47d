"""Stages that measure: training against sentence-transformers, the loss, caching, encoding, and where the time goes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.findings import Found, make_model


def speed(found: Found, device: str) -> None:
    """Pairs/s, share of the matrix peak and memory against the trainer of sentence-transformers."""
    if device == "cpu":
        return _training_step(found, device, "--model", "bert-tiny", "--batch", "8", "--steps", "1")
    many = ["--model", "bert-base", "t5-base", "--batch", "1024"]
    _training_step(found, device, *many)
    _training_step(found, device, "--model", "bert-base", "--batch", "4096", "--cached", "512")
    _training_step(found, device, *many, "--cached", "64", "--max-length", "512")


def caching(found: Found, device: str) -> None:
    """A batch of 65,536 pairs by gradient caching."""
    if device == "cpu":
        return _training_step(found, device, "--model", "bert-tiny", "--batch", "16", "--cached", "4", "--steps", "1")
    options = ["--model", "bert-base", "--batch", "65536", "--cached", "1024", "--max-length", "64", "--steps", "1"]
    _training_step(found, device, *options)


def _training_step(found: Found, device: str, *options: str) -> None:
    pairs = os.environ.get("PAIRS")
    steps = [] if "--steps" in options else ["--steps", "5"]
    files = ["--files", pairs] if pairs else []
    _table(found, "training_step", device, *options, *steps, "--rounds", "1", *files)


def loss(found: Found, device: str) -> None:
    """Memory and time of the loss by tiles, against whole tables of logits and bare matrix products."""
    for rows in (16_384, 65_536) if device == "cuda" else (256,):
        _table(found, "loss_memory", device, "--rows", str(rows), "--width", "768", "--repeat", "2")


def _table(found: Found, benchmark: str, device: str, *options: str) -> None:
    """Run a benchmark, each row of its tables a finding."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--device", device, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith("|") and not set(line) <= set("|-: ")]
    for row in rows or [done.stderr[-300:]]:
        found(f"{benchmark} {' '.join(options)}", row, done.returncode != 0)


def encode(found: Found, device: str) -> None:
    """Texts/s of `jemb.model.encode` against `SentenceTransformer.encode`, BERT-base (CPU: a tiny one)."""
    from sentence_transformers import SentenceTransformer

    from jemb.model import encode, load_encoder

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        draw, words = random.Random(0), [f"word{n}" for n in range(800)]
        texts = [
            " ".join(draw.choices(words, k=draw.randint(3, 60))) for _ in range(30_000 if device == "cuda" else 64)
        ]
        if device == "cuda":
            from benchmarks.training_step import make_model as make_base

            make_base("bert-base", folder)
        else:
            make_model("bert", folder)
        ours, theirs = load_encoder(str(folder)).to(device), SentenceTransformer(str(folder), device=device)
        ways: dict[str, Callable[[Sequence[str]], Any]] = {
            "jemb": lambda some: encode(ours, some, device=device),
            "jemb, exact": lambda some: encode(ours, some, device=device, exact=True),
            "sentence-transformers, fp32, 128 at once": lambda some: theirs.encode(some, batch_size=128),
            "sentence-transformers, bf16, 256 at once": lambda some: theirs.bfloat16().encode(some, batch_size=256),
            "tokenising alone": ours.tokenize,
        }
        for what, way in ways.items():
            way(texts[:500])
            began = time.perf_counter()
            way(texts)
            found(what, f"{len(texts) / (time.perf_counter() - began):,.0f} texts/s")


def profile(found: Found, device: str) -> None:
    """Forward and backward of an encoder: where the time goes, in OUT/profile-SHAPE.txt."""
    import torch

    rows, length = _size(device)
    for shape in ("bert", "t5"):
        model, step = _step_of(device, shape, rows, length)
        found(f"{shape}, {rows} x {length} tokens, ms", f"{1000 * _timed(device, step):.1f}")
        with torch.profiler.profile() as profiler:
            step(model)
            if device == "cuda":
                torch.cuda.synchronize()
        table = profiler.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=40)
        (found.out / f"profile-{shape}.txt").write_text(table)


def packing(found: Found, device: str) -> None:
    """Forward and backward of texts of all lengths up to a limit in groups: padded, packed, packed and compiled."""
    import torch

    from benchmarks.training_step import make_model as make_base
    from jemb.model import encode_together, load_encoder, together
    from jemb.model.packed import compiled

    on_gpu = device == "cuda"
    if not on_gpu:
        compiled.BACKEND = "aot_eager"  # the C++ takes a minute
    shapes, most, lengths = (["bert-base", "t5-base"], 16_384, (128, 512)) if on_gpu else (["bert-tiny"], 128, (16,))
    together.TOKENS, together.SHAPES = {device: most}, 1  # one shape is compiled, not eight
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        for shape in shapes:
            make_base(shape, Path(name) / shape)
        for length, shape in ((length, shape) for length in lengths for shape in shapes):
            encoder = load_encoder(str(Path(name) / shape), max_length=length, dropout=0).to(device).train()
            texts = ["word " * draw.randint(1, length) for _ in range(8 * most // length)]
            tokens = encoder.tokenize(texts).to(torch.device(device))
            padded, first = 0.0, None

            def step(encoder: Any = encoder, tokens: Any = tokens) -> torch.Tensor:
                with torch.autocast(device, torch.bfloat16):
                    vectors = encode_together(encoder, [tokens])[0][0]
                (vectors[:, 0] ** 2).sum().backward()
                return vectors.detach()

            for way in ("padded", "packed", "compiled"):
                encoder.packed, encoder.compiled = way != "padded", way == "compiled"
                what, began = f"{shape}, texts up to {length} tokens, {way}", time.perf_counter()
                try:
                    vectors = step()
                    compiling = time.perf_counter() - began
                    seconds = _timed(device, step)
                except Exception as error:  # whatever a kernel or the compiler raises
                    found(what, f"{type(error).__name__}: {error}"[:400], bad=True)
                    continue
                padded, first = padded or seconds, vectors if first is None else first
                off = float((vectors - first).abs().max())
                rates = (
                    f"{1000 * seconds:.1f} ms, {len(texts) / seconds:,.0f} texts/s, {padded / seconds:.2f} x as fast"
                )
                found(what, f"{rates}, first call {compiling:.0f} s, vectors off by {off:.1e}", off > 0.05)


def parts(found: Found, device: str) -> None:
    """Attention of variable lengths and pinned copies by themselves."""
    import torch

    tokens = 65_536 if device == "cuda" else 256
    for length in (32, 128, 512) if device == "cuda" else (32,):
        for what, attention in _attentions(device, tokens // length, length):
            found(f"{what}, {length} tokens, ms a layer", f"{1000 * _timed(device, attention):.2f}")
    if device == "cuda":
        ids = torch.empty(4096, 512, dtype=torch.int64)
        pinned = ids.pin_memory()
        slow, quick = (
            _timed(device, lambda: ids.to(device)),
            _timed(device, lambda: pinned.to(device, non_blocking=True)),
        )
        found("copy of 16.8 MB, pageable / pinned, ms", f"{1000 * slow:.2f} / {1000 * quick:.2f}")


def _attentions(device: str, texts: int, length: int) -> list[tuple[str, Callable[..., None]]]:
    """Ways to attend within each of so many texts, forward and backward, 12 heads of 64."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    def leaves(*shape: int) -> list[torch.Tensor]:
        return [torch.randn(*shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]

    padded, flat = leaves(texts, 12, length, 64), leaves(texts * length, 12, 64)
    mask = torch.ones(texts, 1, length, length, dtype=torch.bool, device=device)
    ways: list[tuple[str, Callable[..., None]]] = [
        ("attention without mask", lambda: scaled_dot_product_attention(*padded).sum().backward()),
        ("attention with mask", lambda: scaled_dot_product_attention(*padded, attn_mask=mask).sum().backward()),
    ]
    if device == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        ends = torch.arange(0, texts * length + 1, length, device=device, dtype=torch.int32)
        ways.append(("varlen_attn", lambda: varlen_attn(*flat, ends, ends, length, length).sum().backward()))
    return ways


def _size(device: str) -> tuple[int, int]:
    """(texts, tokens of each) of one encoder call."""
    return (512, 128) if device == "cuda" else (2, 8)


def _step_of(device: str, shape: str, rows: int, length: int) -> tuple[Any, Callable[..., None]]:
    """(a base-size encoder, tiny on a CPU; forward and backward of it in bf16)."""
    import torch
    from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

    layers, width = (12, 768) if device == "cuda" else (1, 64)
    with torch.device(device):
        if shape == "bert":
            sizes: dict[str, Any] = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width}
            config = BertConfig(num_attention_heads=width // 64, hidden_dropout_prob=0.0, **sizes)
            config.attention_probs_dropout_prob = 0.0
            model: Any = BertModel(config, add_pooling_layer=False)
        else:
            sizes = {"num_layers": layers, "d_model": width, "num_heads": width // 64, "d_kv": 64, "d_ff": 4 * width}
            model = T5EncoderModel(T5Config(dropout_rate=0.0, **sizes))
        ids = torch.randint(5, 30_000, (rows, length))
        mask = torch.ones_like(ids)
    mask[-1, length // 2 :] = 0

    def step(encoder: Any = model) -> None:
        with torch.autocast(device, dtype=torch.bfloat16):
            vectors = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        (vectors.float() * mask[..., None]).mean(1).square().sum().backward()

    return model, step


def _timed(device: str, work: Callable[[], Any], rounds: int = 5) -> float:
    """Seconds of one call, the mean of some after two that do not count."""
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    work()
    work()
    wait()
    began = time.perf_counter()
    for _ in range(rounds):
        work()
    wait()
    return (time.perf_counter() - began) / rounds
