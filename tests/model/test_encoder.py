"""The vectors are what the definition says, whatever the batch, and gradients flow through them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jemb.core.records import Tokens
from jemb.model import Encoder, encode
from tests.helpers.model_helpers import set_pooling


def weighted(hidden: np.ndarray) -> np.ndarray:
    weights = np.arange(1, len(hidden) + 1)[:, None]
    return np.asarray((hidden * weights).sum(0) / weights.sum())


POOL = {
    "mean": lambda hidden: sum(hidden) / len(hidden),
    "cls": lambda hidden: hidden[0],
    "max": lambda hidden: hidden.max(0),
    "lasttoken": lambda hidden: hidden[-1],
    "weightedmean": weighted,
    "mean_sqrt_len_tokens": lambda hidden: sum(hidden) / np.sqrt(len(hidden)),
}


def one_by_one(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """The definition, slowly: each text alone, without padding, summed in float64."""
    rows = []
    for text in texts:
        ids = encoder.tokenizer(text, truncation=True, max_length=encoder.max_length)["input_ids"]
        with torch.no_grad():
            hidden = encoder.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0].double().numpy()
        vector = POOL[encoder.pooling](hidden)
        rows.append(vector / np.sqrt((vector**2).sum()))
    return np.stack(rows)


@pytest.mark.parametrize("pooling", list(POOL))
def test_vectors_are_the_definition(encoder: Encoder, texts: list[str], pooling: str) -> None:
    set_pooling(encoder, pooling)
    vectors = encode(encoder, texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(texts), encoder.dim)
    np.testing.assert_allclose(vectors, one_by_one(encoder, texts), atol=1e-6)


def test_padding_changes_nothing(encoder: Encoder, texts: list[str]) -> None:
    together = encoder(encoder.tokenize(texts))
    for row, text in enumerate(texts):
        alone = encoder(encoder.tokenize([text]))[0]
        assert (together[row] - alone).abs().max() <= 1e-6
    tokens = encoder.tokenize(texts)
    other = torch.where(tokens.attention_mask == 1, tokens.input_ids, torch.full_like(tokens.input_ids, 7))
    assert (encoder(Tokens(other, tokens.lengths)) - together).abs().max() <= 1e-6


def test_a_text_without_any_token_is_finite_and_disturbs_nobody(encoder: Encoder) -> None:
    tokens = encoder.tokenize(["a man", "a man"])
    vectors = encoder(Tokens(tokens.input_ids, tokens.lengths * [1, 0]))
    assert vectors[1].tolist() == [0.0] * encoder.dim
    assert (vectors[0] - encoder(tokens)[0]).abs().max() <= 1e-6
    vectors.sum().backward()
    grads = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert grads
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_bf16_autocast_gives_fp32_unit_vectors(encoder: Encoder, texts: list[str]) -> None:
    tokens = encoder.tokenize(texts)
    exact = encoder(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = encoder(tokens)
    assert vectors.dtype == torch.float32
    assert (vectors.norm(dim=1) - 1).abs().max() <= 1e-6
    assert (vectors * exact).sum(1).min() > 0.99
    assert not torch.equal(vectors, exact)  # the backbone did run in bf16


def test_gradient_is_that_of_finite_differences(encoder: Encoder, texts: list[str]) -> None:
    encoder = encoder.double()
    tokens = encoder.tokenize(texts)
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(len(texts), encoder.dim, generator=generator, dtype=torch.float64)
    trained = [p for p in encoder.parameters() if p.requires_grad]

    def loss() -> torch.Tensor:
        vectors = encoder(tokens)
        assert vectors.dtype == torch.float64
        return (vectors * target).sum()

    loss().backward()
    assert all(p.grad is not None for p in trained)  # else DistributedDataParallel stops
    # Random parts of the gradient as directions: steep enough to drown the fp32 inside T5's norm.
    step = 1e-3
    for _ in range(3):
        direction = [p.grad * torch.rand(p.shape, generator=generator) for p in trained]
        length = torch.sqrt(sum((d**2).sum() for d in direction))
        direction = [d / length for d in direction]
        slope = sum(float((p.grad * d).sum()) for p, d in zip(trained, direction, strict=True))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, d in zip(trained, direction, strict=True):
                    p.add_(d, alpha=sign * step)
                values.append(float(loss()))
                for p, d in zip(trained, direction, strict=True):
                    p.sub_(d, alpha=sign * step)
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=2e-3)


def test_encode_keeps_order_and_mode(tiny: Encoder, texts: list[str]) -> None:
    tiny.train()
    expected = {text: encode(tiny, [text])[0] for text in texts}
    vectors = encode(tiny, texts * 3, batch_size=4)
    assert tiny.training
    for text, vector in zip(texts * 3, vectors, strict=True):
        np.testing.assert_allclose(vector, expected[text], atol=1e-6)
    assert encode(tiny, []).shape == (0, tiny.dim)
    assert encode(tiny, []).dtype == np.float32


def test_encode_restores_the_mode_after_a_failure(tiny: Encoder) -> None:
    tiny.train()
    with pytest.raises(TypeError):
        encode(tiny, [None])  # type: ignore[list-item]
    assert tiny.training
