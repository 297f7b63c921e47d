"""Merged weights against NumPy's, the choice of weights against scores that sentence-transformers' vectors give, and
who takes the folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy import stats
from sentence_transformers import SentenceTransformer

import jemb
from jemb.config import ModelConfig
from jemb.core.errors import InputError
from jemb.export.alike import check_alike
from jemb.export.merge import weightings
from jemb.model import Encoder, encode, load_encoder, load_start, load_weights, make_tiny
from jemb.run_folder import RunFolder
from tests.helpers.export_runs import RECORD, TEXTS, add_checkpoint, bert, make_run

SMALL = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, vocab_size=300)


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def merge(runs: list[Path], output: Path, **options: object) -> Path:
    return jemb.merge(jemb.MergeConfig(runs=runs, output=output, device="cpu", **options))


def assert_mean(found: Path, folders: list[Path], weights: list[float]) -> None:
    parts = [weights_of(folder) for folder in folders]
    for name, value in weights_of(found).items():
        wanted = sum(weight * part[name].astype(np.float64) for weight, part in zip(weights, parts, strict=True))
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-8, err_msg=name)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """A finished run, a folder of sentence-transformers and an export of three models of one kind."""
    one = make_run(tmp_path / "one", model=bert(seed=1)).path
    bert(seed=2).save(tmp_path / "two")
    three = jemb.export(jemb.ExportConfig(run=make_run(tmp_path / "3", model=bert(seed=3)).path, output=tmp_path / "e"))
    return [one, tmp_path / "two", three]


@pytest.mark.slow
def test_the_weights_are_the_weighted_mean(
    folders: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    output = merge(folders, tmp_path / "merged", weights=[3, 1, 0], license="mit")
    assert "divided by their sum, 4" in caplog.text
    assert "merged: 0.75 × one + 0.25 × two + 0 × e" in caplog.text
    assert_mean(output, [folders[0] / "model", *folders[1:]], [0.75, 0.25, 0])
    vectors = SentenceTransformer(str(output), device="cpu").encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(vectors, encode(load_encoder(str(output)), TEXTS), atol=1e-5)
    card = (output / "README.md").read_text()
    assert "| one | 0.75 |" in card
    assert "license: mit" in card
    stages = json.loads((output / "training.json").read_text())
    assert [stage["objective"] for stage in stages] == ["pairs", "pairs", "merge"]
    assert stages[0]["datasets"]["python|docs"]["num_samples"] == RECORD["datasets"]["python|docs"]["num_samples"]  # type: ignore[index]
    assert stages[-1]["merged"] == {"one": 0.75, "two": 0.25, "e": 0.0}
    assert_mean(merge(folders[:2], tmp_path / "equal"), [folders[0] / "model", folders[1]], [0.5, 0.5])


def test_the_checkpoints_of_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", status="running")
    folders = []
    for step in (5, 10, 15):
        add_checkpoint(run, step, bert(seed=step))
        bert(seed=step).save(tmp_path / str(step))
        folders.append(tmp_path / str(step))
    output = merge([run.path], tmp_path / "merged", last_checkpoints=2, weights=[1, 3])
    assert_mean(output, folders[1:], [0.25, 0.75])
    last = json.loads((output / "training.json").read_text())[-1]
    assert last["merged"] == {"run, step 10": 0.25, "run, step 15": 0.75}
    with pytest.raises(InputError, match=r"has 3, of steps 5, 10, 15; a run keeps as many as its keep_checkpoints"):
        merge([run.path], tmp_path / "more", last_checkpoints=4)
    with pytest.raises(InputError, match="wanted one run folder"):
        merge([tmp_path / "5"], tmp_path / "more", last_checkpoints=2)
    (run.checkpoint_folder / "step-00000010" / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"step-00000010\S*: not a readable checkpoint"):
        merge([run.path], tmp_path / "more", last_checkpoints=2)
    assert not (tmp_path / "more").exists()


def other_config(**options: object) -> Callable[[], Encoder]:
    return lambda: make_tiny(TEXTS, ModelConfig(**{**SMALL_VALUES, **options}), seed=2, max_length=20)  # type: ignore[arg-type]


SMALL_VALUES = {"vocab_size": 300, "hidden_size": 16, "num_layers": 1, "num_heads": 2}


def with_buffer(number: int) -> Encoder:
    encoder = bert()
    encoder.model[0].register_buffer("table", torch.tensor([1, number]))
    return encoder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: bert(pooling="cls"), "the pooling is 'mean' and 'cls'"),
        (other_config(num_heads=4), "num_attention_heads in config.json is 2 and 4"),
        (other_config(hidden_size=32), "hidden_size in config.json is 16 and 32"),
        (other_config(num_layers=2), "num_hidden_layers in config.json is 1 and 2"),
        (lambda: make_tiny(["other words here"], SMALL, seed=2, max_length=20), "in (config|tokenizer).json is"),
    ],
    ids=["pooling", "heads", "width", "layers", "tokenizer"],
)
def test_other_kinds_are_refused_by_what_differs(make: Callable[[], Encoder], said: str, tmp_path: Path) -> None:
    bert(seed=1).save(tmp_path / "one")
    make().save(tmp_path / "two")
    with pytest.raises(InputError, match=f"one and two cannot be merged: .*{said}"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_buffers_that_are_no_numbers_to_average_must_be_equal() -> None:
    check_alike("a", with_buffer(2), "b", with_buffer(2))
    with pytest.raises(InputError, match=r"the numbers of model\.0\.table, which is no weight, differ"):
        check_alike("a", with_buffer(2), "b", with_buffer(3))
    with pytest.raises(InputError, match=r"only b has the weights model\.0\.table"):
        check_alike("a", bert(), "b", with_buffer(3))


def test_settings_of_the_first_are_taken_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, prompt in (("one", "query: "), ("two", "ask: ")):
        encoder = bert(seed=len(prompt))
        encoder.prompts = {"query": prompt}
        encoder.save(tmp_path / name)
    output = merge([tmp_path / "one", tmp_path / "two"], tmp_path / "merged")
    assert SentenceTransformer(str(output), device="cpu").prompts["query"] == "query: "
    assert "two: its prompts is {'query': 'ask: '}; that of one, {'query': 'query: '}, is taken" in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": [1]}, "1 for 2 models"),
        ({"weights": [0, 0]}, "their sum is 0"),
        ({"weights": [1, -1]}, "weights"),
        ({"weights": [1, 1], "tasks": ["sts:x.jsonl"]}, "weights and tasks are both given"),
        ({"tasks": ["sts:sts.jsonl"], "step": 0.3}, "wanted 1 divided by a whole number"),
        ({"last_checkpoints": 2}, "wanted one run folder"),
    ],
)
def test_options_are_checked_before_any_work(
    options: dict[str, object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sts(tmp_path / "sts.jsonl", [0.1, 0.9, 0.4])
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")  # it would not load
    with pytest.raises(InputError, match=said):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "merged", **options)
    with pytest.raises(InputError, match="one model; wanted several"):
        merge([tmp_path / "one"], tmp_path / "merged")
    with pytest.raises(InputError, match="there is something already"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "one")


@pytest.mark.parametrize(("count", "step", "number"), [(2, 0.25, 5), (3, 0.25, 16), (3, 1 / 3, 10), (4, 0.5, 11)])
def test_weightings_are_the_grid_and_equal_weights(count: int, step: float, number: int) -> None:
    found = weightings(count, step)
    parts = round(1 / step)
    grid = {
        tuple(n / parts for n in (*rest, parts - sum(rest)))
        for rest in np.ndindex(*(parts + 1,) * (count - 1))
        if sum(rest) <= parts
    }
    assert found[0] == (1 / count,) * count
    assert len(found) == len(set(found)) == number
    assert grid - {(1 / count,) * count} == set(found[1:]) - {(1 / count,) * count}
    with pytest.raises(InputError, match="more than 500"):
        weightings(8, 0.1)


SENTENCES = [f"{verb} {thing} {place}" for verb in ("open", "read", "write") for thing in ("a file", "the stream", "it")
             for place in ("here", "and return", "in Python", "")]  # fmt: skip


def write_sts(path: Path, scores: list[float]) -> None:
    rows = zip(SENTENCES, SENTENCES[1:], scores, strict=False)
    lines = [json.dumps({"sentence1": one, "sentence2": two, "score": score}) for one, two, score in rows]
    path.write_text("\n".join(lines))


def neighbours(folder: Path) -> np.ndarray:
    vectors = SentenceTransformer(str(folder), device="cpu").encode(SENTENCES, show_progress_bar=False)
    return (vectors[:-1] * vectors[1:]).sum(1)


@pytest.mark.slow
def test_a_dev_task_chooses_the_weights(folders: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    # The scores are the second model's own cosines, so it alone is perfect.
    truth = neighbours(folders[1])
    write_sts(tmp_path / "dev.jsonl", truth.tolist())
    output = merge(folders[:2], tmp_path / "merged", tasks=[f"sts:{tmp_path}/dev.jsonl"], step=0.5)
    assert_mean(output, [folders[1]], [1.0])
    stage = json.loads((output / "training.json").read_text())[-1]
    assert stage["merged"] == {"one": 0.0, "two": 1.0}
    assert stage["model_chosen"] == "the best of 3 weightings: mean of sts:dev.jsonl = 100.00"
    tried = {tuple(one["weights"]): one["scores"]["sts:dev.jsonl"] for one in stage["weightings"]}
    assert next(iter(tried)) == (0.0, 1.0)
    assert tried.keys() == {(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)}
    for weights, value in tried.items():
        alone = merge(folders[:2], tmp_path / f"{weights[0]}", weights=list(weights))
        assert value == pytest.approx(100 * stats.spearmanr(neighbours(alone), truth).statistic, abs=0.2)
        assert f"{weights[0]:.3f}  {weights[1]:.3f}" in caplog.text


@pytest.mark.slow
def test_runs_merge_and_training_evaluation_and_export_take_it(tmp_path: Path) -> None:
    rows = [
        {"query": f"Where does animal {n} sleep?", "positive": f"Animal {n} sleeps in burrow {n}."} for n in range(64)
    ]
    write_sts(tmp_path / "dev.jsonl", [n % 5 for n in range(30)])
    jemb.prepare(jemb.PrepareConfig(output=tmp_path / "shards", stages=[], workers=1), {"burrows": rows})

    def train(name: str, **options: object) -> RunFolder:
        fixed = {"max_steps": 2, "global_batch_size": 16, "workers": 0, "learning_rate": 1e-2, "checkpoint_every": 1}
        return jemb.train(
            jemb.TrainConfig(shards=tmp_path / "shards", output=tmp_path / name, device="cpu", **{**fixed, **options})
        )

    first = train("first", model=SMALL)
    adapted = train("adapted", init=first.path, model=ModelConfig(lora={"rank": 2}), keep_checkpoints=2)
    output = merge([adapted.path], tmp_path / "merged", last_checkpoints=2)
    parts = []
    for number, (_, folder) in enumerate(adapted.checkpoints()):
        encoder = load_start(adapted.start)
        load_weights(encoder, folder)
        encoder.save(tmp_path / f"step{number}")
        parts.append(tmp_path / f"step{number}")
    assert_mean(output, parts, [0.5, 0.5])
    assert (weights_of(parts[0])["encoder.layer.0.attention.self.query.weight"]
            != weights_of(parts[1])["encoder.layer.0.attention.self.query.weight"]).any()  # fmt: skip
    again = train("again", init=output)
    earlier = json.loads(again.record.read_text())["earlier"]
    assert [stage["objective"] for stage in earlier] == ["pairs", "pairs", "merge"]
    task = f"sts:{tmp_path}/dev.jsonl"
    scores = jemb.evaluate(jemb.EvaluateConfig(model=[output], tasks=[task], output=tmp_path / "s.json", device="cpu"))
    assert set(scores.scores[str(output)][task]) == {"spearman", "pearson"}
    exported = jemb.export(jemb.ExportConfig(run=output, output=tmp_path / "exported", truncate_dim=8))
    assert_mean(exported, parts, [0.5, 0.5])
    assert json.loads((exported / "training.json").read_text()) == json.loads((output / "training.json").read_text())
    card = (jemb.export(jemb.ExportConfig(run=again.path, output=tmp_path / "last")) / "README.md").read_text()
    assert "| adapted, step 1 | 0.5 |" in card
