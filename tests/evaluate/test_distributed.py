"""`jemb evaluate` in several real processes: the scores of one, each text encoded by one of them, errors said once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jemb.config import EvaluateConfig, ModelConfig
from jemb.evaluate import evaluate
from jemb.model import make_tiny
from tests.helpers.made_tasks import sentence, write_tasks
from tests.helpers.ranks import run_ranks, write_to

PATIENCE = 180


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder, first_query=1000)
    return [f"sts:{folder}/sts.jsonl", f"retrieval:{folder}/beir", f"negation:{folder}/negation.jsonl"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two encoders, of which the second cuts texts."""
    folder = tmp_path_factory.mktemp("models")
    for name, width, limit in (("wide", 32, 64), ("short", 16, 8)):
        config = ModelConfig(**{"hidden_size": width, "num_layers": 1, "num_heads": 2})
        make_tiny([sentence(i) for i in range(50)], config, seed=width, max_length=limit).save(folder / name)
    return [str(folder / "wide"), str(folder / "short")]


def run_rank(rank: int, arguments: Sequence[str], folder: Path, prelude: Any) -> None:
    write_to(folder / "output")
    from jemb.app.cli import run_command

    if prelude:
        prelude(rank, folder)
    sys.exit(run_command("evaluate", arguments))


def run_together(
    folder: Path, size: int, arguments: Sequence[str], prelude: Callable[[int, Path], None] | None = None
) -> tuple[list[int | None], str]:
    """(exit codes, what all wrote) of `jemb evaluate` in `size` processes."""
    folder.mkdir(exist_ok=True)
    codes = run_ranks(size, run_rank, arguments, folder, prelude, seconds=PATIENCE)
    return codes, (folder / "output").read_text()


def note_texts(rank: int, folder: Path) -> None:
    """Write down what each process encodes."""
    from jemb.evaluate.models import TextEncoder

    call = TextEncoder.__call__

    def noting(self: TextEncoder, texts: Sequence[str]) -> np.ndarray:
        with (folder / f"texts-{rank}").open("a") as file:
            file.write(json.dumps([self.encoder.dim, list(texts)]) + "\n")
        return call(self, texts)

    TextEncoder.__call__ = noting  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def alone(tasks: list[str], models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one process writes."""
    output = tmp_path_factory.mktemp("alone") / "scores.json"
    evaluate(EvaluateConfig(**{"model": [*models, "bm25"], "tasks": tasks[1:2], "output": str(output)}))
    retrieval = json.loads(output.read_text())
    evaluate(EvaluateConfig(**{"model": models, "tasks": tasks, "output": str(output)}))
    return json.loads(output.read_text()), retrieval


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, int | float) else []


def shape(value: Any) -> Any:
    return {key: shape(item) for key, item in value.items()} if isinstance(value, dict) else None


def assert_same(output: Path, expected: Any) -> None:
    found = json.loads(output.read_text())
    assert shape(found) == shape(expected)
    assert len(numbers(found)) > 10
    assert numbers(found) == pytest.approx(numbers(expected), abs=1e-5)  # percent, from fp32


@pytest.mark.slow
def test_scores_are_those_of_one_process(tmp_path: Path, tasks: list[str], models: list[str], alone: Any) -> None:
    """Three, so that texts do not come out even; two are in the next test."""
    size = 3
    arguments = [f"model=[{','.join(models)}]", f"tasks=[{','.join(tasks)}]", f"output={tmp_path / 'scores.json'}"]
    codes, said = run_together(tmp_path / "ranks", size, arguments, note_texts)
    assert codes == [0] * size, said
    assert_same(tmp_path / "scores.json", alone[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ranks", "report.html", "scores", "scores.json"]
    head = next(line for line in said.splitlines() if line.startswith("task"))
    assert said.count(head) == 1, "the table is printed once"
    shares = [
        [json.loads(line) for line in (tmp_path / "ranks" / f"texts-{rank}").read_text().splitlines()]
        for rank in range(size)
    ]
    counts = [sum(len(texts) for _, texts in share) for share in shares]
    assert len(set(counts)) == 1, "each process encodes as many texts"
    assert len(shares[0]) == len(models) * len(tasks)
    for calls in zip(*shares, strict=True):
        assert len({dim for dim, _ in calls}) == 1
        texts = [text for _, texts in calls for text in texts]
        assert len(texts) - len(set(texts)) < size, "no text is encoded by two, but to make the counts even"


@pytest.mark.slow
def test_torchrun(tmp_path: Path, tasks: list[str], models: list[str], alone: Any) -> None:
    """As it stands in the documentation. BM25 needs no encoder."""
    arguments = [f"model=[{','.join(models)},bm25]", f"tasks={tasks[1]}", f"output={tmp_path / 'scores.json'}"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "jemb.app.evaluate", *arguments], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "scores.json", alone[1])
    assert "ndcg_at_10" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("tasks=[sts:absent.jsonl]", "absent.jsonl: no such file"),
        ("model=absent-folder/model", "absent-folder/model"),
    ],
)
def test_mistakes_end_all_processes(
    tmp_path: Path, tasks: list[str], models: list[str], wrong: str, message: str
) -> None:
    arguments = [f"model={models[0]}", f"tasks={tasks[0]}", f"output={tmp_path / 'scores.json'}"]
    codes, said = run_together(tmp_path / "ranks", 2, [*arguments, wrong])
    assert codes == [2, 2]
    assert said.count(message) == 1
    assert "Traceback" not in said
    assert not (tmp_path / "scores.json").exists()


def kill_the_second(rank: int, folder: Path) -> None:
    from jemb.evaluate.models import TextEncoder

    if rank == 1:
        kill = partial(os.kill, os.getpid(), signal.SIGKILL)
        TextEncoder.__call__ = lambda *_: kill()  # type: ignore[assignment, method-assign]


def break_the_second(rank: int, folder: Path) -> None:
    from jemb.evaluate.models import TextEncoder

    def broken(*_: Any) -> np.ndarray:
        raise MemoryError("CUDA out of memory")

    if rank == 1:
        TextEncoder.__call__ = broken  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prelude", "reason"), [(kill_the_second, "lost process 1"), (break_the_second, "CUDA out of memory")]
)
def test_a_process_that_is_lost_ends_the_others(
    tmp_path: Path, tasks: list[str], models: list[str], prelude: Callable[[int, Path], None], reason: str
) -> None:
    arguments = [f"model={models[0]}", f"tasks={tasks[0]}", f"output={tmp_path / 'scores.json'}"]
    codes, said = run_together(tmp_path / "ranks", 2, arguments, prelude)
    assert codes[0] == 1, said
    assert codes[1] not in (0, None)
    assert reason in said
    assert "Start it again" in said
    assert not (tmp_path / "scores.json").exists()
