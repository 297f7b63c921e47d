"""Small models made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import zoo
from jemb.config import ModelConfig
from jemb.model import Encoder, load_encoder, make_tiny

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "a man is playing a guitar",
    "how do I open a file in Python?",
    "",
    "What is love?",
    "the film was not bad at all, though nobody would call it good, and the music was loud and long and late",
]
SMALL = ModelConfig(vocab_size=300, hidden_size=32, num_layers=2, num_heads=4, dropout=None)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The plain folder of an architecture, made once. Not to be written to."""
    root = tmp_path_factory.mktemp("plain")

    def make(architecture: str) -> Path:
        folder = root / architecture
        return folder if folder.is_dir() else zoo.plain(folder, architecture)

    return make


@pytest.fixture
def texts() -> list[str]:
    return list(TEXTS)


@pytest.fixture
def small() -> ModelConfig:
    return SMALL


@pytest.fixture
def tiny() -> Encoder:
    return make_tiny(TEXTS, SMALL, seed=0, max_length=24)


@pytest.fixture(params=["bert", "t5"])
def encoder(request: pytest.FixtureRequest, t5_folder: Path) -> Encoder:
    """A BERT and a T5, in evaluation mode."""
    made = (
        make_tiny(TEXTS, SMALL, seed=0, max_length=24)
        if request.param == "bert"
        else load_encoder(str(t5_folder), max_length=24)
    )
    return made.eval()
