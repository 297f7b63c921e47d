"""Cross-encoders against sentence-transformers' own scores, and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder as TheirCrossEncoder
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

from jemb.app.models import make_cross_encoder
from jemb.core.errors import InputError
from jemb.model import load_cross_encoder
from jemb.prepare.stages.cross_encoder import CrossEncoderConfig

PAIRS = [
    ("what is love", "love is a film"),
    ("what", "a man is playing a guitar and a fox jumps over the lazy dog " * 8),
    ("", ""),
    ("the fox", "the quick brown fox"),
    ("long query " * 30, "the dog"),
    ("what is love", "a dog"),
]
WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] what is love a film man playing guitar and fox jumps over the lazy dog quick brown"
)


def save(folder: Path, *, labels: int = 1, head: bool = True) -> Path:
    """A tiny BERT with random weights, large enough for scores to differ."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS.split()))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=40).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(WORDS.split()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=48,
        initializer_range=0.5,
        num_labels=labels,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        (BertForSequenceClassification if head else BertModel)(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("cross") / "model")


def reference(folder: Path, max_length: int = 40) -> np.ndarray:
    theirs = TheirCrossEncoder(str(folder), max_length=max_length, device="cpu")
    return np.array([theirs.predict([pair], activation_fn=torch.nn.Identity())[0] for pair in PAIRS])


def test_scores_are_those_of_sentence_transformers(folder: Path) -> None:
    expected = reference(folder)
    assert np.ptp(expected) > 0.5
    for batch_tokens in (None, 1, 50):
        scores = load_cross_encoder(str(folder)).score(PAIRS, batch_tokens=batch_tokens)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_query_and_passage_are_told_apart(folder: Path) -> None:
    model = load_cross_encoder(str(folder))
    one, other = model.score([("what is love", "the dog"), ("the dog", "what is love")])
    assert abs(one - other) > 1e-3


def test_max_length_cuts(folder: Path) -> None:
    scores = load_cross_encoder(str(folder), max_length=8).score(PAIRS)
    np.testing.assert_allclose(scores, reference(folder, 8), atol=1e-5)
    assert abs(scores[1] - load_cross_encoder(str(folder)).score(PAIRS)[1]) > 1e-3
    with pytest.raises(InputError, match="max_length 49 is more than the 48 positions"):
        load_cross_encoder(str(folder), max_length=49)


def test_folder_of_sentence_transformers(folder: Path, tmp_path: Path) -> None:
    TheirCrossEncoder(str(folder), device="cpu").save_pretrained(str(tmp_path / "saved"))
    np.testing.assert_allclose(load_cross_encoder(str(tmp_path / "saved")).score(PAIRS), reference(folder), atol=1e-5)


def test_no_pairs(folder: Path) -> None:
    assert load_cross_encoder(str(folder)).score([]).shape == (0,)


def test_factory_is_picklable_and_equal_to_its_copies(folder: Path) -> None:
    make = make_cross_encoder(CrossEncoderConfig(max_length=8, batch_tokens=30))
    copy = pickle.loads(pickle.dumps(make))
    assert copy == make
    assert hash(copy) == hash(make)
    assert make != make_cross_encoder(CrossEncoderConfig())
    np.testing.assert_allclose(copy(str(folder))(PAIRS), reference(folder, 8), atol=1e-5)


def test_refuses_what_is_no_cross_encoder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_cross_encoder(str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"gives 3 numbers for a pair; wanted a model with 1"):
        load_cross_encoder(str(save(tmp_path / "nli", labels=3)))
    with pytest.raises(InputError, match=r"2 of the model's weights are not in it .*classifier\.bias"):
        load_cross_encoder(str(save(tmp_path / "encoder", head=False)))
    bare = save(tmp_path / "bare")
    for file in bare.glob("*[vt]o[ck]*"):
        file.unlink()
    assert {file.name for file in bare.iterdir()} == {"config.json", "model.safetensors"}
    with pytest.raises(InputError, match=r"the tokenizer has 5 entries, the model \d+ embeddings"):
        load_cross_encoder(str(bare))
    modules = [
        {"name": str(i), "path": "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(["Transformer", "Pooling"])
    ]
    (tmp_path / "encoder" / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "encoder" / "config_sentence_transformers.json").write_text('{"model_type": "SentenceTransformer"}')
    with pytest.raises(InputError, match="a SentenceTransformer of sentence-transformers; wanted a CrossEncoder"):
        load_cross_encoder(str(tmp_path / "encoder"))


def test_loading_leaves_the_random_state_alone(folder: Path) -> None:
    before = torch.random.get_rng_state()
    load_cross_encoder(str(folder))
    assert torch.equal(before, torch.random.get_rng_state())


def test_code_that_comes_with_a_cross_encoder_is_not_run(folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "auto_map": {"AutoModelForSequenceClassification": "m.Model"}})
    )
    with pytest.raises(InputError, match="needs code that comes with the model"):
        load_cross_encoder(str(folder))
