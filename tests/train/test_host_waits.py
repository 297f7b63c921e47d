"""How often a training step makes the host wait for the device, at each of which a GPU runs dry."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import jemb
from jemb.core.records import Sample, Tokens
from jemb.data import Collate
from jemb.data.wanted import Wanted
from jemb.model import load_encoder
from jemb.run_folder import RunFolder
from jemb.shards import open_datasets

ROWS, GROUP = 16, 4


class WithoutValues(TorchDispatchMode):
    """Makes the meta device a GPU that computes nothing: its tensors have no values, so whatever takes one to the host
    is seen here. It is counted and gets zeros; an operation whose size depends on values is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        read = name == "_local_scalar_dense" or str((kwargs or {}).get("device")) == "cpu"
        if read and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            self.waits[name] += 1
            args = (torch.zeros(args[0].shape, dtype=args[0].dtype), *args[1:])
        return func(*args, **(kwargs or {}))


def _on_cpu(function: Any, device: str, *more: Any, **named: Any) -> Any:
    return function("cpu", *more, **named)


@pytest.mark.parametrize("micro_batch_size", [None, GROUP], ids=["plain", "cached"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("objective", ["pairs", "triplets"])
def test_waits_of_a_step(
    objective: str,
    packed: bool,
    micro_batch_size: int | None,
    pair_run: RunFolder,
    triplet_shards: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two, one after the other, when all of the step is under way: for the facts that are logged, and for the norm of
    the gradient. In between none but those of transformers, which asks in each call whether any text has padding."""
    for name in ("is_autocast_enabled", "get_autocast_dtype", "autocast"):  # which do not know the meta device
        monkeypatch.setattr(torch, name, partial(_on_cpu, getattr(torch, name)))
    encoder = load_encoder(str(pair_run.start))
    encoder.packed = packed
    module: Any = jemb.EmbeddingModule(encoder, objective=objective, micro_batch_size=micro_batch_size)
    module._trainer = SimpleNamespace(strategy=None, optimizers=[SimpleNamespace(param_groups=[{"lr": 1.0}])])
    monkeypatch.setattr(module, "log_dict", lambda values: None)
    negatives = int(objective == "triplets")
    (reader,) = open_datasets(triplet_shards).values()
    samples = [reader.read(row) for row in [*range(ROWS - 1), 0]]  # two are the same, so that something is hidden
    batch = Collate(encoder.tokenize, negatives, seed=0)(0, "nli", samples, ())
    module.to("meta")

    with WithoutValues() as device:
        loss = module.training_step(batch.to(module.device), 0)
        forward = device.waits.total()
        loss.backward()
        both = device.waits.total()
        module.on_after_backward()
        module.configure_gradient_clipping(None, 1.0)

    calls = 0 if packed else (2 + negatives) * ROWS // GROUP if micro_batch_size else 1
    assert forward == calls
    assert both == (2 * calls if micro_batch_size else calls), "cached, each call is made again in backward"
    assert device.waits == Counter(_local_scalar_dense=both + 1, _to_copy=1)


def test_copies_to_a_gpu_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a batch the ids, 4 bytes each, and what an objective learns from, out of pinned memory; hashes stay."""
    copied: list[torch.Tensor] = []
    pinned: list[torch.Tensor] = []

    def to(tensor: torch.Tensor, device: torch.device, non_blocking: bool) -> torch.Tensor:
        assert non_blocking
        copied.append(tensor)
        return tensor

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    samples = [Sample(str(n), "a query", "an answer", score=n / 4) for n in range(4)]
    tokens = Tokens.padded(np.arange(6), np.array([1, 2, 0, 3]), 0)
    collate = Collate(lambda texts: tokens, 0, seed=0, wanted={"set": Wanted(num_negatives=0, fields=("score",))})
    batch = collate(0, "set", samples, ())
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    moved = batch.to(torch.device("cuda"))
    assert [tensor.dtype for tensor in copied] == [torch.int32, torch.int32, torch.float64]
    assert copied == pinned == [moved.query.input_ids, moved.positive.input_ids, moved.score]
    assert moved.query_hash is batch.query_hash
    assert moved.query.lengths is tokens.lengths
