"""A run folder says whether its run is alive."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jemb.core.errors import InputError
from jemb.run_folder import OPTIMIZER, POSITION, WEIGHTS, RunFolder, describe_file, read_position
from jemb.train.logs.record import locked
from tests.helpers.ranks import context


def hold(folder: Path, says: object) -> None:
    with locked(RunFolder(folder)):
        says.send(True)  # type: ignore[attr-defined]
        says.recv()  # type: ignore[attr-defined]


def test_whether_a_run_is_alive(tmp_path: Path) -> None:
    """By the trainer's lock, which asking does not take."""
    run = RunFolder(tmp_path)
    record = {"objective": "pairs", "status": "running", "max_steps": 1, "datasets": {}, "starts": []}
    run.record.write_text(json.dumps(record))
    assert (run.is_held(), run.status(), run.last_alive()) == (False, "killed", run.record.stat().st_mtime)
    ours, theirs = context.Pipe()
    trainer = context.Process(target=hold, args=(tmp_path, theirs))
    trainer.start()
    ours.recv()
    for _ in range(2):
        assert (run.is_held(), run.status()) == (True, "running")
    with pytest.raises(InputError, match="another `jemb train` is writing"), locked(run):
        pass
    trainer.kill()
    trainer.join()
    assert run.status() == "killed"
    with locked(run):
        assert run.status() == "running"
        assert run.is_held(), "and asking has not given the lock up"
        second = context.Process(target=hold, args=(tmp_path, theirs))
        second.start()
        second.join()
        assert second.exitcode == 1
    run.record.write_text(json.dumps({**record, "status": "stopped"}))
    assert run.status() == "stopped"


def test_a_checkpoint_is_what_was_written(tmp_path: Path) -> None:
    """Its position belongs to it; a copy of it may have another name."""
    folder = tmp_path / "step-00000005"
    folder.mkdir()
    for name in (WEIGHTS, OPTIMIZER):
        (folder / name).write_bytes(name.encode())
    position = {"step": 5, "plan": "p", "files": {name: describe_file(folder / name) for name in (WEIGHTS, OPTIMIZER)}}
    (folder / POSITION).write_text(json.dumps(position))
    assert read_position(folder) == read_position(shutil.copytree(folder, tmp_path / "copy")) == position
    for other in ({**position, "step": 6}, {**position, "files": 1}, {**position, "plan": None}, {}, []):
        (folder / POSITION).write_text(json.dumps(other))
        with pytest.raises(InputError, match=r"position\.json: (it|step|files|plan) "):
            read_position(folder)
