"""The encoder made on the spot: the same everywhere for the same texts and seed."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jemb.config import ModelConfig
from jemb.core.errors import InputError
from jemb.model import Encoder, Tokenize, encode, make_tiny
from jemb.model.tiny import EMBEDDING_SCALE, train_wordpiece

MAKE = """
import random, sys
from pathlib import Path
from jemb.config import ModelConfig
from jemb.model.tiny import make_tiny
rng = random.Random(0)
letters = "abcdefghijklmnopqrstuvwxyzäöüéñ0123456789"
words = ["".join(rng.choices(letters, k=rng.randint(1, 9))) for _ in range(1500)]
texts = [" ".join(rng.choices(words, k=8)) for _ in range(400)]
config = ModelConfig(vocab_size=700, hidden_size=8, num_layers=1, num_heads=1)
make_tiny(texts, config, seed=3, max_length=16).save(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_other_processes_make_the_same_bytes(tmp_path: Path) -> None:
    # Left to itself the trainer gives one of several vocabularies, by the process: three to see that it does not.
    running = [subprocess.Popen([sys.executable, "-c", MAKE, str(tmp_path / str(i))]) for i in range(2)]
    exec(MAKE.replace("sys.argv[1]", repr(str(tmp_path / "2"))), {})
    assert [process.wait() for process in running] == [0, 0]
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"):
        digests = {hashlib.sha256((tmp_path / str(i) / name).read_bytes()).hexdigest() for i in range(3)}
        assert len(digests) == 1, name


def test_weights_depend_on_the_seed_alone_and_leave_the_random_state(texts: list[str], small: ModelConfig) -> None:
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = make_tiny(texts, small, seed=5, max_length=16).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12)
    second = make_tiny(texts, small, seed=5, max_length=16).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    third = make_tiny(texts, small, seed=6, max_length=16).state_dict()
    assert not torch.equal(
        first["model.0.model.embeddings.word_embeddings.weight"],
        third["model.0.model.embeddings.word_embeddings.weight"],
    )


def test_config_is_followed(texts: list[str]) -> None:
    config = ModelConfig(vocab_size=310, hidden_size=24, num_layers=3, num_heads=2, dropout=0.25, pooling="cls")
    encoder = make_tiny(texts, config, seed=0, max_length=40)
    assert encoder.dim == 24
    assert encoder.pooling == "cls"
    assert encoder.max_length == encoder.backbone.config.max_position_embeddings == 40
    assert len(encoder.backbone.encoder.layer) == 3
    assert len(encoder.tokenizer) <= 310
    assert encoder.backbone.config.hidden_dropout_prob == 0.25
    assert encoder.own_dropout["hidden_dropout_prob"] == 0.1


def test_smaller_embeddings_give_the_vectors_of_the_usual_start(tiny: Encoder, texts: list[str]) -> None:
    small = encode(tiny, texts)
    with torch.no_grad():
        for table in tiny.backbone.embeddings.modules():
            if isinstance(table, torch.nn.Embedding):
                table.weight.div_(EMBEDDING_SCALE)
    assert tiny.backbone.embeddings.word_embeddings.weight.std().item() == pytest.approx(0.02, rel=0.05)
    np.testing.assert_allclose(encode(tiny, texts), small, atol=1e-5)


def greedy(word: str, vocab: dict[str, int]) -> list[int]:
    """WordPiece as its paper says it: the longest piece first, from the left."""
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = [end for end in range(len(word), start, -1) if prefix + word[start:end] in vocab]
        if not ends:
            return [vocab["[UNK]"]]
        pieces.append(vocab[prefix + word[start : ends[0]]])
        start = ends[0]
    return pieces


def test_tokens_are_those_of_greedy_wordpiece(tiny: Encoder) -> None:
    vocab = tiny.tokenizer.get_vocab()
    for text in ("The QUICK dog plays filming", "guitars opened lovelier", "zebra ∞ quick"):
        expected = [vocab["[CLS]"], *(i for w in text.lower().split() for i in greedy(w, vocab)), vocab["[SEP]"]]
        assert tiny.tokenize([text]).input_ids[0].tolist() == expected
    assert vocab["[UNK]"] in tiny.tokenize(["zebra ∞ quick"]).input_ids
    assert [vocab[name] for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == [0, 1, 2, 3, 4]


def test_rare_characters_leave_room_for_words() -> None:
    many = "".join(chr(0x4E00 + i) for i in range(2000))
    vocab = train_wordpiece(["hello world " * 50, many], 300)
    assert len(vocab) <= 300
    assert "hello" in vocab


def test_texts_without_characters_are_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        train_wordpiece(["", "  \n"], 300)


def test_tokenize_equals_transformers_own_call(encoder: Encoder, texts: list[str]) -> None:
    ours = encoder.tokenize(texts)
    theirs = encoder.tokenizer(texts, padding=True, truncation=True, max_length=24, return_tensors="pt")
    assert (ours.input_ids.dtype, ours.attention_mask.dtype) == (torch.int32, torch.int64)
    assert ours.input_ids.shape[1] == 24  # the last text is longer
    assert torch.equal(ours.input_ids, theirs["input_ids"])
    assert torch.equal(ours.attention_mask, theirs["attention_mask"])
    assert ours.lengths.tolist() == theirs["attention_mask"].sum(1).tolist()


def test_tokenize_travels_and_keeps_its_length(tiny: Encoder, texts: list[str]) -> None:
    short = Tokenize(tiny.tokenizer, 6)
    copy = pickle.loads(pickle.dumps(short))
    before = copy(texts).input_ids
    tiny.tokenizer(texts, truncation=True, max_length=3, padding="max_length")  # changes the other one's settings
    assert torch.equal(copy(texts).input_ids, before)
    assert torch.equal(short(texts).input_ids, before)
    assert before.shape == (len(texts), 6)
    assert short([]).input_ids.shape[0] == 0
