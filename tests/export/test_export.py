"""An exported folder gives the trained vectors to everyone who loads it, or is not there at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from jemb.config import ExportConfig
from jemb.core.errors import Failure, InputError
from jemb.export import export
from jemb.model import Encoder, encode
from jemb.run_folder import OPTIMIZER, WEIGHTS
from tests.helpers.export_runs import RECORD, TEXTS, add_checkpoint, bert, make_run, run_export, t5


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


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As by `jemb train`, but left where it is: a trainer may be at work."""
    run = make_run(tmp_path / "run", status="stopped")
    add_checkpoint(run, 5, bert(seed=5))
    weights = add_checkpoint(run, 10, bert(seed=10)) / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    output = run_export(run, tmp_path / "out")
    assert "checkpoint at step 5" in (output / "README.md").read_text()
    assert f"{weights}: not a readable checkpoint (other bytes than were written)" in caplog.text
    assert [step for step, _ in run.checkpoints()] == [5, 10]
    (run.checkpoints()[0][1] / OPTIMIZER).unlink()
    with pytest.raises(InputError, match=r"step-00000005/optimizer\.safetensors: not a readable checkpoint"):
        run_export(run, tmp_path / "none")


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

    def save_badly(self: Encoder, folder: Path, card: str | None = None, **more: Any) -> None:
        save(self, folder, card, **more)
        tamper(folder)

    monkeypatch.setattr(Encoder, "save", save_badly)
    with pytest.raises(Failure, match=r"sentence-transformers (gives other vectors|cannot use)"):
        run_export(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_not_a_number_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", status="finished", model=bert())
    monkeypatch.setattr(
        "jemb.export.check._sentence_transformers", lambda folder, code: lambda texts: np.full((len(texts), 16), np.nan)
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
    with pytest.raises(InputError, match="No such file"):
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


@pytest.mark.slow
def test_export_is_quiet_and_imports_no_onnx(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", status="finished", model=bert())
    program = (
        "import sys; from jemb.app.cli import run_command; code = run_command('export', sys.argv[1:]); "
        "sys.exit(code or any(name.startswith('onnx') for name in sys.modules))"
    )
    arguments = [sys.executable, "-c", program, f"run={run.path}", f"output={tmp_path / 'out'}"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""  # also where transformers imports accelerate, and that DeepSpeed
    assert len(done.stderr.splitlines()) == 1, done.stderr
