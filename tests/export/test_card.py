"""The card says what the records say, nothing else, in the form the Hub reads; its code runs as it stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

from jemb.config import ExportConfig
from jemb.core.errors import InputError
from jemb.lineage import TRAINING
from jemb.model import Encoder, encode
from tests.helpers.export_runs import RECORD, SETTINGS, TEXTS, add_checkpoint, bert, make_run, run_export, t5


def body_of(output: Path) -> str:
    return (output / "README.md").read_text().split("---\n", 2)[2]


def section(output: Path, title: str) -> str:
    return body_of(output).split(f"## {title}\n")[1].split("\n## ")[0].strip()


def test_data_settings_and_scores(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", model=bert())
    run.keep_scores({"sts:/data/dev.jsonl.gz": {"spearman": 71.2345}}, run.model_identity())
    output = run_export(run, tmp_path / "out")
    assert metadata_load(output / "README.md") == {
        "tags": ["sentence-transformers", "feature-extraction", "sentence-similarity"],
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
    }
    body = body_of(output)
    assert "| python\\|docs | pairs | 12,345 | 2.5 | not stated | exact: 12,345, 42 | 999999999999 |" in body
    assert "| 0 | 4 | ddp | bf16 | cuda |" in body
    assert "| sts: dev.jsonl.gz | spearman | 71.23 |" in body
    assert "| torch (training) | 2.9.1 |" in body
    assert f"| torch (export) | {version('torch')} |" in body
    assert "0123abc" in body


def test_scores_are_of_this_very_model(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", model=bert())
    run.keep_scores({"sts:dev": {"spearman": 71.0, "spearman@8": 65.5}}, run.model_identity())
    assert "| sts: dev | spearman | 71.00 |" in section(run_export(run, tmp_path / "whole"), "Scores")
    truncated = section(run_export(run, tmp_path / "truncated", truncate_dim=8), "Scores")
    assert truncated.splitlines()[-1] == "| sts: dev | spearman | 65.50 |"
    assert section(run_export(run, tmp_path / "other", truncate_dim=4), "Scores") == "Not evaluated."
    bert(seed=7).save(run.model)  # the run went on
    assert section(run_export(run, tmp_path / "newer"), "Scores") == "Not evaluated."
    run.record.write_text(json.dumps({**RECORD, "status": "running"}))
    bert().save(run.model)  # the scored model again, but what is exported now are later weights
    add_checkpoint(run, 9, bert(seed=9))
    assert section(run_export(run, tmp_path / "checkpoint"), "Scores") == "Not evaluated."


def test_settings_are_those_the_run_came_to_without_this_machines_paths(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", model=bert(), resolved={"max_steps": 70, "warmup_steps": 7, "precision": "bf16"})
    secret = str(tmp_path / "secret")
    given = yaml.safe_load(SETTINGS) | {
        "shards": f"{secret}/shards", "output": f"{secret}/run", "tokens": f"{secret}/tokens", "workers": 3,
        "precision": "auto", "warmup_steps": None,
        "evaluation": {"tasks": [f"sts:{secret}/dev.jsonl"], "metric": f"sts:{secret}/dev.jsonl/spearman"},
    }  # fmt: skip
    run.config.write_text(yaml.safe_dump(given))
    output = run_export(run, tmp_path / "out")
    shown = yaml.safe_load(section(output, "Training").split("```yaml\n")[1].split("```")[0])
    assert shown == {
        "objective": "pairs",
        "model": {"path": None, "dropout": 0.0, "pooling": "mean"},
        "evaluation": {"tasks": ["sts:dev.jsonl"], "metric": "sts:dev.jsonl/spearman"},
        "max_steps": 70,
        "warmup_steps": 7,
        "max_length": 20,
        "precision": "bf16",
    }
    for path in (output / "README.md", output / TRAINING):
        assert "secret" not in path.read_text()


def test_it_does_not_pretend(tmp_path: Path) -> None:
    output = run_export(make_run(tmp_path / "run", model=bert()), tmp_path / "out")
    assert section(output, "Scores") == "Not evaluated."
    assert section(output, "Licence") == "No licence was stated for the model. No licence is recorded of: python|docs."
    assert "| wall time of training | not recorded |" in section(output, "Cost")


def test_every_stage_of_training_is_told(tmp_path: Path) -> None:
    """Two runs and an exported folder between them: the card of the last knows the data of all."""
    first = make_run(tmp_path / "pairs", model=bert(), started_from="org/base", steps=11)
    exported = run_export(first, tmp_path / "between")
    earlier = json.loads((exported / TRAINING).read_text())
    assert [stage["name"] for stage in earlier] == ["pairs"]
    triplets = {
        "nli": {
            "num_samples": 500, "kind": "triplets", "license": "cc-by-4.0", "fingerprint": "7" * 64,
            "stages": [{"name": "language", "kept": 500, "dropped": {}, "settings": {"allowed": ["en", "de"]}}],
        }
    }  # fmt: skip
    second = make_run(
        tmp_path / "triplets", model=bert(), earlier=earlier, objective="triplets", datasets=triplets,
        init=str(exported), steps=5,
    )  # fmt: skip
    output = run_export(second, tmp_path / "out", license="apache-2.0")
    training = section(output, "Training")
    assert "### 1. pairs" in training
    assert "pairs, 11 steps, from org/base." in training
    assert "python\\|docs" in training
    assert "### 2. triplets" in training
    assert "triplets, 5 steps, from between." in training
    assert "| nli | triplets | 500 | 1.0 | cc-by-4.0 | language: 500, 0 | 777777777777 |" in training
    front = metadata_load(output / "README.md")
    assert (front["license"], front["base_model"]) == ("apache-2.0", "org/base")
    assert "language" not in front, "the pairs were not filtered by language"
    assert section(output, "Licence") == (
        "The model: apache-2.0. The data as stated: nli: cc-by-4.0. No licence is recorded of: python|docs."
    )
    assert [stage["name"] for stage in json.loads((output / TRAINING).read_text())] == ["pairs", "triplets"]


def test_time_is_that_of_the_records(tmp_path: Path) -> None:
    starts = [{**RECORD["starts"][0], "hardware": "GPU X", "time": time} for time in (1000.0, 5000.0)]  # type: ignore[index]
    run = make_run(tmp_path / "run", model=bert(), starts=starts)
    # The first start worked for 1,200 s, the second for 600; between them nothing ran.
    times = [(1600.0, 600.0), (2200.0, 600.0), (5100.0, 100.0), (5600.0, 500.0)]
    lines = [{"step": i, "time": time, "seconds": seconds} for i, (time, seconds) in enumerate(times)]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = run_export(run, tmp_path / "plain")
    assert "| wall time of training | 0.5 h |" in section(output, "Cost")
    assert "| hardware (processes × device) | 4 × GPU X |" in section(output, "Cost")


def test_the_hubs_library_reads_the_card(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", model=bert(), started_from="org/base")
    output = run_export(run, tmp_path / "out", license="mit")
    card = ModelCard.load(output / "README.md")
    assert card.data.to_dict()["license"] == "mit"
    assert card.data.pipeline_tag == "sentence-similarity"
    assert card.text.startswith("\n# run")


@pytest.mark.parametrize(
    "values",
    [{"license": "Apache 2.0"}, {"push_to_hub": "mine"}, {"private": True}],
    ids=lambda values: next(iter(values)),
)
def test_options_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        ExportConfig(**{"run": "r", "output": "o", **values})


def truncated() -> Encoder:
    encoder = bert()
    encoder.truncate_dim = 8
    return encoder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "onnx"),
    [(bert, False), (lambda: bert(pooling="cls"), False), (t5, False), (truncated, True)],
    ids=["mean", "cls", "t5", "truncated-onnx"],
)
def test_the_code_runs_and_gives_the_vectors(make: Callable[[], Encoder], onnx: bool, tmp_path: Path) -> None:
    trained = make()
    output = run_export(make_run(tmp_path / "run", model=trained), tmp_path / "out", onnx=onnx)
    card = (output / "README.md").read_text().replace("PATH/OF/THIS/FOLDER", str(output))
    first, *others = (part.split("```")[0] for part in card.split("```python\n")[1:])
    assert len(others) == 1 + onnx
    scope: dict[str, object] = {}
    exec(first, scope)
    texts = ["how to read a file", "Open file and return a stream."]
    theirs = np.asarray(scope["vectors"])
    np.testing.assert_allclose(
        theirs / np.linalg.norm(theirs, axis=1, keepdims=True), encode(trained, texts), atol=1e-5
    )
    for code in others:
        scope = {"texts": TEXTS}
        exec(code, scope)
        np.testing.assert_allclose(scope["vectors"], encode(trained, TEXTS), atol=1e-5)


def test_the_code_of_a_model_with_prompts(tmp_path: Path) -> None:
    trained = bert()
    trained.prompts = {"query": 'say "what": ', "document": "doc: "}
    output = run_export(make_run(tmp_path / "run", model=trained), tmp_path / "out")
    card = (output / "README.md").read_text().replace("PATH/OF/THIS/FOLDER", str(output))
    scope: dict[str, object] = {}
    exec(card.split("```python\n")[1].split("```")[0], scope)
    wanted = encode(trained, ['say "what": how to read a file', "doc: Open file and return a stream."])
    np.testing.assert_allclose(np.concatenate([scope["queries"], scope["passages"]]), wanted, atol=1e-5)
