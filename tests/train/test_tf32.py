"""precision=tf32: the encoder's products are rounded in both directions, those of the loss in neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import jemb
from jemb.app.compose import compose_config
from jemb.config import TrainConfig
from jemb.config.train import LossWeights
from jemb.core.errors import InputError
from jemb.data import Collate
from jemb.loss.products import products_in
from jemb.model import load_encoder
from jemb.run_folder import RunFolder
from jemb.shards import open_datasets
from jemb.train import build
from tests.helpers.training_runs import losses

ROWS = 23
"""Another number than any of the encoder."""
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu")


class Products(TorchDispatchMode):
    """Of each product whether a factor has as many rows or columns as there are samples, and the precision then set."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in PRODUCTS:
            shapes = [value.shape for value in args if isinstance(value, torch.Tensor)]
            of_the_loss = any(ROWS in shape for shape in shapes)
            self.seen.append((of_the_loss, torch.get_float32_matmul_precision()))
        return out


@pytest.fixture
def high() -> Iterator[None]:
    with products_in("high"):
        yield


@pytest.mark.parametrize("micro_batch_size", [None, 5], ids=["plain", "cached"])
def test_precision_of_each_product_of_a_step(
    micro_batch_size: int | None, high: None, pair_run: RunFolder, pair_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder(str(pair_run.start))
    module: Any = jemb.EmbeddingModule(
        encoder, loss_weights={**vars(LossWeights()), "spread_out": 0.1}, micro_batch_size=micro_batch_size
    )
    module._trainer = SimpleNamespace(strategy=None, optimizers=[SimpleNamespace(param_groups=[{"lr": 1.0}])])
    monkeypatch.setattr(module, "log_dict", lambda values: None)
    reader = open_datasets(pair_shards)["answers"]
    batch = Collate(encoder.tokenize, 0, seed=0)(0, "answers", [reader.read(n) for n in range(ROWS)], ())
    for _ in range(2):
        with Products() as forward:
            loss = module.training_step(batch, 0)
        with Products() as backward:
            loss.backward()
        for products in (forward.seen, backward.seen):
            assert {precision for of_the_loss, precision in products if of_the_loss} == {"highest"}
            assert {precision for of_the_loss, precision in products if not of_the_loss} == {"high"}
        assert torch.get_float32_matmul_precision() == "high"


def test_a_run_computes_its_encoder_in_tf32_and_leaves_the_setting_as_it_was(
    tmp_path: Path, pair_options: list[str], pair_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU that takes itself for such a GPU, and computes in fp32 whatever is set."""
    seen = []
    step = jemb.EmbeddingModule.training_step
    monkeypatch.setattr(build, "_has_tf32", lambda device: True)
    monkeypatch.setattr(
        jemb.EmbeddingModule,
        "training_step",
        lambda *arguments: (seen.append(torch.get_float32_matmul_precision()), step(*arguments))[1],
    )
    with products_in("medium"):
        run = jemb.train(
            compose_config("train", TrainConfig, [*pair_options, f"output={tmp_path / 'run'}", "precision=tf32"])
        )
        assert torch.get_float32_matmul_precision() == "medium"
    assert set(seen) == {"high"}
    assert losses(run) == losses(pair_run)


def test_other_devices_refuse_it() -> None:
    with pytest.raises(InputError, match="precision=tf32: only GPUs of NVIDIA"):
        build.choose_precision("tf32", torch.device("cpu"))
