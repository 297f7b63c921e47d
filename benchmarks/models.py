"""Small random models of many kinds through all that jemb does with a model; the table of docs/models.md.

    python -m benchmarks.models > models.md                     # all rows, about ten minutes
    python -m benchmarks.models "BERT, mean" "static embeddings"

A cell says `yes`, a number, or what the refusal said. Differences are the largest of any number of any unit vector of
eight texts: before training against sentence-transformers' own loading of the folder, after it against what that makes
of the export.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import zoo

TEXTS = [
    "a",
    "the film was not bad at all",
    "how do I open a file?",
    "Köln and 図書館",
    *(" ".join(zoo.TEXTS[:n]) for n in range(1, 5)),
]
OPTIONS = ["global_batch_size=8", "workers=0", "trackers=[]", "max_steps=3", "warmup_steps=1", "checkpoint_every=1"]
COLUMNS = [
    "model", "before", "3 steps", "2 processes", "LoRA", "resumed", "export", "after", "ONNX"
]  # fmt: skip


def kinds() -> dict[str, Callable[[Path], Path]]:
    """Name of a row -> what makes its folder."""
    decoders = [name for name, (_, make, _) in zoo.ARCHITECTURES.items() if make is zoo.bpe]
    made: dict[str, Callable[[Path], Path]] = {}
    for name in zoo.ARCHITECTURES:
        if name in decoders:
            made[f"{name}, last token"] = _headed(name, "last token")
        else:
            made[f"{name}, mean"] = lambda folder, name=name: zoo.plain(folder / "m", name)  # type: ignore[misc]
    made |= {f"BERT, {head}": _headed("BERT", head) for head in zoo.HEADS if head != "mean"}
    made["T5 encoder, mean, 2 Dense"] = _headed("T5 encoder", "mean, 2 Dense")
    made["Gemma3, mean, 2 Dense"] = _headed("Gemma3", "mean, 2 Dense")
    made["static embeddings"] = lambda folder: zoo.static(folder / "m")
    return made


def _headed(architecture: str, head: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        return zoo.with_head(folder / "m", zoo.plain(folder / "b", architecture), head, prompts={"query": "find: "})

    return make


def measure(make: Callable[[Path], Path], folder: Path, shards: Path) -> list[str]:
    """The cells of one row."""
    from sentence_transformers import SentenceTransformer

    from jemb.core.errors import InputError
    from jemb.model import encode, load_encoder, probe
    from jemb.run_folder import RunFolder

    model = make(folder)
    try:
        encoder = load_encoder(str(model))
        probe(encoder, model.name)
    except InputError as error:
        return [f"refused: {str(error).partition(': ')[2][:90]}", *["–"] * 7]

    def theirs(path: Path) -> np.ndarray:
        vectors = np.asarray(SentenceTransformer(str(path), device="cpu").encode(TEXTS, prompt=""))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def losses(name: str) -> list[float]:
        return [line["loss"] for line in RunFolder(folder / name).read_metrics()]

    def run(name: str, *more: str, processes: int = 1, kill: bool = False) -> bool:
        given = [*OPTIONS, f"shards={shards}", f"model.path={model}", f"output={folder / name}", *more]
        return _processes("train", given, processes, kill)

    cells = [f"{np.abs(encode(encoder, TEXTS) - theirs(model)).max():.0e}"]
    cells.append("yes" if run("one") else "no")
    cells.append("yes" if run("two", processes=2) and np.allclose(losses("two"), losses("one"), rtol=1e-4) else "no")
    cells.append("–" if encoder.static else "yes" if run("lora", "model.lora.rank=4") else "no")
    run("killed", kill=True)
    interrupted = len(RunFolder(folder / "killed").read_metrics())
    cells.append("yes" if run("killed") and interrupted < 3 and losses("killed") == losses("one") else "no")
    exported = _processes("export", [f"run={folder / 'one'}", f"output={folder / 'out'}"])
    cells.append("yes" if exported else "no")
    trained = encode(load_encoder(str(folder / "one" / "model")), TEXTS)
    cells.append(f"{np.abs(trained - theirs(folder / 'out')).max():.0e}" if exported else "–")
    onnx = _processes("export", [f"run={folder / 'one'}", f"output={folder / 'onnx'}", "onnx=true"])
    cells.append("yes" if onnx else "refused")
    return cells


def _processes(command: str, arguments: Sequence[str], number: int = 1, kill: bool = False) -> bool:
    """Whether a command ends well in so many forked processes; kill: by SIGKILL in its second step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(number):
        pid = os.fork()
        if not pid:
            facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
            if number > 1:
                os.environ.update({name: str(value) for name, value in facts.items()})
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            _child(command, arguments, kill)
        children.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in children]  # of all, also after one that failed
    return not any(statuses)


def _child(command: str, arguments: Sequence[str], kill: bool) -> None:
    code = 1
    try:
        from jemb.app.cli import run_command
        from jemb.train.module import EmbeddingModule

        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        step = EmbeddingModule.training_step

        def killed(self: Any, batch: Any, number: int) -> Any:
            if batch.step == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, batch, number)

        if kill:
            EmbeddingModule.training_step = killed  # type: ignore[method-assign]
        code = run_command(command, list(arguments))
    finally:
        os._exit(code)


def write_shards(folder: Path) -> Path:
    from jemb.core.records import Sample
    from jemb.shards import write_dataset

    words = " ".join(zoo.TEXTS).split()
    queries = [" ".join(words[(n * k) % len(words)] for k in range(1, 5)) for n in range(64)]
    samples = (Sample(str(n), query, f"{query} {words[n % len(words)]} {n}") for n, query in enumerate(queries))
    write_dataset(folder / "pairs", "pairs", samples, 32)
    return folder


def table(chosen: Sequence[str] = ()) -> str:
    """In Markdown; chosen: names of rows, none: all."""
    logging.getLogger("jemb").setLevel(logging.ERROR)
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
    with tempfile.TemporaryDirectory() as root:
        shards = write_shards(Path(root) / "shards")
        for number, (name, make) in enumerate(kinds().items()):
            if not chosen or name in chosen:
                folder = Path(root) / str(number)
                folder.mkdir()
                lines.append("| " + " | ".join([name, *measure(make, folder, shards)]) + " |")
                print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(sys.argv[1:]))
