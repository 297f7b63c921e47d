"""`dry_run=true`: the arithmetic of a real run, the memory that a process really takes, and no trace."""

from __future__ import annotations

import ctypes
import gc
import re
import shlex
import sys
from pathlib import Path

import pytest

from jemb.app.cli import main
from jemb.config import ModelConfig
from jemb.core.records import Sample
from jemb.model import Encoder, make_tiny
from jemb.run_folder import RunFolder
from jemb.shards import write_dataset
from jemb.train.dry_run import kept_for_backward
from tests.helpers.training_runs import Training, read_lines


def show(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["train", *options, "dry_run=true"]) == 0
    return capsys.readouterr().out


def test_arithmetic_is_that_of_a_real_run(
    tmp_path: Path, pair_options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes, as the launcher's variable says: shares, passes and sizes against the run's own records."""
    run = RunFolder(tmp_path / "run")
    options = [f"output={run.path}", *pair_options, "micro_batch_size=3"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    text = show(capsys, *options)
    assert not run.path.exists()
    monkeypatch.delenv("WORLD_SIZE")
    Training(run.path, options[1:], 2).succeed()

    lines = read_lines(run.metrics)
    assert f"{len(lines)} steps; run folder {run.path}" in text
    ids = [line["ids"] for line in read_lines(run.samples)]
    assert f"global batch of {len(ids[0])}: 2 processes with {len(ids[0]) // 2} samples each" in text
    assert "per process: 8 texts a step" in text
    assert "micro batch: 3 texts at once, in 3 calls of the encoder" in text
    for name, record in run.read_record()["datasets"].items():
        count = record["num_samples"]
        batches = sum(line["dataset"] == name for line in lines)
        share, passes = re.search(
            rf"data set {name}: {count} samples, ([\d.]+) % of the batches, ([\d.]+) passes", text
        ).groups()  # type: ignore[union-attr]
        assert float(passes) == pytest.approx(batches * len(ids[0]) / count, abs=0.005)
        assert float(share) / 100 == pytest.approx(record["share"], abs=0.0005)
    assert f"20 steps, of which 20 are done; run folder {run.path}" in show(capsys, *options)


def test_refuses_what_training_refuses(
    tmp_path: Path, pair_options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(["train", f"output={tmp_path / 'run'}", *pair_options, "dry_run=true"]) == 2
    assert "global_batch_size=8 cannot be divided among 3 processes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["tokens=nowhere"], "nowhere/"),
        (["trackers=[wandb]"], "wandb"),
        (["evaluation.tasks=[sts:nowhere.jsonl]"], "nowhere.jsonl"),
        (["matryoshka_widths=[100000]"], "matryoshka_widths: got 100000"),
    ],
)
def test_refuses_what_training_would_meet_later(
    options: list[str],
    message: str,
    tmp_path: Path,
    pair_options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    for dry in (["dry_run=true"], []):
        assert main(["train", f"output={tmp_path / 'run'}", *pair_options, *options, *dry]) == 2
        assert message in capsys.readouterr().err
    assert not RunFolder(tmp_path / "run").record.exists()


def test_the_command_is_the_one_that_starts_it(
    tmp_path: Path, pair_options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"output={tmp_path / 'run'}", *pair_options]
    monkeypatch.setattr(sys, "argv", ["jemb", "train", "cache_dir=s3://me:secret@host/x?token=secret"])
    assert "secret" not in show(capsys, *options)
    for dry in ("dry_run=true", "--dry_run=true", "dry_run=True"):
        given = ["train", *options, dry]
        monkeypatch.setattr(sys, "argv", ["jemb", *given])
        assert main(given) == 0
        assert f"command: jemb train {shlex.join(options)}\n" in capsys.readouterr().out
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    assert "2 processes with 4 samples each" in show(capsys, *options)
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert show(capsys, *options) == ""


@pytest.mark.parametrize(
    ("strategy", "weights", "gradients", "adamw"),
    [
        ("ddp", 4, 4, 8),
        ("deepspeed_1", 4, 4, 12 / 4),
        ("deepspeed_2", 4, 4 / 4, 12 / 4),
        ("deepspeed_3", 4 / 4, 4 / 4, 12 / 4),
        ("fsdp", 4 / 4, 4 / 4, 8 / 4),
    ],
)
def test_states_of_each_strategy(
    strategy: str,
    weights: float,
    gradients: float,
    adamw: float,
    tmp_path: Path,
    pair_options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Bytes a number of the model, on four processes: ZeRO's table (arXiv 1910.02054, figure 1) for fp32."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    text = show(capsys, f"output={tmp_path / 'run'}", *pair_options, "model.hidden_size=128", f"strategy={strategy}")
    numbers = int(re.search(r"4 bytes x ([\d,]+) numbers", text)[1].replace(",", ""))  # type: ignore[index]
    found = {name: float(value) for name, value in re.findall(r"(weights|gradients|AdamW) +([\d.]+) MB", text)}
    head = 128 * 129  # of BERT's pooler, which is not trained
    assert found["weights"] == pytest.approx(weights * numbers / 1e6, abs=0.06)
    assert found["gradients"] == pytest.approx(gradients * (numbers - head) / 1e6, abs=0.06)
    assert found["AdamW"] == pytest.approx(adamw * (numbers - head) / 1e6, abs=0.06)


def encoder() -> Encoder:
    config = ModelConfig(hidden_size=64, num_layers=2, vocab_size=400)
    return make_tiny(["some words to learn"], config, seed=0, max_length=64).train()


def test_kept_for_backward_by_hand() -> None:
    """One linear layer keeps its input; that of a text is as large as that of every other."""
    one, two, three = (kept_for_backward(encoder(), rows, 32, half=False) for rows in (1, 2, 3))
    assert two - one == three - two > 0
    half = kept_for_backward(encoder(), 2, 32, half=True) - kept_for_backward(encoder(), 1, 32, half=True)
    assert 0.4 < half / (two - one) < 0.9, "what the norms and the pooling keep stays fp32"


@pytest.fixture(scope="module")
def long_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of texts longer than any `max_length` here."""
    folder = tmp_path_factory.mktemp("long") / "long"
    more = "word " * 99
    samples = [Sample(f"{number}", f"query {number} {more}", f"positive {number} {more}") for number in range(64)]
    write_dataset(folder, "long", samples, 64)
    return folder


def peak_of(options: list[str]) -> float:
    """MB by which a real run of three steps, in this process, raises its resident set at the worst moment."""

    def read(name: str) -> int:
        return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])  # type: ignore[index]

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = read("VmRSS")
    assert main(["train", *options]) == 0
    return (read("VmHWM") - before) * 1024 / 1e6


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_what_a_process_takes(tmp_path: Path, long_texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a whole batch takes more than a micro batch of an eighth, to two fifths; what glibc keeps is not in it."""
    sizes = ["model.hidden_size=256", "model.num_layers=2", "model.vocab_size=400", "max_length=96"]
    options = [f"shards={long_texts}", "workers=0", "max_steps=1", "global_batch_size=32", "trackers=[]", "device=cpu"]
    small = ["model.hidden_size=16", "model.num_layers=1", "model.vocab_size=400", "max_length=8"]
    peak_of([f"output={tmp_path / 'first'}", *options, *small])  # whatever libraries load
    found = []
    for micro in ("8", "null"):
        mine = [f"output={tmp_path / micro}", *options, *sizes, f"micro_batch_size={micro}"]
        estimate = float(re.search(r"together +([\d.]+) MB", show(capsys, *mine))[1])  # type: ignore[index]
        found.append((estimate, peak_of(mine)))
    (low, low_peak), (high, high_peak) = found
    assert high - low > 100
    assert high_peak - low_peak == pytest.approx(high - low, rel=0.4)
    assert low < low_peak
    assert high < 1.1 * high_peak
