"""What a user adds from outside: a stage, a pooling, a term of the loss and a tracker, each a few lines in a module of
their own. No file of the package names any of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from made_shards import WORDS, make_samples, write_shards

import jemb
from jemb.model import make_tiny
from jemb.prepare import registry

MINE = '''
import torch
from lightning.pytorch.loggers import Logger
from sentence_transformers.sentence_transformer.modules import Pooling

from jemb.loss import Loss, Texts
from jemb.loss.objectives import Pairs
from jemb.prepare import Verdict, stage


@stage("shouting", reasons={"shouting": "the positive is all in capitals"})
def drop_shouting(rows, options, inputs):
    verdict = Verdict()
    for position, positive in enumerate(rows.positive):
        if positive.isupper():
            verdict.drop(position, "shouting", "capitals")
    return verdict


class SumPooling(Pooling):
    """The sum of a text's token vectors, and twice the first one again: what no pooling of the library does."""

    def forward(self, features):
        mask = features["attention_mask"].unsqueeze(-1)
        hidden = features["token_embeddings"] * mask
        return features | {"sentence_embedding": hidden.sum(1) + 2 * hidden[:, 0]}


class Spread:
    """L_pairs, and a term that keeps queries apart."""

    def __init__(self, temperature: float, weight: float = 0.5) -> None:
        self.pairs, self.weight = Pairs(temperature=temperature), weight

    def __call__(self, texts: Texts) -> Loss:
        found = self.pairs(texts)
        spread = (texts.query.local_BD @ texts.query.all_ND.T).square().mean()
        return Loss(found.total + self.weight * spread, {**found.terms, "spread": spread.detach()})


class Memory(Logger):
    """A tracker that only keeps what it gets."""

    name, version = "memory", "0"

    def __init__(self) -> None:
        super().__init__()
        self.lines = {}

    def log_hyperparams(self, *args, **more) -> None:
        pass

    def log_metrics(self, metrics, step=None) -> None:
        self.lines.setdefault(step, {}).update(metrics)
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's folder, with a data set of 32 pairs; the module can be imported from it."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    registry.all_stages()
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    write_shards(tmp_path / "shards", "pairs", make_samples("pairs", 32))
    yield tmp_path
    sys.modules.pop("mine", None)


def tiny(folder: Path) -> Path:
    config = jemb.ModelConfig(hidden_size=16, num_layers=1, num_heads=2)
    make_tiny([f"{word} pairs" for word in WORDS], config, seed=0, max_length=16).save(folder)
    return folder


def train(output: str, model: Path, **options: object) -> tuple[jemb.RunFolder, list[dict]]:
    loggers = options.pop("loggers", ())
    config = jemb.TrainConfig(
        **{"shards": "shards", "output": output, "max_steps": 2, "global_batch_size": 8, "workers": 0, "device": "cpu"},
        model=jemb.ModelConfig(path=str(model), trust_remote_code=True),
        **options,
    )
    run = jemb.train(config, loggers=loggers)
    return run, run.read_metrics()


def test_a_stage(mine: Path) -> None:
    rows = [{"query": f"question {n}", "positive": f"ANSWER {n}" if n % 3 else f"answer {n}"} for n in range(9)]
    config = jemb.PrepareConfig(output="prepared", plugins=["mine"], stages=["shouting"], workers=1)
    (manifest,) = jemb.prepare(config, rows)
    assert manifest.num_samples == 3
    assert {stage.name: stage.dropped for stage in manifest.stages}["shouting"] == {"shouting": 6}
    assert "the positive is all in capitals" in (mine / "prepared" / "report.html").read_text()


def test_a_pooling(mine: Path) -> None:
    """A module of sentence-transformers, named in the model's folder: trained, saved, and the same when loaded."""
    folder = tiny(mine / "model")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "mine.SumPooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    encoder = jemb.load_encoder(str(folder), trust_remote_code=True)
    tokens = encoder.tokenize(["amber birch cedar"])
    hidden = encoder.backbone(tokens.input_ids, tokens.attention_mask).last_hidden_state[0]
    by_hand = torch.nn.functional.normalize(hidden.sum(0) + 2 * hidden[0], dim=0).detach().numpy()
    assert jemb.encode(encoder, ["amber birch cedar"])[0] == pytest.approx(by_hand, abs=1e-6)
    run, lines = train("run", folder)
    again = jemb.load_encoder(str(run.path), trust_remote_code=True)
    assert type(again.model[1]).__name__ == "SumPooling"
    assert lines[0]["loss"] > 0


def test_a_term_of_the_loss(mine: Path) -> None:
    folder = tiny(mine / "model")
    _, plain = train("plain", folder)
    _, lines = train("spread", folder, objective="mine:Spread", objective_options={"weight": 2.0})
    terms = lines[0]["loss_terms"]
    assert terms["query_to_positive"] == pytest.approx(plain[0]["loss_terms"]["query_to_positive"], abs=1e-6)
    assert 0 < terms["spread"] < 1
    assert lines[0]["loss"] == pytest.approx(plain[0]["loss"] + 2 * terms["spread"], abs=1e-6)


def test_a_tracker(mine: Path) -> None:
    """A logger of Lightning gets the metrics of every step."""
    from mine import Memory  # type: ignore[import-not-found]

    memory = Memory()
    _, lines = train("run", tiny(mine / "model"), loggers=[memory])
    kept = [values["loss"] for values in memory.lines.values() if "loss" in values]
    assert kept == pytest.approx([line["loss"] for line in lines])
