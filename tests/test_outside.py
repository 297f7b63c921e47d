"""What a user adds from outside: a stage, a pooling, a term of the loss, a tracker and a task of evaluation, each a few
lines in a module of their own. No file of the package names any of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import jemb
from jemb.config import EvaluationConfig
from jemb.model import make_tiny
from jemb.prepare import registry
from tests.helpers.made_shards import WORDS, make_samples, write_shards

MINE = '''
from dataclasses import dataclass

import torch
from lightning.pytorch.loggers import Logger
from sentence_transformers.sentence_transformer.modules import Pooling

from jemb.evaluate import Mean, Measured, Score, Task, encode_distinct, pair_cosines, read_rows
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


@dataclass(frozen=True)
class Alike(Task):
    """The mean cosine of pairs."""

    name: str
    pairs: list
    main = "cosine"

    def measure(self, encode):
        vectors, (left, right) = encode_distinct(encode, "STS", *[(side, None) for side in self.pairs])
        return Measured({"cosine": Score.of(Mean(100 * pair_cosines(vectors, left, right)))})


def read_alike(path, name):
    return Alike(name, list(map(list, zip(*[(row.text("left"), row.text("right")) for row in read_rows(path)]))))


def read_nothing(path, name):
    return None
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


def test_a_task_of_evaluation(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By module and function, and by a name it was given; with its interval, and while training."""
    folder = tiny(mine / "model")
    rows = [("amber birch", "amber birch"), ("cedar", "delta")]
    (mine / "alike.jsonl").write_text("".join(json.dumps({"left": a, "right": b}) + "\n" for a, b in rows))
    left, right = (jemb.encode(jemb.load_encoder(str(folder)), list(side)) for side in zip(*rows, strict=True))
    by_hand = 100 * float((left * right).sum(1).mean())
    found = {}
    import mine as module  # type: ignore[import-not-found]

    from jemb.evaluate import load_task, task
    from jemb.registry import TASKS

    monkeypatch.setattr(TASKS, "added", {})
    task("alike")(module.read_alike)
    for name in ("mine.read_alike:alike.jsonl", "alike:alike.jsonl"):
        jemb.evaluate(jemb.EvaluateConfig(model=str(folder), tasks=name, output="scores.json"))
        found[name] = json.loads((mine / "scores.json").read_text())[name]["cosine"]
    assert list(found.values()) == [pytest.approx(by_hand, abs=1e-4)] * 2
    run, _ = train("run", folder, evaluation=EvaluationConfig(tasks=["alike:alike.jsonl"]))
    assert "alike:alike.jsonl" in run.evaluations.read_text()
    with pytest.raises(jemb.InputError, match=r"read_nothing gave NoneType; wanted a jemb\.evaluate\.Task"):
        load_task("mine.read_nothing:alike.jsonl")
    with pytest.raises(jemb.InputError, match=r"unknown task 'alik:x'; .*alike:FILE.*did you mean 'alike'"):
        load_task("alik:x")
