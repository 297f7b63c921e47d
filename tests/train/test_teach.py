"""A small model learns the vectors of a teacher: from `jemb prepare` to losses, from texts and from stored tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import jemb
from jemb.config import ModelConfig, TokenizeConfig
from jemb.core.errors import InputError
from jemb.model import make_tiny
from tests.helpers.made_shards import WORDS, make_samples, write_shards
from tests.helpers.training_runs import SMALL, Training, losses

Start = Callable[..., Training]


def tiny(folder: Path, width: int, seed: int = 1) -> Path:
    size = ModelConfig(vocab_size=300, hidden_size=width, num_layers=1, num_heads=2)
    make_tiny(WORDS * 9, size, seed=seed, max_length=16).save(folder)
    return folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with the vectors of a teacher, `shards`, and the teacher, `teacher`."""
    folder = tmp_path_factory.mktemp("taught")
    tiny(folder / "teacher", 24)
    (folder / "raw").mkdir()
    lines = [json.dumps({"query": s.query, "positive": s.positive}) + "\n" for s in make_samples("d", 48)]
    (folder / "raw" / "d.jsonl").write_text("".join(lines))
    jemb.prepare(
        jemb.PrepareConfig(
            input=str(folder / "raw"),
            output=str(folder / "shards"),
            stages=["teacher"],
            teacher={"model": str(folder / "teacher"), "dtype": "fp32"},
            workers=1,
        )
    )
    return folder


@pytest.mark.slow
def test_it_learns_from_texts_and_from_tokens_on_one_process_and_on_two(
    tmp_path: Path, taught: Path, start: Start
) -> None:
    student = tiny(tmp_path / "student", 16, seed=2)
    options = [f"shards={taught / 'shards'}", f"model.path={student}", "objective=teach", "max_steps=30"]
    options += ["global_batch_size=16", "learning_rate=0.01", "schedule=constant", "warmup_steps=0", SMALL[-1]]
    one = start(tmp_path / "one", options).succeed()
    found = losses(one)
    assert found[0] > 0.7
    assert found[-1] < 0.5 * found[0]
    assert losses(start(tmp_path / "two", options, 2).succeed()) == pytest.approx(found, abs=1e-5)
    jemb.tokenize(TokenizeConfig(shards=taught / "shards", model=student, output=tmp_path / "tokens", workers=1))
    stored = start(tmp_path / "stored", [*options, f"tokens={tmp_path / 'tokens'}"]).succeed()
    assert losses(stored) == found


def test_what_does_not_fit_is_refused(tmp_path: Path, taught: Path) -> None:
    def refused(shards: Path, message: str, **options: object) -> None:
        with pytest.raises(InputError, match=message):
            jemb.train(
                jemb.TrainConfig(
                    shards=str(shards),
                    output=str(tmp_path / "run"),
                    max_steps=2,
                    global_batch_size=8,
                    checkpoint_every=1,
                    workers=0,
                    objective="teach",
                    **options,
                )
            )

    write_shards(tmp_path / "plain", "plain", make_samples("plain", 48))
    refused(tmp_path / "plain", r"objective=teach needs the vectors of a teacher, but data set plain .*stage teacher")
    shutil.copytree(taught / "shards" / "d", tmp_path / "two" / "d")
    other = json.loads((tmp_path / "two" / "d" / "manifest.json").read_text())
    other["name"], other["stages"][-1]["settings"]["model_files"] = "e", "others"
    shutil.copytree(tmp_path / "two" / "d", tmp_path / "two" / "e")
    (tmp_path / "two" / "e" / "manifest.json").write_text(json.dumps(other))
    refused(tmp_path / "two", "data sets d and e have the vectors of different teachers")
    shutil.copytree(taught / "shards" / "d", tmp_path / "changed" / "d")
    path = tmp_path / "changed" / "d" / "teacher.vectors.npy"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))
    refused(tmp_path / "changed", r"teacher\.vectors\.npy: sha256 is .* it has changed")
    rows = [{"query": f"q {n}", "positive": f"p {n}", "score": n} for n in range(8)]
    teacher = {"model": str(taught / "teacher")}
    jemb.prepare(jemb.PrepareConfig(output=str(tmp_path / "graded"), stages=["teacher"], teacher=teacher), {"d": rows})
    refused(
        tmp_path / "graded",
        r"objective=teach with objective_options\.contrastive=0\.5 would take every positive for a right answer",
        objective_options={"contrastive": 0.5},
    )


def test_other_objectives_need_none_of_it(tmp_path: Path, taught: Path) -> None:
    data = jemb.PairData(taught / "shards", objective="pairs")
    assert data.wanted()["d"].fields == ()
    assert data.teacher_width is None
    data = jemb.PairData(taught / "shards", objective="teach")
    assert data.wanted()["d"].fields == ("teacher",)
    assert data.teacher_width == 24
