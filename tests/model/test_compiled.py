"""What torch compiles of a packed backbone has its vectors and gradients, in few shapes; what cannot be compiled is
refused by name. Most tests trace and differentiate as ever, but leave out the C++, which takes a minute a model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask

from benchmarks import zoo
from jemb.config import TrainConfig
from jemb.core.errors import InputError
from jemb.core.records import Tokens
from jemb.model import Encoder, load_encoder, together
from jemb.model.packed import compiled, packing
from jemb.model.packed.compiled import attend_within, near
from jemb.model.packed.packing import Pack
from tests.model.test_packing import ARCHITECTURES, result

OTHERS = [name for name in ARCHITECTURES if name != "BERT"]


@pytest.fixture(autouse=True)
def without_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    monkeypatch.setattr(together, "COMPILED", 512)


def assert_same(encoder: Encoder, atol: float, factor: float = 3, **way: Any) -> None:
    """As with padding: any number of a vector, and the whole gradient relative to its norm, `factor` times as far."""
    padded, expected, _ = result(encoder, False, **way)
    encoder.compiled = True
    vectors, found, slots = result(encoder, True, **way)
    assert slots % ((way.get("micro_batch_tokens") or 512) // together.SHAPES) == 0
    torch.testing.assert_close(vectors, padded, atol=atol, rtol=0)
    assert found.keys() == expected.keys()
    one, other = (torch.cat([gradient.flatten() for gradient in g.values()]) for g in (found, expected))
    assert (one - other).norm() <= factor * atol * other.norm()


def test_vectors_and_gradients_are_those_with_padding(plain: Callable[[str], Path]) -> None:
    assert_same(load_encoder(str(plain("BERT"))), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", OTHERS)
def test_vectors_and_gradients_of_others(architecture: str, plain: Callable[[str], Path]) -> None:
    """In one group, and in groups that are computed again."""
    encoder = load_encoder(str(plain(architecture)))
    assert_same(encoder, 1e-6)
    assert_same(encoder, 1e-6, micro_batch_tokens=100)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["BERT", "T5 encoder"])
def test_what_the_compiler_makes(
    architecture: str, plain: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of T5, whose attention does not scale, fp32 has the gradient to 8e-6 in any of these ways."""
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    encoder = load_encoder(str(plain(architecture)))
    assert_same(encoder, 1e-6, 3 if architecture == "BERT" else 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(encoder, 0.02)


def test_few_shapes_are_compiled(plain: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """One for batches of other texts and other lengths, as many of them as there are; and no more than allowed."""
    encoder = load_encoder(str(zoo_of_one_layer(plain)))
    encoder.packed = encoder.compiled = True
    graphs: list[Any] = []

    def count(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", count)
    for number in range(1, 6):
        texts = ["word " * n for n in range(1, number + 1)]
        together.encode_together(encoder, [encoder.tokenize(texts)])
    assert len(graphs) == 1
    monkeypatch.setattr(compiled, "MOST_SHAPES", 1)
    with pytest.raises(
        InputError, match=r"model\.compile=true: torch .* cannot compile BertModel: texts of more than 1 lengths"
    ):
        together.encode_together(encoder, [encoder.tokenize(["word " * 20] * 4)])


def zoo_of_one_layer(plain: Callable[[str], Path]) -> Path:
    folder = plain("BERT").parent / "BERT with one layer"
    return folder if folder.is_dir() else zoo.plain(folder, "BERT", num_hidden_layers=1)


def test_a_model_that_cannot_be_compiled_in_one_piece(plain: Callable[[str], Path]) -> None:
    encoder = load_encoder(str(zoo_of_one_layer(plain)))
    encoder.packed = encoder.compiled = True
    backbone: Any = encoder.backbone
    backbone.encoder.register_forward_hook(lambda *_: print("said by a hook"))
    forward = backbone.forward
    with pytest.raises(InputError, match=r"cannot compile BertModel: .*; use model.compile=false"):
        together.encode_together(encoder, [encoder.tokenize(["a text"])])
    assert backbone.forward == forward, "it is as it was"


def test_dropout_is_refused_without_a_configuration_too(plain: Callable[[str], Path]) -> None:
    folder = zoo_of_one_layer(plain)
    encoder = load_encoder(str(folder), dropout=0.1).train()
    encoder.packed = encoder.compiled = True
    with pytest.raises(InputError, match=r"model\.compile=true has no dropout; use model.dropout=0"):
        together.encode_together(encoder, [encoder.tokenize(["a text"])])


@pytest.mark.parametrize(
    "options",
    [
        {"model": {"compile": True}},
        {"model": {"compile": True, "packing": "on", "dropout": 0.1}},
        {"model": {"compile": True, "packing": "on", "dropout": None}},
        {"model": {"compile": True, "packing": "on", "lora": {"rank": 4, "dropout": 0.1}}},
        {"model": {"compile": True, "packing": "on"}, "micro_batch_size": 8},
        {"model": {"compile": True, "packing": "on"}, "strategy": "fsdp"},
        {"model": {"compile": True, "packing": "on"}, "strategy": "deepspeed_2"},
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"model\.compile=true goes with"):
        TrainConfig(shards="-", output="-", **options)


def pack_of(*lengths: int, multiple: int) -> Pack:
    count = np.array(lengths, np.int64)
    return Pack(Tokens.padded(np.arange(1, 1 + count.sum()), count, 0), multiple)


def test_a_row_is_padded_by_texts_no_longer_than_the_longest() -> None:
    pack = pack_of(5, 3, 1, multiple=16)
    assert pack.lengths == [5, 3, 1, 5, 2]
    assert pack.id_T.tolist() == [*range(1, 10), *[0] * 7]
    assert pack.position_T.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 0, 1, 2, 3, 4, 0, 1]
    assert pack.place_T.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10]
    assert pack.ends.tolist() == pack.host_ends.tolist() == [0, 5, 8, 9, 14, 16]
    assert pack.longest == packing.BLOCK, "so that it seldom changes"
    assert pack_of(8, 8, multiple=16).lengths == [8, 8]


def test_blocks_of_flex_attention() -> None:
    """Those in which some token sees another, and whoever is in none is not computed."""
    draw = np.random.default_rng(0)
    for lengths in ([1], [128, 128], [1, 400, 2], draw.integers(1, 300, 20).tolist(), [7] * 60):
        pack = pack_of(*lengths, multiple=64)
        text_T, total = pack.text_T, len(pack.text_T)
        expected = create_block_mask(lambda b, h, q, k, t=text_T: t[q] == t[k], None, None, total, total, device="cpu")
        assert torch.equal(pack.blocks.to_dense(), expected.to_dense())
        assert pack.blocks.shape == expected.shape


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_the_operation_against_attention_with_a_mask(biased: bool, causal: bool, window: int) -> None:
    """Values and gradients, in fp64."""
    torch.manual_seed(0)
    lengths = torch.tensor([4, 1, 7, 2])
    ends = functional.pad(lengths.cumsum(0), (1, 0))
    q, k, v = (torch.randn(1, 2, 14, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(1, 2, 9, 9, dtype=torch.float64, requires_grad=True) if biased else None
    text, place = (torch.repeat_interleave(x, lengths) for x in (torch.arange(4), ends[:-1]))
    place = torch.arange(14) - place
    seen = (text[:, None] == text) & near(14, causal, window, torch.device("cpu"))
    mask: Tensor = torch.zeros(2, 14, 14, dtype=torch.float64)
    if bias is not None:
        mask = bias[0][:, place[:, None], place]
    expected = functional.scaled_dot_product_attention(q, k, v, mask.masked_fill(~seen, -torch.inf), scale=0.3)
    found = attend_within(q, k, v, bias, ends, 0.3, causal, window)
    torch.testing.assert_close(found, expected.transpose(1, 2))
    weights, leaves = torch.randn_like(found), [x for x in (q, k, v, bias) if x is not None]
    wanted = torch.autograd.grad((expected.transpose(1, 2) * weights).sum(), leaves)
    torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), leaves), wanted)
    torch.library.opcheck(attend_within, (q, k, v, bias, ends, 0.3, causal, window))


def varlen_attn(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, key_ends: Tensor, *sizes: int, scale: Any, window_size: Any
) -> Tensor:
    """That of `test_packing.py` without its questions, which are not traced."""
    place = torch.arange(len(query))
    text = torch.searchsorted(ends[1:], place, right=True)
    left, right = (len(query) if side < 0 else side for side in window_size)
    far = place[:, None] - place
    seen = (text[:, None] == text) & (far <= left) & (-far <= right)
    q, k, v = (x.transpose(0, 1) for x in (query, key, value))
    return functional.scaled_dot_product_attention(q, k, v, seen, scale=scale).transpose(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["BERT", "ModernBERT", "Qwen3"])
def test_the_kernel_of_a_gpu_inside_of_what_is_compiled(
    architecture: str, plain: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "has_kernels", lambda device: True)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    assert_same(load_encoder(str(plain(architecture))), 1e-6)


@pytest.mark.slow
def test_flex_attention_inside_of_what_is_compiled(
    plain: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a compiler its derivative asks tensors whether they want a gradient, which in the graph none says; the
    compiler knows it from the trace."""
    import torch._higher_order_ops.flex_attention  # its package has a function of the same name

    backward = sys.modules["torch._higher_order_ops.flex_attention"].flex_attention_backward
    key = torch._C.DispatchKey.CompositeExplicitAutograd
    dense = backward.py_kernels[key]

    def with_gradients(*arguments: Any) -> Any:
        *others, own, masks = arguments
        wanting = [x.detach().requires_grad_(x.is_floating_point()) if isinstance(x, torch.Tensor) else x for x in own]
        return dense(*others, tuple(wanting), masks)

    monkeypatch.setitem(backward.py_kernels, key, with_gradients)
    monkeypatch.setattr(backward, "_dispatch_cache", {})
    monkeypatch.setattr(packing, "has_kernels", lambda device: True)
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *tensors: None)
    assert_same(load_encoder(str(plain("T5 encoder"))), 2e-6)
