"""What a run leaves behind: logs, record, configuration, model folder."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import jemb
from jemb.core.errors import InputError
from jemb.core.records import Batch
from jemb.data import BatchPlan, PlanSource, StepDataset
from jemb.data.sampler import StepRows
from jemb.model import load_encoder
from jemb.run_folder import WEIGHTS, RunFolder, is_run
from jemb.shards import open_datasets
from jemb.train.logs import run_log
from jemb.train.logs.run_log import keep_steps
from jemb.train.logs.trackers import COLUMNS
from jemb.train.module import EmbeddingModule
from jemb.train.optim import Schedule, make_optimizer
from tests.helpers.training_runs import Training, read_lines, weights

Start = Callable[..., Training]


def test_metrics_of_each_step(pair_run: RunFolder) -> None:
    lines = read_lines(pair_run.metrics)
    assert pair_run.read_metrics() == lines
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert {line["dataset"] for line in lines} == {"answers", "all-titles.v2"}
    for line in lines:
        assert set(line) == set(COLUMNS)
        assert line["negatives_per_query"] == 7 - line["hidden_candidates"] / 8
        assert 0 <= line["padding_share"] < 1
        assert 0 < line["loss"] < 2 * 20 + 2 * math.log(8)
        assert line["grad_norm"] > 0
        assert 16 * 3 <= line["tokens"] <= 16 * 16
        assert 0 <= line["loader_wait_seconds"] < 60
        assert line["tokens_per_second"] > 0
        assert sum(line["loss_terms"].values()) == pytest.approx(line["loss"], rel=1e-6)


def test_token_counts_are_those_of_the_texts(pair_run: RunFolder, pair_shards: Path) -> None:
    """Those of the first step, counted by the tokenizer of the finished model; at most padded to the longest text."""
    keys = read_lines(pair_run.samples)[0]["ids"]
    samples = {sample.key: sample for reader in open_datasets(pair_shards).values() for sample in reader}
    tokenize = load_encoder(str(pair_run.path)).tokenize
    sides = [tokenize([getattr(samples[key], side) for key in keys]) for side in ("query", "positive")]
    line = read_lines(pair_run.metrics)[0]
    tokens = sum(int(side.lengths.sum()) for side in sides)
    assert line["tokens"] == tokens
    longest = max(int(side.lengths.max()) for side in sides)
    assert 0 <= line["padding_share"] <= 1 - tokens / (16 * longest)


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory, pair_options: list[str]) -> RunFolder:
    """Three steps in two processes, each text encoded by itself, no text hidden; time passes as `by_the_clock` says."""
    options = [*pair_options, "max_steps=3", "micro_batch_size=1", "mask_equal_texts=false", "trackers=[]"]
    folder = tmp_path_factory.mktemp("plain") / "run"
    return Training(folder, options, processes=2, prelude=by_the_clock).succeed()


def by_the_clock() -> None:
    """The log's clock goes 1/4 s on where a batch is read, 1/2 s in each step, and else stands still."""
    now = 0.0
    read, step = StepDataset.__getitems__, EmbeddingModule.training_step

    def take(seconds: float) -> None:
        nonlocal now
        now += seconds

    def timed_read(self: StepDataset, rows: StepRows) -> Batch:
        take(0.25)
        return read(self, rows)

    def timed_step(self: EmbeddingModule, batch: Batch, batch_idx: int) -> Tensor:
        take(0.5)
        return step(self, batch, batch_idx)

    StepDataset.__getitems__, EmbeddingModule.training_step = timed_read, timed_step
    run_log.time = SimpleNamespace(perf_counter=lambda: now, time=lambda: now)


def test_times(plain_run: RunFolder) -> None:
    """The wait for the loader is that, and the tokens of a second are those of the time between two lines."""
    for number, line in enumerate(read_lines(plain_run.metrics)):
        assert (line["time"], line["loader_wait_seconds"]) == (0.75 * (number + 1), 0.25)
        assert line["tokens"] / line["tokens_per_second"] == pytest.approx(0.75)


def test_texts_encoded_by_themselves_have_no_padding(plain_run: RunFolder, pair_run: RunFolder) -> None:
    assert {line["padding_share"] for line in read_lines(plain_run.metrics)} == {0}
    assert max(line["padding_share"] for line in read_lines(pair_run.metrics)) > 0
    assert {line["negatives_per_query"] for line in read_lines(plain_run.metrics)} == {7}
    assert {line["hidden_candidates"] for line in read_lines(plain_run.metrics)} == {0}


def test_loss_and_gradient_norm_by_the_formula(plain_run: RunFolder, pair_shards: Path) -> None:
    """Of the first step, from the model before it, in one process and without any of our losses (arXiv 2307.11224)."""
    line, batch = read_lines(plain_run.metrics)[0], read_lines(plain_run.samples)[0]
    samples = {sample.key: sample for sample in open_datasets(pair_shards)[batch["dataset"]]}
    encoder = load_encoder(str(plain_run.start), dropout=0.0).train()
    q = encoder(encoder.tokenize([samples[key].query for key in batch["ids"]]))
    p = encoder(encoder.tokenize([samples[key].positive for key in batch["ids"]]))
    scores = torch.exp(q @ p.T / 0.05)
    forward = -torch.log(scores.diag() / scores.sum(1)).mean()
    backward = -torch.log(scores.diag() / scores.sum(0)).mean()
    (forward + backward).backward()
    norm = math.sqrt(sum(float((w.grad.double() ** 2).sum()) for w in encoder.parameters() if w.grad is not None))
    assert line["loss"] == pytest.approx((forward + backward).item(), rel=1e-5)
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert line["loss_terms"] == pytest.approx(
        {"query_to_positive": forward.item(), "positive_to_query": backward.item()}, rel=1e-5
    )


def test_no_trackers(plain_run: RunFolder) -> None:
    assert not plain_run.metrics_csv.exists()
    assert not plain_run.tensorboard.exists()


def test_hidden_candidates_are_counted(pair_run: RunFolder, pair_shards: Path) -> None:
    """A pair (i, j) is hidden when one's texts are among the other's; counted here by comparing the texts."""
    samples = {sample.key: sample for reader in open_datasets(pair_shards).values() for sample in reader}
    for batch, line in zip(read_lines(pair_run.samples), read_lines(pair_run.metrics), strict=True):
        rows = [samples[key] for key in batch["ids"]]
        texts = [{row.query, row.positive} for row in rows]
        expected = sum(bool(texts[i] & texts[j]) for i in range(8) for j in range(8) if i != j)
        assert line["hidden_candidates"] == expected


def test_the_table_is_the_same(pair_run: RunFolder) -> None:
    with pair_run.metrics_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, line in zip(rows, read_lines(pair_run.metrics), strict=True):
        assert json.loads(row.pop("loss_terms")) == line["loss_terms"]
        assert row == {name: str(line[name]) for name in COLUMNS if name != "loss_terms"}


def test_tensorboard(pair_run: RunFolder) -> None:
    events = EventAccumulator(str(pair_run.tensorboard))
    events.Reload()
    shown = {event.step: event.value for event in events.Scalars("loss")}
    expected = {line["step"]: line["loss"] for line in read_lines(pair_run.metrics)}
    assert shown == pytest.approx(expected, rel=1e-6)
    assert "loss/answers" in events.Tags()["scalars"]


def test_samples_are_the_plans_batches(pair_run: RunFolder, pair_shards: Path) -> None:
    readers = open_datasets(pair_shards)
    sources = [PlanSource(name, len(reader), reader.manifest.fingerprint) for name, reader in readers.items()]
    plan = BatchPlan(sources, seed=0, global_batch_size=8)
    lines = read_lines(pair_run.samples)
    for step, line in enumerate(lines):
        name, rows = plan.batch(step)
        assert line == {"step": step + 1, "dataset": name, "ids": [readers[name].key(int(row)) for row in rows]}
    assert pair_run.read_record()["plan_fingerprint"] == plan.fingerprint


def test_record_and_configuration(pair_run: RunFolder, pair_shards: Path) -> None:
    assert is_run(pair_run.path)
    record = pair_run.read_record()
    assert record["jemb"] == jemb.__version__
    assert record["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert record["objective"] == "pairs"
    assert (record["status"], record["steps"], record["max_steps"]) == ("finished", 20, 20)
    assert [(entry["step"], entry["world_size"], entry["device"]) for entry in record["starts"]] == [(0, 1, "cpu")]
    answers = record["datasets"]["answers"]
    assert (answers["num_samples"], answers["kind"], answers["weight"]) == (50, "pairs", 1.0)
    assert answers["share"] == pytest.approx(50 / 77)
    assert answers["fingerprint"] == open_datasets(pair_shards)["answers"].manifest.fingerprint
    config = yaml.safe_load(pair_run.config.read_text())
    assert config["shards"] == str(pair_shards)
    assert config["model"]["hidden_size"] == 32
    assert config["temperature"] == 0.05


def test_the_models_of_start_and_end(pair_run: RunFolder) -> None:
    start, end = load_encoder(str(pair_run.start)), load_encoder(str(pair_run.path))
    assert start.dim == end.dim == 32
    changed = [name for name, value in end.state_dict().items() if not torch.equal(value, start.state_dict()[name])]
    assert len(changed) > 10
    state = load_file(pair_run.checkpoints()[-1][1] / WEIGHTS)
    assert all(torch.equal(state[name], value) for name, value in end.state_dict().items())


def test_learning_rate(pair_run: RunFolder) -> None:
    """20 steps, a tenth of them warm-up: 1/2, 1, then down by 1/18 a step, the last step still moving."""
    rates = [line["learning_rate"] / 2e-4 for line in read_lines(pair_run.metrics)]
    assert rates == pytest.approx([1 / 2, 1, *(share / 18 for share in range(18, 0, -1))])


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (Schedule("constant", 6, 3, 9), [2, 4, 6, 6, 6, 6, 6, 6, 6]),
        (Schedule("linear", 6, 0, 4), [6, 4.5, 3, 1.5]),
        (Schedule("linear", 6, 2, 2), [3, 6]),
        (Schedule("cosine", 6, 1, 5), [6, 6, 3 + 3 * 0.5**0.5, 3, 3 - 3 * 0.5**0.5]),
        (Schedule("wsd", 6, 2, 20), [3, *[6] * 18, 3]),
    ],
)
def test_schedules(schedule: Schedule, rates: list[float]) -> None:
    assert [schedule.rate(step) for step in range(len(rates))] == pytest.approx(rates)


def test_a_schedule_without_an_end_is_refused() -> None:
    with pytest.raises(InputError, match="schedule=linear has to know where it ends"):
        Schedule("linear", 1.0).ending_at(-1)
    with pytest.raises(InputError, match="schedule=steps: wanted one of constant, linear, cosine, wsd"):
        Schedule("steps", 1.0)


def test_biases_and_norms_do_not_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    groups = make_optimizer(model, learning_rate=0.1, weight_decay=0.5).param_groups
    shapes = {group["weight_decay"]: [tuple(p.shape) for p in group["params"]] for group in groups}
    assert shapes == {0.5: [(4, 3)], 0.0: [(4,), (4,), (4,)]}


def test_lines_after_a_checkpoint_are_cut(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    keep_steps(file, 3)
    assert not file.exists()
    whole = ['{"step": 1, "x": "ü"}\n', '{"step": 2}\n', '{"step": 3}\n']
    for text, last, kept in (
        ("".join(whole), 3, whole),
        ("".join(whole), 2, whole[:2]),
        ("".join(whole), 0, []),
        ("".join(whole) + '{"step": 4, "lo', 9, whole),
        ("".join(whole) + '{"step": 4, "lo', 3, whole),
        ("", 5, []),
    ):
        file.write_text(text)
        keep_steps(file, last)
        assert file.read_text() == "".join(kept)


def test_lines_that_are_none_are_kept_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "lines.jsonl"
    none = [b"\0\0\0", b"[1]", b'{"step": "2"}', b'{"x": 1}', b"\xff", b"[" * 99_999]
    file.write_bytes(b"\n".join([b'{"step": 1, "x": "\xc3\xbc"}', *none, b'{"step": 8}', b'{"step": 9']))
    before = file.read_bytes()
    keep_steps(file, 9, every=True)
    assert file.read_text() == '{"step": 1, "x": "ü"}\n{"step": 8}\n'
    (aside,) = tmp_path.glob("damaged-*")
    assert aside.read_bytes() == before
    assert "line 2 cannot be read, 6 in all" in caplog.text
    assert "has no lines of 7 of the steps up to the checkpoint's, 9 (the first is step 2)" in caplog.text


def test_the_triplet_phase_starts_from_a_run(
    tmp_path: Path, start: Start, pair_run: RunFolder, triplet_options: list[str]
) -> None:
    options = [option for option in triplet_options if not option.startswith(("model.", "max_length"))]
    training = start(tmp_path / "run", [*options, f"init={pair_run.path}"])
    run = training.succeed()
    assert (run.start / "model.safetensors").read_bytes() == weights(pair_run)
    assert (run.start / "tokenizer.json").read_bytes() == (pair_run.model / "tokenizer.json").read_bytes()
    assert weights(run) != weights(pair_run)
    assert run.read_record()["init"] == str(pair_run.path)
    assert [line["learning_rate"] for line in read_lines(run.metrics)][1] == 2e-5
    assert {line["negatives_per_query"] + line["hidden_candidates"] / 8 for line in read_lines(run.metrics)} == {7 + 16}


def test_one_pass_when_no_number_of_steps_is_given(tmp_path: Path, start: Start, pair_options: list[str]) -> None:
    """77 samples in batches of 8: ten steps."""
    run = start(tmp_path / "run", [*pair_options, "max_steps=null"]).succeed()
    assert len(read_lines(run.metrics)) == 10
    assert run.read_record()["max_steps"] == 10


def test_pairs_of_triplet_shards(tmp_path: Path, start: Start, pair_options: list[str], triplet_shards: Path) -> None:
    run = start(tmp_path / "run", [*pair_options, f"shards={triplet_shards}", "max_steps=3"]).succeed()
    assert {line["negatives_per_query"] + line["hidden_candidates"] / 8 for line in read_lines(run.metrics)} == {7}
