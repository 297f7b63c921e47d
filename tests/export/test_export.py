"""An exported folder gives the trained vectors to everyone who loads it, or is not there at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, T5Config, T5EncoderModel

from jemb.config import ExportConfig, ModelConfig
from jemb.errors import Failure, InputError
from jemb.export import export
from jemb.model import Encoder, encode, make_tiny
from jemb.model.weights import WEIGHTS
from jemb.run_folder import RunFolder

TEXTS = ["how to read a file", "Open file and return a stream.", "", "Ünïcode ∑ 図書館 🙂", "long " * 100]
SETTINGS = "objective: pairs\nmodel:\n  path: null\n  dropout: 0.0\n"
RECORD = {
    "jemb": "0.1.0",
    "versions": {"torch": "2.9.1"},
    "git_commit": "0123abc",
    "objective": "pairs",
    "plan_fingerprint": "f" * 64,
    "datasets": {
        "python|docs": {
            "num_samples": 12345,
            "kind": "pairs",
            "weight": 2.5,
            "fingerprint": "9" * 64,
            "stages": [{"name": "exact", "kept": 12345, "dropped": {"duplicate": 30, "empty": 12}}],
        }
    },
    "starts": [{"step": 0, "world_size": 4, "strategy": "ddp", "precision": "bf16", "device": "cuda", "time": 1.0}],
    "steps": 7,
}


def bert(seed: int = 0, pooling: str = "mean") -> Encoder:
    config = ModelConfig(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2, pooling=pooling)  # type: ignore[arg-type]
    return make_tiny(TEXTS, config, seed=seed, max_length=20)


def t5() -> Encoder:
    tokenizer = bert().tokenizer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        return Encoder(T5EncoderModel(config), tokenizer, pooling="mean", max_length=20)


def make_run(folder: Path, *, status: str, model: Encoder | None = None) -> RunFolder:
    """A run folder as `jemb train` leaves it."""
    run = RunFolder(folder)
    bert(seed=1).save(run.start)
    run.config.write_text(SETTINGS)
    run.record.write_text(json.dumps({**RECORD, "status": status}))
    if model is not None:
        model.save(run.model)
    return run


def add_checkpoint(run: RunFolder, step: int, encoder: Encoder) -> Path:
    folder = run.checkpoint_folder / f"step-{step:08d}"
    folder.mkdir(parents=True)
    save_file(encoder.state_dict(), folder / WEIGHTS)
    return folder


def run_export(run: RunFolder, output: Path) -> Path:
    return export(ExportConfig(run=str(run.path), output=str(output)))


def test_bert_for_sentence_transformers_and_transformers(tmp_path: Path) -> None:
    trained = bert()
    expected = encode(trained, TEXTS)
    output = run_export(make_run(tmp_path / "run", status="finished", model=trained), tmp_path / "out")
    assert output == tmp_path / "out"
    theirs = SentenceTransformer(str(output), device="cpu").encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(theirs, expected, atol=1e-5)
    model, tokenizer = AutoModel.from_pretrained(output).eval(), AutoTokenizer.from_pretrained(output)
    for text, vector in zip(TEXTS, expected, strict=True):
        tokens = tokenizer(text, truncation=True, return_tensors="pt")  # the length is the tokenizer's own
        with torch.no_grad():
            mean = model(**tokens).last_hidden_state[0].mean(0)
        np.testing.assert_allclose((mean / mean.norm()).numpy(), vector, atol=1e-5)
    names = {path.name for path in output.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "README.md", "modules.json"} <= names
    assert (output / "model.safetensors").stat().st_mode & 0o444 == (output / "config.json").stat().st_mode & 0o444
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


@pytest.mark.parametrize("make", [lambda: bert(pooling="cls"), t5], ids=["cls", "t5"])
def test_other_kinds(make: Callable[[], Encoder], tmp_path: Path) -> None:
    trained = make()
    output = run_export(make_run(tmp_path / "run", status="finished", model=trained), tmp_path / "out")
    theirs = SentenceTransformer(str(output), device="cpu").encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(theirs, encode(trained, TEXTS), atol=1e-5)


def test_unfinished_run_gives_its_last_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", status="running")
    add_checkpoint(run, 5, bert(seed=5))
    add_checkpoint(run, 10, bert(seed=10))
    output = run_export(run, tmp_path / "out")
    theirs = SentenceTransformer(str(output), device="cpu").encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(theirs, encode(bert(seed=10), TEXTS), atol=1e-5)
    assert "checkpoint at step 10" in (output / "README.md").read_text()


def test_finished_run_gives_its_model_and_a_continued_one_its_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", status="finished", model=bert(seed=3))
    add_checkpoint(run, 5, bert(seed=5))
    for status, seed in (("finished", 3), ("running", 5)):
        run.record.write_text(json.dumps({**RECORD, "status": status}))
        output = run_export(run, tmp_path / status)
        theirs = SentenceTransformer(str(output), device="cpu").encode(TEXTS, show_progress_bar=False)
        np.testing.assert_allclose(theirs, encode(bert(seed=seed), TEXTS), atol=1e-5)


def tamper_pooling(folder: Path) -> None:
    path = folder / "1_Pooling" / "config.json"
    flags = json.loads(path.read_text())
    flags |= {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    path.write_text(json.dumps(flags))


def tamper_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.output.dense.weight"][0, 0] += 0.1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def tamper_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))


def tamper_length(folder: Path) -> None:
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 10, "do_lower_case": false}')


def tamper_modules(folder: Path) -> None:
    (folder / "modules.json").unlink()


@pytest.mark.parametrize("tamper", [tamper_pooling, tamper_weights, tamper_tokenizer, tamper_length, tamper_modules])
def test_a_folder_that_gives_other_vectors_is_not_left(
    tamper: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", status="finished", model=bert())
    save = Encoder.save

    def save_badly(self: Encoder, folder: Path, card: str | None = None) -> None:
        save(self, folder, card)
        tamper(folder)

    monkeypatch.setattr(Encoder, "save", save_badly)
    with pytest.raises(Failure, match=r"sentence-transformers (gives other vectors|cannot use)"):
        run_export(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_transformers_is_checked_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = bert()
    run = make_run(tmp_path / "run", status="finished", model=trained)
    monkeypatch.setattr("jemb.export.check._sentence_transformers", lambda folder: lambda texts: encode(trained, texts))
    save = Encoder.save

    def save_badly(self: Encoder, folder: Path, card: str | None = None) -> None:
        save(self, folder, card)
        tamper_tokenizer(folder)

    monkeypatch.setattr(Encoder, "save", save_badly)
    with pytest.raises(Failure, match=r"^transformers gives other vectors"):
        run_export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_not_a_number_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", status="finished", model=bert())
    monkeypatch.setattr(
        "jemb.export.check._sentence_transformers", lambda folder: lambda texts: np.full((len(texts), 16), np.nan)
    )
    with pytest.raises(Failure, match="gives other vectors"):
        run_export(run, tmp_path / "out")


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        export(ExportConfig(run=str(tmp_path / "nowhere"), output=str(tmp_path / "out")))
    run = make_run(tmp_path / "run", status="running")
    with pytest.raises(InputError, match="without a checkpoint"):
        run_export(run, tmp_path / "out")
    checkpoint = add_checkpoint(run, 5, bert())
    (checkpoint / WEIGHTS).write_bytes(b"half")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        run_export(run, tmp_path / "out")
    (checkpoint / WEIGHTS).unlink()
    with pytest.raises(InputError, match="no such file"):
        run_export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_output_must_be_free(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", status="finished", model=bert())
    output = tmp_path / "out"
    output.mkdir()
    run_export(run, output)  # an empty folder is free
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="something already"):
        run_export(run, output)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="something already"):
        run_export(run, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def front_matter_and_body(card: str) -> tuple[dict[str, object], str]:
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def test_card_tells_data_settings_and_scores(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", status="finished", model=bert())
    run.scores.write_text(json.dumps({"sts:/data/dev.jsonl.gz": {"spearman": 71.2345}}))
    output = run_export(run, tmp_path / "out")
    front, body = front_matter_and_body((output / "README.md").read_text())
    assert front == {
        "tags": ["sentence-transformers", "feature-extraction", "sentence-similarity"],
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
    }
    assert "| python\\|docs | pairs | 12,345 | 2.5 | exact: 12,345, 42 | 999999999999 |" in body
    assert f"```yaml\n{SETTINGS}```" in body
    assert "| 0 | 4 | ddp | bf16 | cuda |" in body
    assert "| sts: dev.jsonl.gz | spearman | 71.23 |" in body
    assert "| torch (training) | 2.9.1 |" in body
    assert f"| torch (export) | {version('torch')} |" in body
    assert "0123abc" in body


def test_card_does_not_pretend(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", status="finished", model=bert())
    output = run_export(run, tmp_path / "out")
    _, body = front_matter_and_body((output / "README.md").read_text())
    assert body.split("## Scores\n")[1].split("##")[0].strip() == "Not evaluated."


@pytest.mark.parametrize("make", [bert, lambda: bert(pooling="cls"), t5], ids=["mean", "cls", "t5"])
def test_code_in_the_card_runs_and_gives_the_vectors(make: Callable[[], Encoder], tmp_path: Path) -> None:
    trained = make()
    output = run_export(make_run(tmp_path / "run", status="finished", model=trained), tmp_path / "out")
    card = (output / "README.md").read_text().replace("PATH/OF/THIS/FOLDER", str(output))
    first, second = (part.split("```")[0] for part in card.split("```python\n")[1:])
    scope: dict[str, object] = {}
    exec(first, scope)
    texts = ["how to read a file", "Open file and return a stream."]
    np.testing.assert_allclose(scope["vectors"], encode(trained, texts), atol=1e-5)
    scope = {"texts": TEXTS}
    exec(second, scope)
    np.testing.assert_allclose(scope["vectors"], encode(trained, TEXTS), atol=1e-5)


def test_export_is_quiet(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", status="finished", model=bert())
    program = (
        "import logging, sys\nlogging.basicConfig(level=logging.INFO, format='%(name)s')\n"
        "from jemb.config import ExportConfig\nfrom jemb.export import export\n"
        "export(ExportConfig(run=sys.argv[1], output=sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", program, str(run.path), str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.split() == ["jemb.export.exporter"]
