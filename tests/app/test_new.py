"""`jemb new`: the project's own documented commands run as they are pasted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jemb.app.cli import main


def commands_of(readme: str) -> list[str]:
    (block,) = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
    return block.strip().splitlines()


def test_the_commands_of_a_new_project_run_as_pasted(tmp_path: Path) -> None:
    project = tmp_path / "my first model"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def shell(command: str, folder: Path) -> str:
        done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    shown = shell("jemb new 'my first model'", tmp_path)
    assert "cd 'my first model'" in shown
    readme = (project / "README.md").read_text()
    assert readme.startswith("# my first model\n")
    assert (project / ".gitignore").read_text().splitlines() == ["/shards/", "/runs/", "/exported/"]
    commands = commands_of(readme)
    assert [command.split()[1] for command in commands] == ["prepare", "inspect", "train", "evaluate", "export"]
    for command in commands:
        # Fewer steps; in all else as it stands.
        shell(command.replace("experiment=mine", "experiment=mine max_steps=4"), project)
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
