"""Stages that ask whether a GPU computes the right thing: losses, decisions, resuming and failing, against a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.findings import (
    Found,
    choices,
    compare,
    make_model,
    make_shards,
    only_first,
    read_run,
    steps_of,
    tiny,
    train,
)

KINDS = {"pairs": 0, "triplets": 3, "distill": 3}
"""Objective -> hard negatives of a sample."""
FEW = 4
"""Of the cases, fp32, cached, TF32 and bf16: for what differs from pairs in its loss alone, or its adapters."""
SECONDS = {"cuda": 100, "cpu": 300}
"""Until a run with a failing process must have ended."""


def parity(found: Found, device: str) -> None:
    """Losses and gradient norms of a tiny BERT against the CPU's in fp32, each objective, plain and cached."""
    with tempfile.TemporaryDirectory() as name:
        for objective in KINDS if device == "cuda" else ("pairs", "distill"):
            _parity(found, device, Path(name), objective, [], cases=FEW if objective == "distill" else None)


def models(found: Found, device: str) -> None:
    """The same for other architectures, pairs alone."""
    with tempfile.TemporaryDirectory() as name:
        for kind in ("t5", "modernbert", "qwen3"):
            base = make_model(kind, Path(name) / kind)
            _parity(found, device, Path(name), "pairs", [f"model.path={base}"], kind)
        if find_spec("peft") is None or find_spec("accelerate") is None:
            found("LoRA", "peft or accelerate is not installed: not tried")
            return
        options = [f"model.path={make_model('bert', Path(name) / 'bert')}", "model.lora.rank=8"]
        _parity(found, device, Path(name), "pairs", options, "bert with LoRA", cases=FEW)


def _parity(
    found: Found, device: str, folder: Path, objective: str, more: list[str], name: str = "", cases: int | None = None
) -> None:
    """cases: so many of them."""
    steps, what = steps_of(device), f"{name} {objective}".strip()
    shards = folder / objective
    if not shards.exists():
        make_shards(folder, device, KINDS[objective], scored=objective == "distill")
    options = [*tiny(device), f"objective={objective}", f"num_negatives={KINDS[objective] or 1}", *more]
    cpu = train(folder / f"{what}-cpu", shards, steps, "device=cpu", "precision=fp32", *options)
    tried = [
        ("fp32", []),
        ("fp32", ["micro_batch_tokens=512"]),
        ("tf32", []),
        ("bf16", []),
        ("bf16", ["micro_batch_size=1"]),
        ("bf16", ["model.packing=on"]),
    ]
    if objective == "pairs":  # last: what hangs in a compiler costs only itself
        tried.append(("bf16", ["model.packing=on", "model.compile=true"]))
    for precision, own in only_first(tried[:cases], device) + ([tried[1]] if device == "cpu" else []):
        title = f"{what} {precision} {' '.join(own)}".strip()
        given = [f"device={device}", f"precision={precision}", *options, *own]
        try:
            compare(found, f"{title} against cpu fp32", cpu, train(folder / title, shards, steps, *given), precision)
        except RuntimeError as error:  # the next case is to be tried whatever this one ended with
            found(title, str(error)[:300], bad=True)
    if device == "cuda" and cases is None:
        own = [f"device={device}", "precision=fp32", "model.dropout=0.1", "micro_batch_size=16"]
        once, again = (train(folder / f"{what}-dropout-{n}", shards, steps, *options, *own) for n in range(2))
        compare(found, f"{what} dropout, drawn twice", once, again, "fp32")


def strategies(found: Found, device: str) -> None:
    """Every strategy in every precision, cached, against the CPU's single process in fp32."""
    precisions = [name for name in ("fp32", "tf32", "bf16") if name in choices("precision")]
    with tempfile.TemporaryDirectory() as name:
        folder, steps = Path(name), steps_of(device)
        shards = make_shards(folder, device)
        cpu = train(folder / "cpu", shards, steps, *tiny(device), "device=cpu", "precision=fp32")
        wanted = [name for name in choices("strategy") if name != "auto"]
        for strategy in wanted if device == "cuda" else ["single", "ddp"]:
            if strategy.startswith("deepspeed") and find_spec("deepspeed") is None:
                found(strategy, "deepspeed is not installed: not tried")
                continue
            for precision in only_first(precisions, device):
                options = [*tiny(device), f"device={device}", f"strategy={strategy}", f"precision={precision}"]
                try:
                    run = train(folder / f"{strategy}-{precision}", shards, steps, *options, "micro_batch_tokens=2048")
                    compare(found, f"{strategy} {precision}", cpu, run, precision)
                except BaseException as error:  # the next strategy is to be tried whatever this one raised
                    found(f"{strategy} {precision}", f"{type(error).__name__}: {error}"[:300], bad=True)


def collectives(found: Found, device: str) -> None:
    """The collectives of training over one process: NCCL's reduce-scatter runs nowhere else."""
    import torch
    import torch.distributed as dist

    from jemb.distributed import gather

    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        x = torch.randn(8, 4, device=device, requires_grad=True)
        (gather._GatherRows.apply(x) ** 2).sum().backward()
        found(f"{backend}: gather and reduce-scatter", "2 x", not torch.allclose(x.grad, 2 * x))
        out = torch.zeros_like(x)
        gather._all_gather(out, x.detach())
        found(f"{backend}: gather", "x", not torch.equal(out, x))
        told: list[object] = [None]
        dist.all_gather_object(told, {"a": 1})
        mine: list[object] = [None]
        dist.scatter_object_list(mine, [{"b": 2}])
        found(f"{backend}: objects", f"{told} {mine}", told != [{"a": 1}] or mine != [{"b": 2}])
    finally:
        dist.destroy_process_group()


def resume(found: Found, device: str) -> None:
    """SIGKILL after a checkpoint, with dropout: the continued run has the losses of the undisturbed one."""
    steps = 2 * steps_of(device)
    own = ["precision=fp32", "checkpoint_every=2", "model.dropout=0.1", f"max_steps={steps}"]
    options = [*tiny(device), f"device={device}", *own]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = make_shards(folder, device)
        whole = train(folder / "whole", shards, steps, *options)
        output = folder / "killed"
        command = [sys.executable, "-m", "benchmarks.gpu.failing", "kill", "0", str(steps // 2 + 1)]
        subprocess.run([*command, f"shards={shards}", f"output={output}", *options], check=False)
        steps_done = sorted(path.name for path in output.glob("checkpoints/step-*"))
        found("killed after", steps_done[-1:], not steps_done or (output / "model").exists())
        compare(found, "resumed after SIGKILL, dropout 0.1", whole, train(output, shards, steps, *options), "fp32")


def failures(found: Found, device: str) -> None:
    """A process that raises, dies or hangs in the third step, on as many GPUs as there are (CPU: two processes): the
    run must end by itself, say so, and record that it failed."""
    import torch

    world = torch.cuda.device_count() if device == "cuda" else 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = make_shards(folder, device)
        for how in ("raise", "kill", "stop"):
            if how == "stop" and world == 1:
                found("stop", "a process that hangs needs a second GPU to notice it: not tried")
                continue
            if device == "cpu" and how != "raise":
                continue
            output, began = folder / how, time.monotonic()
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
            command += ["-m", "benchmarks.gpu.failing", how, str(world - 1), "3", f"shards={shards}"]
            options = [f"output={output}", f"device={device}", "max_steps=1000", "timeout_minutes=0.3"]
            process = subprocess.Popen(
                [*command, *tiny(device), *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                text = process.communicate(timeout=SECONDS[device])[0].decode(errors="replace")
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                found(f"{how}, {world} processes", f"did not end within {SECONDS[device]} s", bad=True)
                continue
            lines = [line for line in text.splitlines() if line.startswith("jemb train: ")] or text.splitlines()[-1:]
            said = lines[0][:200] if lines else "nothing"
            seconds = time.monotonic() - began
            found(f"{how}, {world} processes", f"{seconds:.0f} s, said: {said}", process.returncode == 0)
            if steps := len(read_run(output)[0]) if (output / "metrics.jsonl").exists() else 0:
                found(f"{how}, steps logged", steps, steps > 3)


def decisions(found: Found, device: str) -> None:
    """What the consistency filter and mining decide with scores of the GPU against those of the CPU, and how far the
    vectors of an encoder are apart."""
    import numpy as np

    from jemb.model import encode, find_folder, load_encoder
    from jemb.prepare.vectors.scoring import ScoringBackend, count_better, exact_scores, top_candidates

    draw = np.random.default_rng(0)
    queries = draw.standard_normal((3000 if device == "cuda" else 300, 384)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    passages = queries + 0.05 * draw.standard_normal(queries.shape).astype(np.float32)
    passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    cpu, other = ScoringBackend("float32", threads=4), ScoringBackend("bfloat16", device, compiled=False)
    limits, own = exact_scores(queries, passages) - 0.55, np.arange(len(queries))
    counts = [count_better(queries, limits, own, passages, most=50, backend=backend) for backend in (cpu, other)]
    found("consistency: decisions that differ", int((counts[0] != counts[1]).sum()), (counts[0] != counts[1]).any())
    best = [top_candidates(queries, passages, 30, backend=backend)[1] for backend in (cpu, other)]
    found("mining: the 30 nearest that differ", int((best[0] != best[1]).sum()), (best[0] != best[1]).any())
    folder = Path(os.environ.get("MINILM") or find_folder("all-MiniLM-L6-v2"))
    if not (folder / "model.safetensors").is_file():
        found("vectors", "the weights of all-MiniLM-L6-v2 are not here: not compared")
        return
    texts = [f"{a} {b}" for a in dir(np) for b in ("of", "and", "is")][: 2000 if device == "cuda" else 64]
    encoder = load_encoder(str(folder))
    on_cpu = encode(encoder, texts, device="cpu")
    for exact in (True, False):
        off = np.abs(encode(encoder, texts, device=device, exact=exact) - on_cpu).max()
        found(f"vectors off the CPU's, exact={exact}", f"{off:.1e}", exact and off > 1e-4)
