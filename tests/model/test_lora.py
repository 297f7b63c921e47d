"""Adapters: nothing changes when they are put on, they alone are trained, and their folders load."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from benchmarks import zoo
from jemb.core.errors import InputError
from jemb.model import Encoder, add_lora, encode, load_encoder

pytest.importorskip("peft")
from peft import IA3Config, LoraConfig, get_peft_model

TEXTS = ["a man is playing", "the film was not bad at all", "27"]


def lora(encoder: Encoder, base: Path, **options: Any) -> Encoder:
    """With adapters that do something: PEFT makes one of the two matrices zero."""
    settings = {"rank": 4, "alpha": None, "targets": [], "dropout": 0.0, "seed": 1, "base": str(base), **options}
    add_lora(encoder, **settings)
    with torch.no_grad():
        for name, p in encoder.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(p.numel()))
    return encoder


def with_sentence_transformers(folder: Path) -> np.ndarray:
    return np.asarray(SentenceTransformer(str(folder), device="cpu").encode(TEXTS, show_progress_bar=False))


@pytest.mark.parametrize("architecture", ["BERT", "GPT-2", "Qwen3", "T5 encoder", "ModernBERT"])
def test_adapters_are_trained_merged_and_loaded(architecture: str, tmp_path: Path) -> None:
    base = zoo.plain(tmp_path / "base", architecture)
    plain, first, second = (load_encoder(str(base)) for _ in range(3))
    add_lora(first, rank=4, alpha=None, targets=[], dropout=0.0, seed=1, base=str(base))
    np.testing.assert_allclose(encode(first, TEXTS), encode(plain, TEXTS), atol=1e-6)
    encoder = lora(second, base)
    for (name, one), (_, other) in zip(first.named_parameters(), encoder.named_parameters(), strict=True):
        assert torch.equal(one, other) == ("lora_B" not in name)  # the same numbers in any process
        assert one.requires_grad == ("lora_" in name)
    encoder(encoder.tokenize(TEXTS)).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in encoder.parameters())
    vectors = encode(encoder, TEXTS)
    assert np.abs(vectors - encode(plain, TEXTS)).max() > 1e-2
    encoder.save(tmp_path / "adapter", adapter=True)
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    if architecture != "T5 encoder" or version("sentence-transformers") >= "6.1":  # which loads the decoder, too
        np.testing.assert_allclose(with_sentence_transformers(tmp_path / "adapter"), vectors, atol=1e-5)
    np.testing.assert_allclose(encode(load_encoder(str(tmp_path / "adapter")), TEXTS), vectors, atol=1e-5)
    encoder.save(tmp_path / "merged")
    assert not encoder.lora
    np.testing.assert_allclose(with_sentence_transformers(tmp_path / "merged"), vectors, atol=1e-5)
    np.testing.assert_allclose(encode(load_encoder(str(tmp_path / "merged")), TEXTS), vectors, atol=1e-5)


def test_folders_of_peft_and_adapters_beside_a_whole_model(tmp_path: Path) -> None:
    base = zoo.plain(tmp_path / "base", "BERT")
    encoder = lora(load_encoder(str(base)), base)
    vectors = encode(encoder, TEXTS)
    encoder.save(tmp_path / "adapter", adapter=True)
    for place in (tmp_path / "peft", base):
        place.mkdir(exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (place / name).write_bytes((tmp_path / "adapter" / name).read_bytes())
    (tmp_path / "base" / "adapter_config.json").rename(tmp_path / "kept")
    np.testing.assert_allclose(encode(load_encoder(str(tmp_path / "peft")), TEXTS), vectors, atol=1e-5)
    for folder in ("peft", "adapter"):
        load_encoder(str(tmp_path / folder)).save(tmp_path / "again" / folder)
        np.testing.assert_allclose(with_sentence_transformers(tmp_path / "again" / folder), vectors, atol=1e-5)
    (tmp_path / "kept").rename(base / "adapter_config.json")
    np.testing.assert_allclose(encode(load_encoder(str(base)), TEXTS), vectors, atol=1e-5)
    weights = load_file(base / "adapter_model.safetensors")
    other = {name.replace("model.encoder", "model.other"): value for name, value in weights.items()}
    save_file(other, base / "adapter_model.safetensors")
    with pytest.raises(InputError, match="does not fit its model"):
        load_encoder(str(base))


def test_the_tokenizer_beside_an_adapter_is_its_own(tmp_path: Path) -> None:
    base = zoo.plain(tmp_path / "base", "Qwen3")
    lora(load_encoder(str(base)), base).save(tmp_path / "whole", adapter=True)
    (tmp_path / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json"):
        shutil.copy(tmp_path / "whole" / name, tmp_path / "adapter")
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    name, number = next((token["content"], token["id"]) for token in tokenizer["added_tokens"])
    end = {"SpecialToken": {"id": name, "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, *[end] * 2],
        "pair": [{"Sequence": {"id": side, "type_id": 0}} for side in "AB"],
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}},
    }
    (tmp_path / "adapter" / "tokenizer.json").write_text(json.dumps(tokenizer))
    encoder = load_encoder(str(tmp_path / "adapter"), pooling="mean")
    assert encoder.tokenize(["a"]).input_ids[0, -2:].tolist() == [number] * 2
    theirs = with_sentence_transformers(tmp_path / "adapter")
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(encode(encoder, TEXTS), theirs, atol=1e-5)


def test_an_adapter_with_its_tokenizer_on_a_model_of_sentence_transformers(tmp_path: Path) -> None:
    base = zoo.with_head(tmp_path / "base", zoo.plain(tmp_path / "plain", "BERT"), "max")
    encoder = lora(load_encoder(str(base)), base)
    encoder.save(tmp_path / "whole", adapter=True)
    (tmp_path / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "whole" / name, tmp_path / "adapter")
    loaded = load_encoder(str(tmp_path / "adapter"))
    assert loaded.pooling == "max"
    np.testing.assert_allclose(encode(loaded, TEXTS), encode(encoder, TEXTS), atol=1e-5)


def by_peft(base: Path, folder: Path, config: Any) -> np.ndarray:
    """The vectors of an adapter that PEFT has made and saved."""
    first = Transformer(str(base))
    adapted = get_peft_model(first.model, config)
    with torch.no_grad():
        for p in adapted.parameters():
            if p.requires_grad:
                p += torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) / 2
    adapted.save_pretrained(folder)
    first.model = adapted
    modules = [first, Pooling(32, "mean"), Normalize()]
    return np.asarray(SentenceTransformer(modules=modules, device="cpu").encode(TEXTS, show_progress_bar=False))


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=["query"], bias="lora_only", rank_pattern={"layer.0.attention.self.query": 4}),
        LoraConfig(r=2, target_modules=["query"], modules_to_save=["LayerNorm", "word_embeddings"]),
        LoraConfig(r=2, target_modules=["query", "word_embeddings"]),
        LoraConfig(r=2, target_modules=["query"], use_dora=True),
        LoraConfig(r=2, target_modules=["query"], trainable_token_indices={"word_embeddings": [7, 8, 9, 30]}),
        IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["output.dense"]),
    ],
    ids=["pattern and bias", "modules_to_save", "embeddings", "DoRA", "tokens", "IA3"],
)
def test_whatever_peft_trains_is_loaded_and_merged(config: Any, tmp_path: Path) -> None:
    expected = by_peft(zoo.plain(tmp_path / "base", "BERT"), tmp_path / "adapter", config)
    encoder = load_encoder(str(tmp_path / "adapter"))
    np.testing.assert_allclose(encode(encoder, TEXTS), expected, atol=1e-5)
    encoder.save(tmp_path / "saved")
    np.testing.assert_allclose(with_sentence_transformers(tmp_path / "saved"), expected, atol=1e-5)


def test_an_adapter_of_the_model_with_a_head_for_words(tmp_path: Path) -> None:
    base = zoo.plain(tmp_path / "base", "Qwen3")
    encoder = lora(load_encoder(str(base)), base)
    encoder.save(tmp_path / "adapter", adapter=True)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name.replace("model.layers", "model.model.layers"): v for name, v in load_file(path).items()}, path)
    np.testing.assert_allclose(encode(load_encoder(str(path.parent)), TEXTS), encode(encoder, TEXTS), atol=1e-5)


def test_dropout_reaches_the_model_that_an_adapter_names(tmp_path: Path) -> None:
    base = zoo.plain(tmp_path / "base", "BERT")
    lora(load_encoder(str(base)), base).save(tmp_path / "adapter", adapter=True)
    encoder = load_encoder(str(tmp_path / "adapter"), dropout=0.25)
    assert encoder.backbone.config.attention_probs_dropout_prob == 0.25
    assert encoder.own_dropout["attention_probs_dropout_prob"] == 0.1


def test_what_cannot_be_adapted_is_said(tmp_path: Path) -> None:
    base = zoo.plain(tmp_path / "base", "BERT")
    with pytest.raises(InputError, match=r"model.lora.targets=\['q_proj'\]: .* there are: .*query"):
        lora(load_encoder(str(base)), base, targets=["q_proj"])
    with pytest.raises(InputError, match="static embeddings have no layers"):
        lora(load_encoder(str(zoo.static(tmp_path / "static"))), base)
    chosen = lora(load_encoder(str(base)), base, targets=["query"])
    assert {name.split(".")[-4] for name, p in chosen.named_parameters() if p.requires_grad} == {"query"}


def test_heads_are_trained_beside_adapters(tmp_path: Path) -> None:
    base = zoo.with_head(tmp_path / "model", zoo.plain(tmp_path / "base", "BERT"), "cls, Dense (tanh)")
    encoder = lora(load_encoder(str(base)), base)
    assert {name for name, p in encoder.named_parameters() if p.requires_grad and "lora" not in name} == {
        "model.2.linear.weight",
        "model.2.linear.bias",
    }
