"""Training on the token ids of `jemb tokenize` is training on the texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jemb.app.cli import run_command
from jemb.config import TokenizeConfig
from jemb.pretokenize import pretokenize
from tests.helpers.training_runs import Training, losses, read_lines

Start = Callable[..., Training]


@pytest.mark.parametrize("kind", ["pair", "triplet"])
def test_the_same_run(
    tmp_path: Path,
    start: Start,
    request: pytest.FixtureRequest,
    t5_folder: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    """On two processes with a loader process each; stopped, and continued without the ids, which change nothing."""
    shards, output = request.getfixturevalue(f"{kind}_shards"), tmp_path / "tokens"
    plain = [*request.getfixturevalue(f"{kind}_options"), f"init={t5_folder}", "workers=1", "max_length=16"]
    plain += ["schedule=constant", "warmup_steps=0"]  # or more steps would change the rates
    plain = [option for option in plain if not option.startswith("model.")]
    stored = [*plain, f"tokens={output}"]
    assert run_command("train", [f"output={tmp_path / 'early'}", *stored]) == 2
    assert "no tokens of the data set" in capsys.readouterr().err
    assert not (tmp_path / "early" / "run.json").exists()
    pretokenize(TokenizeConfig(shards=str(shards), model=str(t5_folder), output=str(output), max_length=16, workers=1))
    assert run_command("train", [f"output={tmp_path / 'other'}", *stored, "max_length=12"]) == 2
    assert "tokens.json: made with tokenizer" in capsys.readouterr().err

    whole = start(tmp_path / "texts", plain, 2).succeed()
    begun = start(tmp_path / "ids", [*stored, "max_steps=12"], 2).succeed()
    assert losses(begun) == losses(whole)[:12]
    run = start(tmp_path / "ids", plain if kind == "pair" else stored, 2).succeed()
    assert losses(run) == losses(whole)
    assert run.samples.read_bytes() == whole.samples.read_bytes()
    assert [line["tokens"] for line in read_lines(run.metrics)] == [
        line["tokens"] for line in read_lines(whole.metrics)
    ]
