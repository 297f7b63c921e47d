"""Packed texts have the vectors and gradients of padded ones, and what cannot be packed is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import flex_attention

from benchmarks import zoo
from jemb.core.errors import InputError
from jemb.model import Encoder, add_lora, encode, encode_together, load_encoder, probe
from jemb.model.packed import packing
from tests.helpers.model_helpers import set_pooling

TEXTS = ["a", "how do I open a file?", "the film was not bad at all " * 20, "Köln and 図書館", "", "x y"]
MORE = ["one two three", "four"]
ARCHITECTURES = ["BERT", "RoBERTa", "ModernBERT", "Qwen3", "T5 encoder"]
POOLINGS = ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ["mean", "cls"]]


def result(encoder: Encoder, packed: bool, **way: Any) -> tuple[Tensor, dict[str, Tensor], int]:
    """(vectors, gradients, token slots computed) of all texts."""
    encoder.zero_grad()
    encoder.packed = packed
    vectors, slots = encode_together(encoder, [encoder.tokenize(TEXTS), encoder.tokenize(MORE)], **way)
    weights = torch.linspace(-1, 1, encoder.dim, dtype=vectors[0].dtype)
    ((torch.cat(vectors) * weights).sum(1) ** 2).sum().backward()
    gradients = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    return torch.cat(vectors).detach(), gradients, slots


def assert_same(encoder: Encoder, atol: float, **way: Any) -> None:
    """Any number of a vector; the whole gradient relative to its norm, which of T5 in fp32 is itself 8e-6 off that in
    fp64, with padding and without (docs/log.md)."""
    (padded, expected, _), (packed, found, _) = (result(encoder, packed, **way) for packed in (False, True))
    torch.testing.assert_close(packed, padded, atol=atol, rtol=0)
    assert found.keys() == expected.keys()
    one, other = (torch.cat([gradient.flatten() for gradient in g.values()]) for g in (found, expected))
    assert (one - other).norm() <= 10 * atol * other.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_and_gradients_are_those_with_padding(architecture: str, plain: Callable[[str], Path]) -> None:
    """In one group, which has more tokens than the models have positions (128), and a text wider than the window of
    ModernBERT (16); in groups that are computed again; and in fp64, where a fault would not pass for rounding."""
    encoder = load_encoder(str(plain(architecture)))
    probe(encoder, architecture)
    assert_same(encoder, 1e-6)
    assert_same(encoder, 1e-6, micro_batch_tokens=100)
    assert_same(encoder.double(), 1e-13, micro_batch_size=3)


@pytest.mark.parametrize("architecture", ["Qwen3", "Mistral", "Gemma3"])
def test_windows_and_both_directions_of_decoders(architecture: str, tmp_path: Path) -> None:
    more = {"use_sliding_window": True, "max_window_layers": 1} if architecture == "Qwen3" else {}
    folder = zoo.plain(tmp_path / "model", architecture, sliding_window=16, **more)
    for attention in ("causal", "bidirectional"):
        encoder = load_encoder(str(folder), attention=attention, pooling="mean")  # type: ignore[arg-type]
        assert_same(encoder.double(), 1e-7)  # parts of Gemma are fp32 whatever is asked


@pytest.mark.parametrize("include_prompt", [True, False])
def test_poolings_and_prompts(include_prompt: bool, plain: Callable[[str], Path]) -> None:
    """Prompts of two lengths in one group, which pooling may leave out; no padding, no other text gets into it."""
    encoder = load_encoder(str(plain("BERT"))).double()
    query, document = "find: ", "the passage that follows: "
    for pooling in POOLINGS:
        set_pooling(encoder, pooling, include_prompt)  # type: ignore[arg-type]
        encoder.prompts = {"query": query, "document": document}
        sides = [[query + text for text in TEXTS[:4]], [document + text for text in TEXTS[:4]], MORE]
        found = []
        for packed in (False, True):
            encoder.packed = packed
            found.append(torch.cat(encode_together(encoder, [encoder.tokenize(side) for side in sides])[0]))
        torch.testing.assert_close(found[1], found[0], atol=1e-14, rtol=0, msg=str(pooling))


@pytest.mark.parametrize("head", ["mean, 2 Dense", "mean, LayerNorm"])
def test_heads(head: str, plain: Callable[[str], Path], tmp_path: Path) -> None:
    encoder = load_encoder(str(zoo.with_head(tmp_path / "model", plain("BERT"), head)))
    encoder.packed = True
    probe(encoder, "it")
    assert_same(encoder, 1e-6)


def test_padding_is_not_computed(plain: Callable[[str], Path]) -> None:
    encoder = load_encoder(str(plain("BERT")))
    seen: list[torch.Size] = []
    encoder.backbone.embeddings.register_forward_hook(lambda _, __, out: seen.append(out.shape))  # type: ignore[union-attr]
    tokens = sum(int(encoder.tokenize(texts).lengths.sum()) for texts in (TEXTS, MORE))
    *_, slots = result(encoder, True)
    assert (slots, seen) == (tokens, [torch.Size([1, tokens, 32])])
    *_, slots = result(encoder, False)
    assert slots == seen[-1].numel() // 32 > tokens


def test_a_model_is_as_before_to_everybody_else(plain: Callable[[str], Path], tmp_path: Path) -> None:
    """Its configuration, what sentence-transformers makes of it, and the saved folder."""
    for architecture in ("BERT", "T5 encoder"):
        encoder = load_encoder(str(plain(architecture)))
        backbone: Any = encoder.backbone
        names = [set(vars(module)) for module in backbone.modules()]
        before = encoder.model.encode(TEXTS), backbone.config._attn_implementation
        result(encoder, True)
        assert (encoder.model.encode(TEXTS) == before[0]).all()
        assert backbone.config._attn_implementation == before[1]
        assert [set(vars(module)) for module in backbone.modules()] == names
        encoder.save(tmp_path / architecture)
        assert "jemb" not in (tmp_path / architecture / "config.json").read_text()
        encoder.packed = False
        alone = encode(encoder, TEXTS)
        encoder.packed = True
        assert (encode(encoder, TEXTS) == alone).all(), "outside training texts are padded"
        assert encoder.packed


def test_lora_and_bf16(plain: Callable[[str], Path]) -> None:
    encoder = load_encoder(str(plain("BERT")))
    add_lora(encoder, rank=4, alpha=None, targets=[], dropout=0.0, seed=0, base="")
    assert_same(encoder, 1e-6, micro_batch_size=3)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(encoder, 0.02, micro_batch_size=3)


def test_dropout_is_repeated_when_computed_again(plain: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(str(plain("BERT")), dropout=0.3).train()
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(result(encoder, True, micro_batch_size=3)[1])
        monkeypatch.setattr("jemb.model.together.checkpoint", lambda run, *group, use_reentrant: run(*group))
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())
    torch.manual_seed(1)
    assert any(not torch.equal(gradient, found[1][name]) for name, gradient in result(encoder, True)[1].items())


REFUSED = {
    "MPNet": "MPNetModel cannot be packed .*interface",
    "DeBERTa-v2": "DebertaV2Model cannot be packed .*interface",
    "Longformer": "LongformerModel cannot be packed",
}


@pytest.mark.parametrize("architecture", REFUSED)
def test_other_architectures_are_refused(architecture: str, plain: Callable[[str], Path]) -> None:
    encoder = load_encoder(str(plain(architecture)))
    encoder.packed = True
    with pytest.raises(InputError, match=rf"it: model.packing=on: {REFUSED[architecture]}.*; use model.packing=off"):
        probe(encoder, "it")


def test_static_embeddings_are_refused(tmp_path: Path) -> None:
    encoder = load_encoder(str(zoo.static(tmp_path / "model")))
    encoder.packed = True
    with pytest.raises(InputError, match="StaticEmbedding cannot be packed"):
        probe(encoder, "it")


def test_vectors_that_change_are_refused(plain: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """An architecture that takes our function and its own way with positions."""
    encoder = load_encoder(str(plain("BERT")))
    encoder.packed = True
    monkeypatch.setattr(packing, "table_positions", lambda model: (1, 1))
    with pytest.raises(InputError, match=r"vectors without padding are .* apart"):
        probe(encoder, "it")


def varlen_attn(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, key_ends: Tensor, *sizes: int, scale: Any, window_size: Any
) -> Tensor:
    """What torch's documentation says of it, which has no kernel for a CPU: [T, heads, d], windows (left, right)."""
    assert ends.dtype == torch.int32
    assert sizes == (int(ends.diff().max()),) * 2
    place = torch.arange(len(query))
    text = torch.searchsorted(ends[1:], place, right=True)
    left, right = (len(query) if side < 0 else side for side in window_size)
    far = place[:, None] - place
    seen = (text[:, None] == text) & (far <= left) & (-far <= right)
    q, k, v = (x.transpose(0, 1) for x in (query, key, value))
    return functional.scaled_dot_product_attention(q, k, v, seen, scale=scale).transpose(0, 1)


@pytest.mark.parametrize("architecture", ["BERT", "ModernBERT", "Qwen3", "Mistral"])
def test_what_the_kernel_of_a_gpu_is_asked_for(
    architecture: str, plain: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "has_kernels", lambda device: True)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    assert_same(load_encoder(str(plain(architecture))).double(), 1e-13)


@pytest.mark.filterwarnings("ignore")
def test_flex_attention_with_the_bias_of_t5(plain: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own derivative, traced but not compiled, which torch would refuse on a CPU: the bias has its gradient."""
    monkeypatch.setattr(packing, "has_kernels", lambda device: True)
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *tensors: None)
    traced = torch.compile(flex_attention, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", {flex_attention: traced}.get)
    encoder = load_encoder(str(plain("T5 encoder"))).double()
    assert_same(encoder, 1e-13)
    bias = next(p for name, p in encoder.named_parameters() if name.endswith("relative_attention_bias.weight"))
    assert bias.grad is not None
    assert bias.grad.abs().max() > 0


def test_a_gpu_has_no_dropout(plain: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "has_kernels", lambda device: True)
    encoder = load_encoder(str(plain("BERT")), dropout=0.1).train()
    with pytest.raises(InputError, match=r"use model.dropout=0"):
        result(encoder, True)
