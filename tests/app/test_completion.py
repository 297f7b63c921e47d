"""Completion as a user types it: real shells on a terminal, the words that they then hand to `jemb`."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from jemb.app.cli import COMMANDS, main
from jemb.app.complete import completions

# What is typed, with a tab where it stands, and the arguments that jemb gets.
TYPED = [
    ("tra\t strat\tdee\t3", ["train", "strategy=deepspeed_3"]),
    ("train model=t5_s\t --log_sam", ["train", "model=t5_small", "--log_sam"]),
    ("train objective=pairs_\t", ["train", "objective=pairs_gte"]),
    ("prepare near_dup\tthr\t0.9", ["prepare", "near_duplicates.threshold=0.9"]),
    ("export run=some_r\t", ["export", "run=some_run"]),
    ("evaluate tasks=sts:some_f\t", ["evaluate", "tasks=sts:some_file.jsonl"]),
    ("inspect some_r\t", ["inspect", "some_run"]),
    ("completion ba\t", ["completion", "bash"]),
]
ECHO = "jemb() { printf '<%s>' \"$@\"; echo; }; "
START = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "bind 'set bell-style none'; "),
    "zsh": (["zsh", "-f", "-i"], "unsetopt beep; autoload -Uz compinit; compinit -D; "),
}
LISTS = {"bash": "prepare stages=[exact,lang\t]", "zsh": "prepare 'stages=[exact,lang\t]'"}
"""zsh wants quotes, as brackets mean files to it."""


class Terminal:
    """A shell on a pseudo terminal."""

    def __init__(self, command: list[str], folder: Path) -> None:
        environment = {**os.environ, "TERM": "dumb", "PS1": "$ ", "HOME": str(folder), "INPUTRC": "/dev/null"}
        self.pid, self.file = pty.fork()
        if not self.pid:
            os.chdir(folder)
            os.execvpe(command[0], command, environment)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def wait_for(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """The first match in what was shown since the last one."""
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen)):
            assert time.monotonic() < end, f"no {pattern!r} in {self.seen!r}"
            if select.select([self.file], [], [], 0.2)[0]:
                self.seen += os.read(self.file, 4096).decode(errors="replace")
        self.seen = self.seen[match.end() :]
        return match

    def close(self) -> None:
        os.close(self.file)
        os.waitpid(self.pid, 0)


def script_for(shell: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["completion", shell]) == 0
    path = folder / f"complete.{shell}"
    path.write_text(capsys.readouterr().out)
    (folder / "some_run").mkdir()
    (folder / "some_file.jsonl").touch()
    return path


@pytest.mark.parametrize("shell", START)
def test_a_tab_completes_commands_options_and_values(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    script = script_for(shell, tmp_path, capsys)
    command, settings = START[shell]
    terminal = Terminal(command, tmp_path)
    try:
        terminal.type(f"{settings}{ECHO}source {script}; echo re''ady\n")
        terminal.wait_for("ready")
        for typed, wanted in [*TYPED, (LISTS[shell], ["prepare", "stages=[exact,language]"])]:
            for part in re.split("(\t)", f"jemb {typed}"):
                terminal.type(part)
                time.sleep(0.05)  # as fast as nobody types: what comes at once may be taken for pasted
            terminal.type("\n")
            found = terminal.wait_for(r"\r\n((?:<[^>]*>)+)\r\n")
            given = re.findall("<([^>]*)>", found[1])
            assert [word.removesuffix("/") for word in given] == wanted, typed  # zsh takes the slash back
    finally:
        terminal.close()


def test_fish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not shutil.which("fish"):
        pytest.skip("no fish here")
    script = script_for("fish", tmp_path, capsys)

    def offered(line: str) -> list[str]:
        program = f'source {script}; complete -C "{line}"'
        done = subprocess.run(["fish", "--no-config", "-c", program], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return sorted(found.partition("\t")[0] for found in done.stdout.splitlines())

    assert offered("jemb tr") == ["train"]
    assert offered("jemb train strategy=deep") == [f"strategy=deepspeed_{stage}" for stage in (1, 2, 3)]
    assert offered("jemb prepare near_duplicates.thr") == ["near_duplicates.threshold="]
    assert offered("jemb export run=some_r") == ["run=some_run/"]


def test_the_table_has_every_command_and_option() -> None:
    table = completions({name: command.config for name, command in COMMANDS.items()})
    assert table[""] == list(COMMANDS)
    assert table["train device"] == ["auto", "cpu", "cuda", "mps"]
    assert "weights." in table["train"], "where the user's own word follows"
    assert "sources." in table["prepare"]
    assert table["prepare stages"][:2] == ["exact", "near_duplicates"]
    assert "tiny" in table["train model"]
    assert "train init" not in table, "a path"
