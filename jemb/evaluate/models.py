"""The models to score, by name: what `jemb.model` loads, as encode functions, and `bm25`.

Before: the command's `model`. After: `run.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jemb.config import EvaluateConfig
from jemb.config.types import Quantization
from jemb.core.errors import Failure, InputError
from jemb.evaluate.measure import Measured, Score, Task
from jemb.evaluate.vectors import Encode, Prompts, Remember

if TYPE_CHECKING:
    import torch

    from jemb.model import Encoder

log = logging.getLogger(__name__)

BM25 = "bm25"


@dataclass(frozen=True)
class TextEncoder:
    """An encoder as the tasks want it: texts -> unit vectors, in fp32 whatever it trains in; and the prompts it wants.

    name: shown beside the progress; None: no progress is shown. The others: as of `jemb.model.encode`.
    """

    encoder: Encoder
    batch_size: int | None = None
    device: str | torch.device | None = None
    name: str | None = None
    agree: Callable[[int], int] | None = None

    @property
    def prompts(self) -> Prompts:
        return Prompts(self.encoder.prompts, self.encoder.default_prompt)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        from jemb.model import encode

        # Exact: published scores are of fp32.
        return encode(
            self.encoder,
            texts,
            batch_size=self.batch_size,
            device=self.device,
            exact=True,
            progress=self.name,
            agree=self.agree,
        )


def load_text_encoder(name: str, config: EvaluateConfig) -> TextEncoder:
    """The encoder `name`, on the device of `config`. `InputError` where there is no such model or device."""
    from jemb.distributed import rank
    from jemb.distributed.processes import choose_device
    from jemb.model import load_encoder, probe

    device = choose_device(config.device)
    encoder = load_encoder(name, max_length=config.max_length, trust_remote_code=config.trust_remote_code)
    if rank() == 0:
        probe(encoder, name)
    return TextEncoder(encoder, config.batch_size, device, Path(name).name)


def check_models(names: Sequence[str], tasks: Iterable[Task]) -> None:
    """`InputError` for a name without a model, and for BM25 alone with a task it cannot do, before any is loaded."""
    undone = next((task for task in tasks if list(names) == [BM25] and not task.ranks), None)
    if undone:
        raise InputError(f"model=bm25 ranks texts only, so it cannot do '{undone.name}'; leave that task out")
    for name in names:
        if name != BM25:
            from jemb.model.find import find_folder

            find_folder(name)


def measure(task: Task, encode: Encode, widths: Sequence[int], quantization: Sequence[Quantization] = ()) -> Measured:
    """`task.measure`, with each metric once more for each of the `widths`, as `METRIC@WIDTH`, and all of these for each
    `quantization`, as `METRIC@int8` and `METRIC@WIDTH@int8`.

    A width is what is left of the vectors when only their first `width` numbers are kept, as unit vectors (Matryoshka,
    arXiv 2205.13147). Each text is encoded once.
    """
    if quantization and not task.quantizes:
        log.info("%s: mteb scores vectors of full precision alone, so it has no columns of %s", task.name, quantization)
        quantization = ()
    if not (widths or quantization):
        return task.measure(encode)
    remember = Remember(encode)
    scores: dict[str, Score] = {}
    record = None
    for remember.width, remember.quantization in product([None, *widths], [None, *quantization]):
        variant = "".join(f"@{part}" for part in (remember.width, remember.quantization) if part)
        try:
            measured = task.measure(remember)
        except Failure as error:
            raise Failure(f"{error}, as {variant.lstrip('@')}" if variant else str(error)) from None
        scores |= {f"{metric}{variant}": score for metric, score in measured.scores.items()}
        record = record or measured.record
    return Measured(scores, record)
