"""Encoding all texts of a step together: the same vectors as one by one, and dropout that recomputation repeats."""

from __future__ import annotations

import torch

from jemb.config import ModelConfig
from jemb.model import Encoder, encode_together, make_tiny

TEXTS = [["a", "a longer text of several words", "two words"] * 12, ["the other side", "x " * 30] * 10]


def tiny(dropout: float) -> Encoder:
    config = ModelConfig(hidden_size=32, num_layers=1, vocab_size=300, dropout=dropout)
    return make_tiny([text for part in TEXTS for text in part], config, seed=0, max_length=40)


def gradients(encoder: Encoder, micro_batch_size: int | None) -> list[torch.Tensor]:
    encoder.zero_grad()
    torch.manual_seed(1)
    vectors, _ = encode_together(encoder, [encoder.tokenize(part) for part in TEXTS], micro_batch_size)
    weights = torch.linspace(-1, 1, encoder.dim)
    sum(((part * weights).sum(1) ** 2).sum() for part in vectors).backward()
    return [p.grad.clone() for p in encoder.parameters() if p.grad is not None]


def test_the_order_of_the_texts_is_kept() -> None:
    encoder = tiny(0.0).eval()
    with torch.no_grad():
        parts, slots = encode_together(encoder, [encoder.tokenize(part) for part in TEXTS], None)
        for texts, vectors in zip(TEXTS, parts, strict=True):
            alone = torch.cat([encoder(encoder.tokenize([text])) for text in texts])
            torch.testing.assert_close(vectors, alone, atol=1e-6, rtol=0)
        _, fewer = encode_together(encoder, [encoder.tokenize(part) for part in TEXTS], 4)
    tokens = sum(int(tokens.attention_mask.sum()) for tokens in map(encoder.tokenize, TEXTS))
    assert tokens <= fewer < slots


def test_recomputing_repeats_the_dropout() -> None:
    """Groups of 32 are also what a CPU uses without recomputation, so the masks must be the same, and they matter."""
    encoder = tiny(0.3).train()
    plain, cached = gradients(encoder, None), gradients(encoder, 32)
    for one, other in zip(plain, cached, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    encoder.eval()
    assert any(not torch.allclose(one, other) for one, other in zip(plain, gradients(encoder, None), strict=True))
