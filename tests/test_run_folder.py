"""A run folder says whether its run is alive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ranks import context

from jemb.errors import InputError
from jemb.run_folder import RunFolder
from jemb.train.record import locked


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
