"""What `prepare/` asks for and may not know: models as functions of texts, and the texts of evaluation tasks."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jemb.evaluate.tasks.load import evaluation_texts
from jemb.prepare import Encode, Score, Tools
from jemb.run_folder import RunFolder, is_run

log = logging.getLogger(__name__)

MODEL_FILES = {".json", ".txt", ".model", ".safetensors", ".bin"}
"""Ends of the names of files that a model is read from."""

if TYPE_CHECKING:
    from jemb.model import Encoder


def _digest_folder(name: str) -> str:
    """Digest of the files in a model's folder, of a run in that of its model; "" for a name."""
    path = Path(name).expanduser()
    if not path.is_dir():
        return ""
    if is_run(path) and not (model := RunFolder(path).model).is_dir():
        from jemb.model.find import find_folder

        find_folder(name)  # says what to do
    folder = model if is_run(path) else path
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in MODEL_FILES:
            with file.open("rb") as opened:
                digest.update(f"{file.relative_to(folder)}\0".encode() + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def make_tools() -> Tools:
    """The factories can be sent to other processes, where copies made with equal options are equal: a worker loads a
    model once. Models are on the GPU where there is one."""
    return Tools(make_encoder, make_cross_encoder, evaluation_texts)


def make_encoder(options: Any) -> Callable[[str], Encode]:
    """name or folder -> function from texts to unit vectors. options: of a stage, with `max_length`, `batch_tokens` and
    perhaps `precision` (fp32 where it has none)."""
    return _MakeEncoder(options.max_length, options.batch_tokens, getattr(options, "precision", "fp32"))


def make_cross_encoder(options: Any) -> Callable[[str], Score]:
    """name or folder -> function from (query, passage) pairs to raw scores [N]. options: as for `make_encoder`."""
    return _MakeScore(options.max_length, options.batch_tokens)


@dataclass(frozen=True)
class _MakeScore:
    max_length: int | None
    batch_tokens: int | None
    files = staticmethod(_digest_folder)

    def __call__(self, name: str) -> Score:
        from jemb.distributed.processes import choose_device
        from jemb.model import load_cross_encoder

        model = load_cross_encoder(name, max_length=self.max_length)
        model.to(choose_device("auto"))
        return partial(model.score, batch_tokens=self.batch_tokens)


@dataclass(frozen=True)
class _MakeEncoder:
    max_length: int | None
    batch_tokens: int | None
    precision: str = "fp32"
    files = staticmethod(_digest_folder)

    def __call__(self, name: str) -> Encode:
        from jemb.distributed.processes import choose_device
        from jemb.model import load_encoder, probe

        encoder = load_encoder(name, max_length=self.max_length)
        if parent_process() is None:
            probe(encoder, name)
        device = choose_device("auto")  # a CPU computes as the weights are
        return _TextEncoder(encoder, device, self.batch_tokens, self.precision)

    def prompts(self, name: str) -> tuple[str, str]:
        """What the encoder wants before queries and before passages."""
        from jemb.model.find import read_prompts

        found = read_prompts(name)
        if any(found):
            log.info("%s: %r is put before queries, %r before passages", name, *found)
        return found


@dataclass
class _TextEncoder:
    """Texts to unit vectors, float32 [N, D]; on the CPU always by one thread, so that the same bits come out whatever
    else runs on the machine: there are as many processes as cores."""

    encoder: Encoder
    device: str
    batch_tokens: int | None
    precision: str

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        from jemb.model import encode

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            exact = self.precision == "fp32"
            return encode(self.encoder, texts, batch_tokens=self.batch_tokens, device=self.device, exact=exact)
        finally:
            torch.set_num_threads(threads)

    @cached_property
    def identity(self) -> str:
        """Digest of all that a vector depends on: weights, tokenizer, limits, precision."""
        from jemb.model.encode import fingerprint

        precision = self.precision if self.device == "cuda" else "fp32"  # the CPU computes in no other
        return f"{fingerprint(self.encoder)} {self.device} {precision}"
