"""Evaluation while training: it finds the best step, ends a run that gets no better, and changes nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jemb.config import EvaluationConfig
from jemb.evaluate import load_task
from jemb.evaluate.models import TextEncoder
from jemb.model import encode, load_encoder
from jemb.run_folder import OPTIMIZER, WEIGHTS, RunFolder
from jemb.shards import open_datasets
from jemb.train import evaluation as module
from jemb.train.checkpoints import Checkpoints
from jemb.train.evaluation import EvaluateInLoop
from jemb.train.module import EmbeddingModule
from jemb.train.strategies.choice import FSDP_ON_CPU
from tests.helpers.training_runs import Training, losses, read_lines, weights

Start = Callable[..., Training]

STRATEGIES = [("single", 1), ("ddp", 2), ("deepspeed_2", 2), ("deepspeed_3", 3)]
STRATEGIES += [("fsdp", 2)] if FSDP_ON_CPU else []
"""To an evaluation, deepspeed_1 is what deepspeed_2 is: it cuts up other states of the optimiser."""
EVERY = 4
STEPS = [0, 4, 8, 12, 16, 20]


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory, pair_shards: Path) -> str:
    """A task that says the contrary of the training data: pairs are unlike, strangers alike. So the first evaluation
    is the best, and every later one is worse."""
    samples = [sample for reader in open_datasets(pair_shards).values() for sample in reader]
    rows = [{"sentence1": s.query, "sentence2": s.positive, "score": 0} for s in samples]
    strangers = zip(samples, samples[9:] + samples[:9], strict=True)
    rows += [{"sentence1": s.query, "sentence2": other.positive, "score": 1} for s, other in strangers]
    path = tmp_path_factory.mktemp("tasks") / "worse.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"sts:{path}"


@pytest.fixture(scope="module")
def negation(tmp_path_factory: pytest.TempPathFactory, pair_shards: Path) -> str:
    samples = [sample for reader in open_datasets(pair_shards).values() for sample in reader][:20]
    rows = [{"anchor": s.query, "entailment": s.positive, "negative": f"no {s.positive}"} for s in samples]
    path = tmp_path_factory.mktemp("tasks") / "negation.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"negation:{path}"


@pytest.fixture(scope="module")
def options(pair_options: list[str], worse: str, negation: str) -> list[str]:
    """Evaluations every 4 of 20 steps, of which the first must be the best."""
    tasks = [f"evaluation.tasks=[{worse},{negation}]", f"evaluation.metric={worse}/spearman"]
    return [*pair_options, *tasks, f"evaluation.every={EVERY}", "learning_rate=2e-3", "keep_checkpoints=1"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, options: list[str]) -> RunFolder:
    """Not to be written to."""
    return Training(tmp_path_factory.mktemp("undisturbed") / "run", options).succeed()


def evaluations(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of evaluations.jsonl without what differs by nature."""
    return [{k: v for k, v in line.items() if k not in ("time", "seconds")} for line in read_lines(run.evaluations)]


def state(run: RunFolder, step: int) -> list[bytes]:
    """Weights and moments of a checkpoint."""
    return [(run.checkpoint_folder / f"step-{step:08d}" / name).read_bytes() for name in (WEIGHTS, OPTIMIZER)]


def score_checkpoint(run: RunFolder, folder: Path | None, task: str) -> Mapping[str, float]:
    """As `jemb evaluate` scores it: one process, in which nothing was trained. None: the start."""
    encoder = load_encoder(str(run.start))
    if folder:
        encoder.load_state_dict(load_file(folder / WEIGHTS))
    return load_task(task).score(partial(encode, encoder))


def unequal_batches() -> None:
    """A prelude: the second process needs more calls of the encoder for its texts than the others."""
    if os.environ.get("RANK") == "1":
        sys.modules["jemb.model.encode"].BATCH_TOKENS["cpu"] = 32  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "size"), STRATEGIES)
def test_training_is_the_same_and_scores_are_those_of_one_process(
    tmp_path: Path, start: Start, options: list[str], worse: str, negation: str, strategy: str, size: int
) -> None:
    """To the last bit, with dropout, also in the optimiser; the scores are those of the checkpoints."""
    common = [f"strategy={strategy}", "model.dropout=0.2", "global_batch_size=6", "keep_checkpoints=100"]
    common += ["checkpoint_every=5", "learning_rate=2e-3", "max_steps=8"]
    plain = [option for option in options if not option.startswith(("evaluation", "keep", "learning", "global"))]
    without = start(tmp_path / "without", [*plain, *common], size).succeed()
    run = start(tmp_path / "with", [*options, *common], size, prelude=unequal_batches).succeed()
    assert run.samples.read_bytes() == without.samples.read_bytes()
    assert losses(run) == losses(without)
    for step in (5, 8):
        assert state(run, step) == state(without, step)
    lines = read_lines(run.evaluations)
    assert [line["step"] for line in lines] == [0, 4, 8]
    assert [step for step, _ in run.checkpoints()] == [4, 5, 8]
    folders: dict[int, Path | None] = {0: None, **dict(run.checkpoints())}
    for line in lines:
        for task in (worse, negation):
            expected = score_checkpoint(run, folders[line["step"]], task)
            assert line["scores"][task] == pytest.approx(expected, abs=1e-4)
        assert line["value"] == line["scores"][worse]["spearman"]
        assert line["metric"] == f"{worse}/spearman"


def test_bf16(tmp_path: Path, start: Start, options: list[str], worse: str) -> None:
    """Training computes in bf16, evaluation in fp32 as `jemb evaluate` does."""
    common = ["precision=bf16", "keep_checkpoints=100"]
    plain = [option for option in options if not option.startswith("evaluation")]
    without = start(tmp_path / "without", [*plain, *common]).succeed()
    run = start(tmp_path / "with", [*options, *common]).succeed()
    assert losses(run) == losses(without)
    assert state(run, 20) == state(without, 20)
    last = read_lines(run.evaluations)[-1]["scores"][worse]
    assert last == pytest.approx(score_checkpoint(run, run.checkpoints()[-1][1], worse), abs=1e-4)


def test_the_model_is_that_of_the_best_step(
    tmp_path: Path, start: Start, undisturbed: RunFolder, options: list[str]
) -> None:
    values = {line["step"]: line["value"] for line in read_lines(undisturbed.evaluations)}
    del values[0]
    assert max(values, key=lambda step: values[step]) == 4, "the first is the best, or this test shows nothing"
    assert [step for step, _ in undisturbed.checkpoints()] == [4, 20], "the best is kept beside the newest"
    record = undisturbed.read_record()
    assert (record["status"], record["steps"], record["model_step"]) == ("finished", 20, 4)
    assert record["model_chosen"].startswith("the best of 5 evaluations: sts:")
    assert record["stopped_early"] is None
    best = load_file(undisturbed.checkpoints()[0][1] / WEIGHTS)
    for name, value in load_encoder(str(undisturbed.path)).state_dict().items():
        assert value.equal(best[name]), name
    copied = RunFolder(shutil.copytree(undisturbed.path, tmp_path / "run"))
    before = weights(copied), copied.model.stat().st_mtime_ns
    again = start(copied.path, options)
    assert "already finished" in (again.succeed() and again.output)
    assert (weights(copied), copied.model.stat().st_mtime_ns) == before


@pytest.mark.parametrize("before", [50.0, 30.0])
def test_training_that_does_not_help_is_said(tmp_path: Path, before: float) -> None:
    task = SimpleNamespace(name="sts:dev", main="spearman")
    evaluations = EvaluateInLoop(RunFolder(tmp_path), EvaluationConfig(tasks=["sts:dev"]), every=1, stop=3)
    evaluations.tasks = [task]  # type: ignore[list-item]
    lines = [
        {"step": i, "value": v, "scores": {"sts:dev": {"spearman": v}}} for i, v in enumerate([before, 41.0, 43.0])
    ]
    RunFolder(tmp_path).evaluations.write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = evaluations.standing()
    assert best is not None
    worse = "; all of them are worse than 50.0000, which it was before the first step" if before == 50 else ""
    assert evaluations.describe_choice(best) == f"the best of 2 evaluations: sts:dev/spearman = 43.0000{worse}"
    worse = ", worse than the 50.00 before the first step" if before == 50 else ""
    assert evaluations.describe(lines[2]).endswith(f"= 43.00 (the best of 2{worse})")


def test_what_is_said(tmp_path: Path, start: Start, options: list[str], worse: str) -> None:
    training = start(tmp_path / "run", options)
    run = training.succeed()
    lines = {line["step"]: line for line in read_lines(run.evaluations)}
    assert f"evaluation before the first step: {worse}/spearman = {lines[0]['value']:.2f}\n" in training.output
    told = f"{lines[8]['value']:.2f} (best {lines[4]['value']:.2f}, step 4 of 2)"
    assert f"evaluation after step 8: {worse}/spearman = {told}" in training.output
    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    for tag in ("evaluation", f"evaluation/{worse}/spearman"):
        assert [event.step for event in events.Scalars(tag)] == STEPS
        assert [event.value for event in events.Scalars(tag)] == pytest.approx([lines[s]["value"] for s in STEPS])
    assert len(read_lines(run.metrics)) == 20, "an evaluation is no step"


def test_the_mean_of_the_main_metrics_chooses(
    tmp_path: Path, start: Start, pair_options: list[str], worse: str, negation: str
) -> None:
    """Unless another is named; and as often as checkpoints are written, unless told how often."""
    options = [*pair_options, f"evaluation.tasks=[{worse},{negation}]", "checkpoint_every=8"]
    run = start(tmp_path / "run", options).succeed()
    lines = read_lines(run.evaluations)
    assert [line["step"] for line in lines] == [0, 8, 16, 20]
    for line in lines:
        assert line["metric"] == f"mean of {worse}/spearman, {negation}/hard_negation"
        parts = line["scores"][worse]["spearman"], line["scores"][negation]["hard_negation"]
        assert line["value"] == pytest.approx(sum(parts) / 2)


def test_early_stop(tmp_path: Path, start: Start, options: list[str], undisturbed: RunFolder) -> None:
    """Two evaluations without a better one; then the run is finished, and stays so until it is told otherwise."""
    patient = [*options, "evaluation.patience=2"]
    run = start(tmp_path / "run", patient).succeed()
    assert evaluations(run) == evaluations(undisturbed)[:4]
    assert losses(run) == losses(undisturbed)[:12]
    record = run.read_record()
    assert (record["status"], record["steps"], record["model_step"]) == ("finished", 12, 4)
    assert "has not been better than the" in record["stopped_early"]
    assert "of step 4 in the 2 evaluations since (evaluation.patience=2)" in record["stopped_early"]
    assert weights(run) == weights(undisturbed)
    kept = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert "already finished" in ((again := start(run.path, patient)).succeed() and again.output)
    for path, content in kept.items():
        if path not in (run.record, run.config):
            assert path.read_bytes() == content, path
    assert (run.read_record()["status"], run.read_record()["steps"]) == ("finished", 12)
    assert run.read_record()["stopped_early"] == record["stopped_early"]
    start(run.path, [*options, "evaluation.patience=3"]).succeed()
    assert (len(losses(run)), run.read_record()["steps"]) == (16, 16)
    start(run.path, options).succeed()
    assert evaluations(run) == evaluations(undisturbed)
    assert losses(run) == losses(undisturbed)
    assert run.read_record()["stopped_early"] is None


def killed(at: str, step: int) -> None:
    """Patch this process so that it is killed around the evaluation of `step`."""

    def kill(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    evaluate = module.EvaluateInLoop.evaluate

    def killed_evaluate(self: module.EvaluateInLoop, number: int, *arguments: Any, **more: Any) -> dict[str, Any]:
        if number != step:
            return evaluate(self, number, *arguments, **more)
        if at == "before":
            kill()
        if at == "inside":
            TextEncoder.__call__ = kill  # type: ignore[assignment, method-assign]
        line = evaluate(self, number, *arguments, **more)
        if at == "in the line":
            content = self.run.evaluations.read_bytes()
            self.run.evaluations.write_bytes(content[:-20])
        kill()
        return line

    def killed_prune(self: Checkpoints) -> None:
        if any(line["step"] == step for line in self.run.read_evaluations()):
            kill()
        prune(self)

    prune = Checkpoints.prune
    if at == "at the clearing up":
        Checkpoints.prune = killed_prune  # type: ignore[method-assign]
    else:
        module.EvaluateInLoop.evaluate = killed_evaluate  # type: ignore[method-assign]


MOMENTS = ["before", "inside", "in the line", "after the line", "at the clearing up"]


@pytest.mark.parametrize("step", [pytest.param(8, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.soak)])
@pytest.mark.parametrize("at", MOMENTS)
def test_killed_around_an_evaluation(
    tmp_path: Path, start: Start, options: list[str], undisturbed: RunFolder, at: str, step: int
) -> None:
    training = start(tmp_path / "run", options, prelude=partial(killed, at, step))
    assert training.wait() == [-signal.SIGKILL]
    run = start(tmp_path / "run", options).succeed()
    assert evaluations(run) == evaluations(undisturbed)
    assert losses(run) == losses(undisturbed)
    assert weights(run) == weights(undisturbed)
    assert [step for step, _ in run.checkpoints()] == [4, 20]
    assert run.read_record()["model_step"] == 4


@pytest.mark.slow
def test_killed_before_the_evaluation_that_ends_the_run(
    tmp_path: Path, start: Start, options: list[str], undisturbed: RunFolder
) -> None:
    patient = [*options, "evaluation.patience=2"]
    for at in ("before", "after the line"):
        run = start(tmp_path / at, patient, prelude=partial(killed, at, 12))
        assert run.wait() == [-signal.SIGKILL]
        record = start(tmp_path / at, patient).succeed().read_record()
        assert (record["status"], record["steps"], record["model_step"]) == ("finished", 12, 4)
        assert evaluations(run.run) == evaluations(undisturbed)[:4]


def kill_the_second() -> None:
    if os.environ["RANK"] == "1":
        killed("inside", 8)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp" if FSDP_ON_CPU else "deepspeed_3"])
def test_one_of_two_processes_killed_while_it_encodes(
    tmp_path: Path, start: Start, options: list[str], strategy: str
) -> None:
    """The other one notices, and the same command goes on to what an undisturbed run of two finds."""
    options = [*options, f"strategy={strategy}", "max_steps=12"]
    training = start(tmp_path / "run", options, 2, prelude=kill_the_second)
    codes = training.wait()
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, 2)
    assert "process 1" in training.output
    assert [line["step"] for line in read_lines(training.run.evaluations)] == [0, 4]
    run = start(tmp_path / "run", options, 2).succeed()
    expected = start(tmp_path / "undisturbed", options, 2).succeed()
    assert evaluations(run) == evaluations(expected)
    assert weights(run) == weights(expected)


def stop_in_step_8() -> None:
    step = EmbeddingModule.training_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        if batch.step == 7:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, batch_idx)

    EmbeddingModule.training_step = training_step  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_asked_to_stop_at_a_step_that_is_due(
    tmp_path: Path, start: Start, options: list[str], undisturbed: RunFolder, processes: int
) -> None:
    """Whoever asks does not wait for an evaluation; the next start makes up for it."""
    run = start(tmp_path / "run", options, processes, prelude=stop_in_step_8).succeed()
    assert run.read_record()["status"] == "stopped"
    assert [line["step"] for line in read_lines(run.evaluations)] == [0, 4]
    start(tmp_path / "run", options, processes).succeed()
    assert [line["step"] for line in read_lines(run.evaluations)] == STEPS
    if processes == 1:
        assert evaluations(run) == evaluations(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("evaluation.tasks=[sts:absent.jsonl]", "absent.jsonl: no such file"),
        ("evaluation.tasks=[stss:a.jsonl]", "did you mean 'sts'"),
        ("evaluation.metric={worse}/spearmann", "gives no 'spearmann', but spearman, pearson"),
    ],
)
def test_a_mistake_costs_no_step(
    tmp_path: Path, start: Start, pair_options: list[str], worse: str, processes: int, wrong: str, message: str
) -> None:
    options = [*pair_options, f"evaluation.tasks=[{worse}]", wrong.format(worse=worse)]
    training = start(tmp_path / "run", options, processes)
    assert training.wait() == [2] * processes
    assert message in training.output
    assert not read_lines(training.run.metrics)
    assert not read_lines(training.run.evaluations)


def test_other_tasks_when_a_run_goes_on(
    tmp_path: Path, start: Start, options: list[str], pair_options: list[str], worse: str, negation: str
) -> None:
    """Only evaluations that have the metric asked for are compared."""
    first = [*pair_options, f"evaluation.tasks={negation}", "max_steps=10", "checkpoint_every=4", "schedule=constant"]
    run = start(tmp_path / "run", first).succeed()
    assert run.read_record()["model_chosen"].startswith("the best of 3 evaluations: negation:")
    more = [*pair_options, f"evaluation.tasks={worse}", "checkpoint_every=4", "schedule=constant"]
    start(tmp_path / "run", more).succeed()
    assert [line["step"] for line in read_lines(run.evaluations)] == [0, 4, 8, 10, 12, 16, 20]
    assert run.read_record()["model_chosen"].startswith("the best of 3 evaluations: sts:")
    assert run.read_record()["model_step"] in (12, 16, 20)
    start(tmp_path / "run", [*pair_options, "schedule=constant", "checkpoint_every=4"]).succeed()
    assert (run.read_record()["model_step"], run.read_record()["model_chosen"]) == (20, None)


def test_a_damaged_best_checkpoint_is_not_missed(tmp_path: Path, start: Start, options: list[str]) -> None:
    """The best of those that are there becomes the model."""
    training = start(tmp_path / "run", [*options, "max_steps=16"], prelude=partial(killed, "before", 16))
    training.wait()
    run = training.run
    (run.checkpoint_folder / "step-00000004").rename(tmp_path / "gone")
    start(tmp_path / "run", [*options, "max_steps=16"]).succeed()
    kept = {step for step, _ in run.checkpoints()}
    values: Sequence[tuple[float, int]] = [
        (line["value"], line["step"]) for line in read_lines(run.evaluations) if line["step"] in kept
    ]
    assert run.read_record()["model_step"] == max(values)[1]
