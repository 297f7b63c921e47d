"""The options of the loss: from the command line to the numbers a training step measures."""

from __future__ import annotations

from typing import Any

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from jemb.app.compose import compose_config
from jemb.config import ModelConfig, TrainConfig
from jemb.core.errors import InputError
from jemb.core.records import Sample
from jemb.data import Collate
from jemb.model import make_tiny
from jemb.train.build import make_module
from jemb.train.module import EmbeddingModule

SAMPLES = [
    Sample(key=f"{i}", query=f"{word} asked", positive=f"{word} found", negatives=(f"{word} lost", f"no {word}"))
    for i, word in enumerate(["amber", "birch", "cedar", "delta", "ember", "ember"])
]


def config(*overrides: str) -> TrainConfig:
    return compose_config("train", TrainConfig, ["shards=s", "output=o", *overrides])


def test_the_defaults_are_the_papers() -> None:
    found = config()
    assert vars(found.loss_weights) == {
        "query_to_positive": 1.0,
        "positive_to_query": 1.0,
        "joint": 0.0,
        "margin": 1.0,
        "positive_margin": 0.0,
        "spread_out": 0.0,
    }
    assert (found.temperature, found.margin) == (0.05, 0.05)
    assert (found.extra_negatives, found.matryoshka_widths, found.mask_margin) == ([], [], None)


def test_options_as_given() -> None:
    found = config(
        "objective=triplets",
        "loss_weights.positive_margin=0.5",
        "loss_weights.margin=0",
        "extra_negatives=[query_query,positive_negative]",
        "matryoshka_widths=[64,128]",
        "mask_margin=0.1",
    )
    assert (found.loss_weights.positive_margin, found.loss_weights.margin) == (0.5, 0.0)
    assert found.extra_negatives == ["query_query", "positive_negative"]
    assert (found.matryoshka_widths, found.mask_margin) == ([64, 128], 0.1)
    assert config("matryoshka_widths=64").matryoshka_widths == [64]
    gte = config("objective=pairs_gte")
    assert gte.objective == "pairs"
    assert (gte.loss_weights.query_to_positive, gte.loss_weights.joint) == (0.0, 1.0)
    assert gte.extra_negatives == ["query_query", "positive_positive"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss_weights.joint=-1"], "loss_weights.joint"),
        (["loss_weights.marginn=1"], "did you mean 'loss_weights.margin'"),
        (["extra_negatives=[negatives]"], "extra_negatives"),
        (["extra_negatives=[positive_negative]"], "positive_negative needs hard negatives; use objective=triplets"),
        (["matryoshka_widths=[0]"], "matryoshka_widths"),
        (["mask_margin=-0.1"], "mask_margin"),
        (
            ["loss_weights.query_to_positive=0", "loss_weights.positive_to_query=0"],
            "objective=pairs: all its loss_weights are 0",
        ),
    ],
)
def test_mistakes_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        config(*overrides)
    assert message in str(error.value)


def step(**options: Any) -> EmbeddingModule:
    """The module after one training step on all samples."""
    train_config = TrainConfig(shards="s", output="o", temperature=0.2, **options)
    texts = [text for sample in SAMPLES for text in (sample.query, sample.positive, *sample.negatives)]
    size = ModelConfig(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2)
    encoder = make_tiny(texts, size, seed=1, max_length=24)
    negatives = train_config.num_negatives if train_config.objective == "triplets" else 0
    batch = Collate(tokenize=encoder.tokenize, num_negatives=negatives, seed=0)(0, "data", SAMPLES, ["keys"])
    module = make_module(train_config, encoder, torch.device("cpu"), max_steps=1)
    quiet: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    lightning.Trainer(accelerator="cpu", max_steps=1, **quiet).fit(module, DataLoader([batch], batch_size=None))
    return module


@pytest.mark.parametrize(
    ("options", "negatives_per_query", "hidden"),
    [
        # Two of the six samples are the same: each hides the other's positive, and both negatives of neither.
        ({}, 5 - 2 / 6, 2),
        ({"extra_negatives": ["query_query"]}, 10 - 4 / 6, 4),
        ({"objective": "triplets", "num_negatives": 2}, 5 + 12 - 2 / 6, 2),
        ({"objective": "triplets", "mask_equal_texts": False}, 5 + 6, 0),
    ],
)
def test_a_step_counts_its_negatives(options: dict[str, Any], negatives_per_query: float, hidden: int) -> None:
    facts = step(**options).facts
    assert facts is not None
    assert facts.negatives_per_query == pytest.approx(negatives_per_query)
    assert facts.hidden_candidates == hidden


def test_a_step_measures_each_term() -> None:
    module = step(objective="triplets", matryoshka_widths=[8])
    names = ["query_to_positive", "positive_to_query", "margin"]
    assert list(module.loss_terms) == [*names, *(f"{name}@8" for name in names)]
    assert module.facts is not None
    assert sum(module.loss_terms.values()) == pytest.approx(module.facts.loss)


def test_a_width_that_the_model_has_not_is_refused() -> None:
    with pytest.raises(InputError, match="matryoshka_widths: got 17; a vector of this model has 16 numbers"):
        step(matryoshka_widths=[8, 17])
