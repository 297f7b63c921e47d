"""Training without padding does to the weights what training with it does, on any number of processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import zoo
from jemb.app.cli import run_command
from jemb.model import load_encoder
from jemb.run_folder import RunFolder
from tests.helpers.ranks import on_ranks
from tests.helpers.strategy_ranks import distance, run_packed
from tests.helpers.training_runs import read_lines

ARCHITECTURES = ["BERT", "RoBERTa", "ModernBERT", "Qwen3", "T5 encoder"]
WAYS = {1: ("off", "on"), 2: ("on",), 4: ("on",)}
"""By number of processes."""
PROMPTS = {"query": "find: ", "document": "the passage that follows: "}


@pytest.mark.slow
def test_five_architectures_on_one_two_and_four_processes(tmp_path: Path) -> None:
    """With prompts, that of BERT left out of pooling, and gradient caching: the losses of three steps of SGD, and the
    norms of their gradients."""
    encoders = {}
    for name in ARCHITECTURES:
        head = "weighted mean, prompt left out" if name == "BERT" else "mean"
        folder = zoo.with_head(tmp_path / name, zoo.plain(tmp_path / f"plain {name}", name), head, prompts=PROMPTS)
        encoders[name] = load_encoder(str(folder), dropout=0)
    found = {size: on_ranks(tmp_path / str(size), size, run_packed, encoders, *WAYS[size]) for size in WAYS}
    padded = {name: outcomes["off"] for name, outcomes in found[1][0].items()}
    for size, ranks in found.items():
        for outcomes in ranks:
            for name, expected in padded.items():
                seen = outcomes[name]["on"]
                assert seen.losses[0] == pytest.approx(expected.losses[0], rel=1e-6), (name, size)
                assert seen.norms[0] == pytest.approx(expected.norms[0], rel=3e-6), (name, size)
                # Rounding grows from step to step, and small changes of numbers of fp32 are rounded.
                assert seen.losses == pytest.approx(expected.losses, rel=1e-5), (name, size)
                assert distance(seen, expected) <= 1e-4, (name, size)


@pytest.mark.slow
def test_what_is_compiled_on_one_and_two_processes(tmp_path: Path) -> None:
    """With gradient caching. On two, DDP averages what the compiled backward gives it."""
    encoders = {}
    for name in ("BERT", "T5 encoder"):
        zoo.plain(tmp_path / name, name)
        encoders[name] = load_encoder(str(tmp_path / name), dropout=0)
    found = {size: on_ranks(tmp_path / str(size), size, run_packed, encoders, "off", "compiled") for size in (1, 2)}
    for size, ranks in found.items():
        for outcomes in ranks:
            for name, seen in outcomes.items():
                padded = found[1][0][name]["off"]
                assert seen["compiled"].losses[0] == pytest.approx(padded.losses[0], rel=1e-6), (name, size)
                assert seen["compiled"].norms[0] == pytest.approx(padded.norms[0], rel=3e-6), (name, size)
                assert seen["compiled"].losses == pytest.approx(padded.losses, rel=1e-5), (name, size)
                assert distance(seen["compiled"], padded) <= 1e-4, (name, size)


def test_the_command(
    tmp_path: Path, pair_options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run with padding goes on without it, and has no padding from there on, and then compiled; an architecture
    that cannot do it is refused before anything is written."""
    monkeypatch.setattr("jemb.model.packed.compiled.BACKEND", "aot_eager")
    run = RunFolder(tmp_path / "run")
    options = [*pair_options, f"output={run.path}"]
    assert run_command("train", [*options, "checkpoint_every=4", "max_steps=4", "schedule=constant"]) == 0
    on = [*options, "checkpoint_every=4", "max_steps=8", "schedule=constant", "model.packing=on"]
    assert run_command("train", on) == 0
    shares = [line["padding_share"] for line in read_lines(run.metrics)]
    assert shares[:4] != [0] * 4
    assert shares[4:] == [0] * 4
    assert run_command("train", [*on, "max_steps=10", "model.compile=true", "micro_batch_tokens=800"]) == 0
    last = read_lines(run.metrics)[8:]
    assert [line["tokens"] / (1 - line["padding_share"]) % 100 for line in last] == pytest.approx([0, 0], abs=1e-6)
    capsys.readouterr()
    folder = zoo.plain(tmp_path / "MPNet", "MPNet")
    refused = ["workers=0", f"model.path={folder}", f"output={tmp_path / 'no'}", "model.packing=on"]
    assert run_command("train", [pair_options[5], *refused]) == 2
    assert f"{folder}: model.packing=on: MPNetModel cannot be packed" in capsys.readouterr().err
    assert not list((tmp_path / "no").glob("[!.]*"))
