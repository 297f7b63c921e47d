"""`jemb new`: the project's own documented commands run as they are pasted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jemb.app.cli import main


def commands_of(readme: str) -> list[str]:
    (block,) = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
    return block.strip().splitlines()


@pytest.mark.slow
def test_the_commands_of_a_new_project_run_as_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first by a shell, the others in this process: each start of Python takes longer than what it then does."""
    project = tmp_path / "my first model"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        "jemb new 'my first model'", shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "cd 'my first model'" in done.stdout
    readme = (project / "README.md").read_text()
    assert readme.startswith("# my first model\n")
    assert (project / ".gitignore").read_text().splitlines() == ["/shards/", "/runs/", "/exported/"]
    commands = [shlex.split(command) for command in commands_of(readme)]
    assert [command[:2] for command in commands] == [
        ["jemb", name] for name in ("prepare", "inspect", "train", "evaluate", "export")
    ]
    monkeypatch.chdir(project)
    for command in commands:
        # Fewer steps; in all else as it stands.
        assert main(command[1:] + ["max_steps=4"] * ("experiment=mine" in command)) == 0, command
    assert (project / "exported" / "model.safetensors").is_file()
    made = {path.name for path in project.iterdir()} - {"raw", "conf", "test", "README.md", ".gitignore"}
    assert made == {"shards", "runs", "exported"}, "what git is told to leave out"


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["new", str(tmp_path)]) == 2
    assert "there is something already" in capsys.readouterr().err
    assert main(["new", str(tmp_path / "thesis.txt" / "inside")]) == 2
    assert "cannot be made" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
