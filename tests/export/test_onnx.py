"""The ONNX file gives the encoder's vectors for any batch and length, or the export fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from jemb.core.errors import Failure, InputError
from jemb.export import onnx_file
from jemb.model import Encoder, encode
from tests.helpers.export_runs import TEXTS, bert, make_run, run_export, t5


def session_of(output: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(output / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("make", [bert, t5], ids=["mean", "t5"])
def test_onnxruntime_gives_the_vectors_for_any_batch_and_length(make: Callable[[], Encoder], tmp_path: Path) -> None:
    trained = make()
    output = run_export(make_run(tmp_path / "run", model=trained), tmp_path / "out", onnx=True)
    session = session_of(output)
    assert [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert all(isinstance(size, str) for value in session.get_inputs() for size in value.shape)
    for texts in (TEXTS[:1], TEXTS[3:], [*TEXTS[:2], *TEXTS[3:]] * 3):
        tokens = trained.tokenize(texts)
        feeds = {"input_ids": tokens.input_ids.long().numpy(), "attention_mask": tokens.attention_mask.numpy()}
        hidden, vectors = session.run(["last_hidden_state", "sentence_embedding"], feeds)
        assert hidden.shape == (len(texts), tokens.input_ids.shape[1], 16)
        np.testing.assert_allclose(vectors, encode(trained, texts), atol=1e-5)


@pytest.mark.slow
def test_a_truncated_model_with_prompts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = bert()
    run = make_run(tmp_path / "run", model=trained)
    with caplog.at_level(logging.INFO):
        output = run_export(run, tmp_path / "out", onnx=True, truncate_dim=6, prompts={"query": "q: "})
    assert "onnxruntime" in caplog.text
    assert "allowed 1e-04" in caplog.text
    tokens = trained.tokenize(["a text"])
    feeds = {"input_ids": tokens.input_ids.long().numpy(), "attention_mask": tokens.attention_mask.numpy()}
    (vectors,) = session_of(output).run(["sentence_embedding"], feeds)
    first = encode(trained, ["a text"])[:, :6]
    np.testing.assert_allclose(vectors, first / np.linalg.norm(first), atol=1e-5)


@pytest.mark.slow
def test_weights_beside_the_file_where_it_would_be_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "ONE_FILE", 0)
    output = run_export(make_run(tmp_path / "run", model=bert()), tmp_path / "out", onnx=True)
    assert {path.name for path in (output / "onnx").iterdir()} == {"model.onnx", "model.onnx.data"}
    session_of(output)
    data = (output / "onnx" / "model.onnx").read_bytes()
    for private in (str(tmp_path), str(Path(onnx_file.__file__).parent), "site-packages", str(Path.home())):
        assert private.encode() not in data, "the exporter notes where the code lies that made each node"


@pytest.mark.slow
def test_a_file_that_gives_other_vectors_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = onnx_file.write_onnx

    def write_badly(encoder: Encoder, folder: Path) -> Path:
        path = write(encoder, folder)
        model = onnx.load(path)
        large = max(model.graph.initializer, key=lambda item: np.prod(item.dims))
        large.CopyFrom(
            numpy_helper.from_array(
                numpy_helper.to_array(large) + 0.01 * np.eye(*large.dims, dtype=np.float32), large.name
            )
        )
        onnx.save(model, path)
        return path

    monkeypatch.setattr("jemb.export.exporter.write_onnx", write_badly)
    run = make_run(tmp_path / "run", model=bert())
    with pytest.raises(Failure, match="onnxruntime gives other vectors"):
        run_export(run, tmp_path / "out", onnx=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_missing_package_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "NEEDED", ("onnx", "no_such_package"))
    run = make_run(tmp_path / "run", model=bert())
    with pytest.raises(InputError, match=r"needs no_such_package, not installed here: pip install 'jemb\[onnx\]'"):
        run_export(run, tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()
