"""Data sets of which it is known whether they help; alignments against losses alone, intervals against repetition."""

from __future__ import annotations

import logging
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jemb
from jemb import weighing
from jemb.app.cli import main
from jemb.app.compose import compose_config
from jemb.config import ModelConfig, TrainConfig
from jemb.core.errors import InputError
from jemb.data.module import PairData
from jemb.model import encode_together, load_encoder, make_tiny
from jemb.shards import open_datasets
from jemb.train import EmbeddingModule
from jemb.weighing import Weighed, flat_gradient, judged, table, with_weights

ANIMALS = ["horse", "wolf", "eagle", "salmon", "spider", "tiger", "rabbit", "dolphin", "beetle", "falcon", "donkey"]
PLACES = ["forest", "river", "mountain", "desert", "garden", "valley", "island", "harbour", "meadow", "village", "lake"]
VERBS = ["sleeps", "hides", "hunts", "waits", "drinks", "sings"]
Row = dict[str, Any]


def alike(number: int, seed: int) -> list[Row]:
    """The answer shares animal, place and verb with the question."""
    draw, rows = random.Random(seed), []
    for _ in range(number):
        animal, place, verb = draw.choice(ANIMALS), draw.choice(PLACES), draw.choice(VERBS)
        day = draw.randint(1, 60)
        query = f"Which {animal} {verb} near the {place} on day {day}?"
        rows.append({"query": query, "positive": f"On day {day} a {animal} {verb} beside that {place}."})
    return rows


def shifted(rows: list[Row]) -> list[Row]:
    """Each question with the answer to the next one: pairs that do not belong together."""
    return [{**row, "positive": after["positive"]} for row, after in zip(rows, rows[1:] + rows[:1], strict=True)]


def foreign(number: int, seed: int) -> list[Row]:
    """Nothing but the length of a number has to do with its answer, in words that dev does not have."""
    draw = random.Random(seed)
    sums = [(draw.randint(1000, 9999), draw.randint(1000, 9999)) for _ in range(number)]
    return [{"query": f"{a} + {b} = ?", "positive": f"{a + b}"} for a, b in sums]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shards, of four data sets; dev.jsonl; and a model with random weights."""
    folder = tmp_path_factory.mktemp("weigh")
    sets = {"like": alike(256, 1), "shifted": shifted(alike(256, 2)), "foreign": foreign(256, 3), "few": alike(20, 4)}
    config = jemb.PrepareConfig(output=folder / "shards", stages=[], workers=1)
    jemb.prepare(config, sets)
    dev = jemb.PrepareConfig(output=folder / "dev", stages=[], workers=1)
    jemb.prepare(dev, {"dev": alike(256, 5)})
    lines = [f'{{"query": "{row["query"]}", "positive": "{row["positive"]}"}}\n' for row in alike(256, 5)]
    (folder / "dev.jsonl").write_text("".join(lines))
    texts = [text for rows in sets.values() for row in rows for text in row.values()]
    make_tiny(
        texts, ModelConfig(hidden_size=32, num_layers=1, num_heads=2, vocab_size=600), seed=0, max_length=24
    ).save(folder / "model")
    return folder


def options(folder: Path, **more: Any) -> dict[str, Any]:
    given = {"shards": str(folder / "shards"), "model": str(folder / "model"), "dev": str(folder / "dev.jsonl")}
    return {**given, "batch_size": 32, "batches": 8, "device": "cpu", **more}


def test_what_is_known_to_help_and_to_harm(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "settings" / "experiment" / "weighed.yaml"
    output.parent.mkdir(parents=True)
    assert main(["weigh", *(f"{key}={value}" for key, value in options(folder, output=output).items())]) == 0
    shown = capsys.readouterr()
    lines = {words[0]: words for words in map(str.split, shown.out.splitlines()) if len(words) > 3}
    like, wrong, other = (float(lines[name][3]) for name in ("like", "shifted", "foreign"))
    assert like > 0.5 > other
    assert like - other > 0.2
    assert wrong < 0
    assert lines["like"][7] == "helps"
    assert lines["shifted"][7:] == ["harms", "0"]
    assert lines["few"][1:3] == ["20", "0"]
    assert "training on shifted, foreign raises the dev loss: weight 0" in shown.err
    assert "fewer than 2 batches of batch_size=32 in data set few (20); their weight is 1" in shown.err

    # The file and the line say the same to `jemb train`, which leaves out what harms.
    own = [f"shards={folder / 'shards'}", f"output={tmp_path / 'run'}", f"init={folder / 'model'}", "max_steps=6"]
    own += ["global_batch_size=16", "workers=0", "trackers=[]"]
    by_file = [f"--config-dir={tmp_path / 'settings'}", "experiment=weighed", *own]
    by_line = shown.out.splitlines()[-1].removeprefix("jemb train … ").split()
    found = compose_config("train", TrainConfig, by_file).weights
    assert found == compose_config("train", TrainConfig, [*by_line, *own]).weights
    assert found["shifted"] == 0 < found["like"]
    assert main(["train", *by_file]) == 0
    datasets = jemb.train.train(compose_config("train", TrainConfig, by_file)).read_record()["datasets"]
    assert "shifted" not in datasets
    assert "like" in datasets


def test_alignment_is_what_a_small_step_does_to_the_dev_loss(folder: Path, tmp_path: Path) -> None:
    """From losses alone: a step of length e against a batch's gradient changes the dev loss by - e |h| cos(g, h)."""
    config = jemb.WeighConfig(**options(folder, output=str(tmp_path / "w.yaml")))
    weighed = {one.name: one for one in jemb.weigh(config) if one.batches}
    module = EmbeddingModule(load_encoder(str(folder / "model")), objective="pairs").eval().double()
    dev = batches(module, folder / "dev")["dev"][:8]

    def dev_loss(of: EmbeddingModule) -> float:
        with torch.no_grad():
            return float(np.mean([float(loss(of, batch)) for batch in dev]))

    before, step = dev_loss(module), 1e-5
    gains: dict[str, float] = {}
    for name, drawn in batches(module, folder / "shards").items():
        if name in weighed:
            changes = []
            for batch in drawn[:8]:
                moved = deepcopy(module)
                loss(moved, batch).backward()
                trained = [p for p in moved.parameters() if p.grad is not None]
                length = torch.cat([p.grad.flatten() for p in trained]).norm()
                with torch.no_grad():
                    for p in trained:
                        p -= step * p.grad / length
                changes.append(before - dev_loss(moved))
            gains[name] = float(np.mean(changes))
    unit = gains["like"] / weighed["like"].alignment  # e |h|
    assert unit > 0
    for name, one in weighed.items():
        assert gains[name] / unit == pytest.approx(one.alignment, abs=0.01), name


def batches(module: EmbeddingModule, shards: Path) -> dict[str, list[Any]]:
    """Those that `weigh` draws: as many of each data set."""
    sizes = {name: len(reader) for name, reader in open_datasets(str(shards)).items()}
    data = PairData(
        str(shards), global_batch_size=32, weights={name: 1 / size for name, size in sizes.items()}, steps=60,
        num_negatives=0, encoder=module.encoder, workers=0,
    )  # fmt: skip
    found: dict[str, list[Any]] = {}
    for batch in data.train_dataloader():
        found.setdefault(batch.dataset, []).append(batch)
    return found


def loss(module: EmbeddingModule, batch: Any) -> torch.Tensor:
    vectors, _ = encode_together(module.encoder, batch.texts)
    return module.loss_of(batch, vectors).total


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Gradients drawn around means that are at right angles: nothing helps, nothing harms. The noise of dev is as large
    as that of the data, and points along the data's mean, so an interval over the data's batches alone misses it."""
    draw, wide, batches = np.random.default_rng(0), 40, 6
    wrong = naive = 0
    for _ in range(600):
        data = draw.normal(size=(batches, wide)) / np.sqrt(wide)
        dev = draw.normal(size=(batches, wide)) / np.sqrt(wide)
        data[:, 0] += 3
        dev[:, 0] = draw.normal(size=batches)
        dev[:, 1] += 3
        products = (data / np.linalg.norm(data, axis=1)[:, None]) @ dev.T / np.linalg.norm(dev.mean(0))
        wrong += judged(products)[3] != "not shown"
        each = products.mean(1)
        naive += abs(each.mean()) > 2.57 * each.std(ddof=1) / np.sqrt(batches)  # t for 5 degrees of freedom
    assert wrong / 600 < 0.08
    assert naive / 600 > 0.5
    data[:, 1] += 20  # now it helps
    helped = (data / np.linalg.norm(data, axis=1)[:, None]) @ dev.T / np.linalg.norm(dev.mean(0))
    assert judged(helped)[3] == "helps"
    assert judged(-helped)[3] == "harms"


def test_an_interval_by_hand() -> None:
    # Means over dev 0.015, 0.035: variance 2e-4; over the data 0.02, 0.03: 0.5e-4. Halves: 1.25e-4, with
    # 1.25^2 / (1 + 0.25^2) degrees of freedom. Student's density is integrated here.
    mean, low, high, verdict = judged(np.array([[0.01, 0.02], [0.03, 0.04]]))
    assert (mean, verdict) == (pytest.approx(0.025), "not shown")
    assert high - mean == pytest.approx(mean - low)
    assert judged(np.array([[1.0, 0.9], [0.5, 0.9]]))[2] == 1, "no cosine is above 1"
    freedom = 1.25**2 / 1.0625
    points = np.linspace(0, (high - mean) / np.sqrt(1.25e-4), 200_001)
    density = (1 + points**2 / freedom) ** (-(freedom + 1) / 2)
    everything = np.tan(np.linspace(0, np.pi / 2, 2_000_001)[:-1])
    whole = np.trapezoid((1 + everything**2 / freedom) ** (-(freedom + 1) / 2), everything)
    assert np.trapezoid(density, points) / whole == pytest.approx(0.95, abs=1e-3)


def test_a_folded_gradient_keeps_dot_products(monkeypatch: pytest.MonkeyPatch) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(60, 400), torch.nn.Linear(400, 60))
    draw = torch.Generator().manual_seed(0)
    shared = [torch.randn(p.shape, generator=draw) for p in module.parameters()]

    def gradient(own: float) -> tuple[torch.Tensor, torch.Tensor]:
        for p, part in zip(module.parameters(), shared, strict=True):
            p.grad = part + own * torch.randn(p.shape, generator=draw)
        whole = flat_gradient(module, 1)
        assert torch.equal(whole, torch.cat([p.grad.flatten() for p in module.parameters()]))  # type: ignore[union-attr]
        with monkeypatch.context() as patch:
            patch.setattr(weighing, "NUMBERS", 2**13)
            folded = flat_gradient(module, 1)
            assert torch.equal(folded, flat_gradient(module, 1))
            assert len(folded) == 2**13 < len(whole)
        return whole, folded

    one, two = gradient(0.5), gradient(2.0)
    exact, kept = (float(a @ b / a.norm() / b.norm()) for a, b in zip(one, two, strict=True))
    assert exact > 0.3
    assert kept == pytest.approx(exact, abs=4 / 2**6.5)


def test_weights_by_hand() -> None:
    def one(name: str, samples: int, alignment: float, verdict: str) -> Weighed:
        return Weighed(name, samples, 4 if verdict != "too small" else 0, alignment, alignment, alignment, verdict)

    given = [one("a", 100, 0.6, "helps"), one("b", 300, 0.2, "helps"), one("c", 200, -0.01, "not shown")]
    given += [one("d", 200, -0.5, "harms"), one("e", 10, float("nan"), "too small")]
    # 100 * 0.6 + 300 * 0.2 over 800 samples: 0.15; c would have 0, and gets the least that is given.
    assert [w.weight for w in with_weights(given)] == [4.0, 1.33, 0.1, 0.0, 1.0]
    assert table(with_weights(given)).endswith("weights.a=4 weights.b=1.33 weights.c=0.1 weights.d=0 weights.e=1")
    assert [w.weight for w in with_weights([one("c", 200, -0.01, "not shown"), given[3]])] == [1.0, 0.0]


def test_what_cannot_be_weighed(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output = tmp_path / "w.yaml"

    def refused(**more: Any) -> str:
        with pytest.raises(InputError) as error:
            jemb.weigh(jemb.WeighConfig(**options(folder, output=str(output), **more)))
        return str(error.value)

    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "dev.jsonl").write_text('{"query": "a", "positive": "b"}\n')
    assert "none.jsonl: holds no rows" in refused(dev=str(tmp_path / "none.jsonl"))
    assert "dev: dev has 1 pairs; wanted 64 or more" in refused(dev=str(tmp_path / "dev.jsonl"))
    (tmp_path / "other.jsonl").write_text('{"q": "a", "p": "b"}\n')
    assert "Dev files have the fields query and positive" in refused(dev=str(tmp_path / "other.jsonl"))
    assert "each with a name of its own" in refused(dev=[str(tmp_path / "dev.jsonl"), str(folder / "dev.jsonl")])
    assert "nothing to weigh; give a smaller batch_size" in refused(shards=str(folder / "shards" / "few"))
    assert not output.exists()
    output.mkdir()
    assert "w.yaml: is a folder; wanted the name of a file" in refused()
    output.rmdir()

    known = tmp_path / "known.jsonl"
    rows = list(open_datasets(str(folder / "shards"))["shifted"])[:7]
    lines = [f'{{"query": "{row.query}", "positive": "never heard of"}}\n' for row in rows]
    known.write_text((folder / "dev.jsonl").read_text() + "".join(lines))
    caplog.set_level(logging.WARNING)
    jemb.weigh(jemb.WeighConfig(**options(folder, output=str(output), dev=str(known), batches=2)))
    assert "dev: of 263 samples so many have a text that is in the training data" in caplog.text
    assert "shifted 8;" in caplog.text, "one of dev's own is there as well"


def test_a_weight_of_0_leaves_a_data_set_out(folder: Path) -> None:
    data = PairData(str(folder / "shards"), global_batch_size=16, weights={"shifted": 0, "like": 2}, num_negatives=0)
    assert set(data.plan.shares) == {"few", "foreign", "like"}
    with pytest.raises(InputError, match="have weight 0; wanted one above 0"):
        _ = PairData(str(folder / "shards"), weights=dict.fromkeys(("few", "foreign", "like", "shifted"), 0)).plan
    with pytest.raises(InputError, match="weights"):
        TrainConfig(shards="s", output="o", weights={"a": -1})
