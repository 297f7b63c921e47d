"""What a run keeps of its scores: of its newest model only, and none is lost when several commands end at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jemb.core.errors import InputError
from jemb.run_folder import RunFolder

KEEP = """
import sys
from pathlib import Path
from jemb.core.errors import InputError
from jemb.run_folder import RunFolder
run = RunFolder(Path(sys.argv[1]))
identity = run.model_identity()
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    run.keep_scores({f"task {sys.argv[2]}-{number}": {"spearman": float(number)}}, identity)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.model.mkdir(parents=True)
    set_model(run, step=10)
    return run


def set_model(run: RunFolder, step: int) -> None:
    (run.model / "model.safetensors").write_bytes(b"weights of step %d" % step)
    run.record.write_text(json.dumps({"model_step": step}))


def test_processes_at_once_lose_nothing(run: RunFolder) -> None:
    commands = [[sys.executable, "-c", KEEP, str(run.path), str(number)] for number in range(3)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for command in commands]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert len(run.read_scores()) == 60


def test_scores_of_an_older_model_go(run: RunFolder) -> None:
    first = run.model_identity()
    run.keep_scores({"a": {"spearman": 1.0}}, first)
    run.keep_scores({"b": {"spearman": 2.0}}, first)
    assert run.read_scores() == {"a": {"spearman": 1.0}, "b": {"spearman": 2.0}}
    assert json.loads(run.scores.read_text())["model"] == {"step": 10, "sha256": first}
    set_model(run, step=20)
    assert run.read_scores() == {}
    run.keep_scores({"b": {"spearman": 3.0}}, run.model_identity())
    assert run.read_scores() == {"b": {"spearman": 3.0}}


def test_a_model_that_is_no_longer_there_leaves_no_scores(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    old = run.model_identity()
    set_model(run, step=20)
    run.keep_scores({"a": {"spearman": 2.0}}, run.model_identity())
    run.keep_scores({"a": {"spearman": 1.0}}, old)
    assert run.read_scores() == {"a": {"spearman": 2.0}}
    assert "newer model" in caplog.text


def test_scores_of_no_named_model_are_not_taken_for_this_ones(run: RunFolder) -> None:
    assert run.read_scores() == {}
    run.scores.write_text('{"sts:a": {"spearman": 50.0}}')
    with pytest.raises(InputError, match=r"scores\.json: it has no field .model."):
        run.read_scores()
