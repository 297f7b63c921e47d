"""Small models made on the spot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

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


@pytest.fixture
def texts() -> list[str]:
    return list(TEXTS)


@pytest.fixture
def small() -> ModelConfig:
    return SMALL


@pytest.fixture
def tiny() -> Encoder:
    return make_tiny(TEXTS, SMALL, seed=0, max_length=24)


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full T5 (encoder, decoder, head) with a Unigram tokenizer, as the Hub has them."""
    folder = tmp_path_factory.mktemp("t5")
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    unigram.train_from_iterator(TEXTS * 20, trainer)
    unigram.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=unigram, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["bert", "t5"])
def encoder(request: pytest.FixtureRequest, t5_folder: Path) -> Encoder:
    """A BERT and a T5, in evaluation mode."""
    made = (
        make_tiny(TEXTS, SMALL, seed=0, max_length=24)
        if request.param == "bert"
        else load_encoder(str(t5_folder), max_length=24)
    )
    return made.eval()
