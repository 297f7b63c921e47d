"""A fault: something broken, the command that meets it, and what must come out. The parts that all trials share.

Each command runs as a real process in a session of its own, forked from one that has imported everything, with a small
world as its current folder. Whatever the fault, it must end, say one thing, leave no process, no traceback and no
change outside of what it may write.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.helpers.ranks import context, write_to

LIMIT = 60
"""Seconds until a command counts as hanging; nearly all end within two. The machine may be busy."""
LINGER = 5
"""Seconds until a process that the command left behind must be gone."""
OUTPUT = "out"
"""What every command of a fault writes: the only name in the world that may change, with those of `Fault.changes`."""

Break = Callable[[Path], Any]
Prelude = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """name: what is broken, in words. command: after `jemb`, with paths in the world. breaks: what it does to the world
    first. code: the exit code wanted. says: what the output must hold, each a part of a sentence. changes: names in the
    world that the command may change. prelude: called in the process before the command. environment: set there. then:
    looks at the world afterwards."""

    name: str
    command: str | Sequence[str]
    breaks: Break | None = None
    code: int = 2
    says: Sequence[str] = ()
    changes: Sequence[str] = ()
    prelude: Prelude | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    then: Break | None = None

    @property
    def arguments(self) -> list[str]:
        return self.command.split() if isinstance(self.command, str) else list(self.command)

    def __str__(self) -> str:
        return re.sub(r"[^\w.=-]+", "-", self.name)


def refused(name: str, command: str | Sequence[str], breaks: Break | None, *says: str, **more: Any) -> Fault:
    """Exit code 2 and one message with each of `says` in it."""
    return Fault(name, command, breaks, 2, says, **more)


def repaired(name: str, command: str | Sequence[str], breaks: Break | None, *says: str, **more: Any) -> Fault:
    """Exit code 0; what was done about it is said."""
    return Fault(name, command, breaks, 0, says, **more)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command came to. code: None where it did not end. left: processes that outlived it, as `PID NAME`."""

    code: int | None
    output: str
    seconds: float
    left: Sequence[str]


def run(
    world: Path,
    arguments: Sequence[str],
    prelude: Prelude | None = None,
    environment: Mapping[str, str] | None = None,
    limit: float = LIMIT,
) -> Outcome:
    """`jemb ARGUMENTS` in the folder `world`."""
    output = world.parent / f"{time.time_ns()}.out"
    home = world.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {"HOME": str(home), **(environment or {})}
    process = context.Process(target=_start, args=(str(world), list(arguments), str(output), prelude, environment))
    began = time.monotonic()
    process.start()
    process.join(limit)
    seconds, code, pid = time.monotonic() - began, process.exitcode, process.pid
    assert pid is not None
    if code is None:  # it does not count what a hanging process leaves
        for left in session(pid):
            os.kill(left, signal.SIGKILL)
        process.kill()
        process.join()
        return Outcome(None, output.read_text(errors="replace"), seconds, ())
    deadline = time.monotonic() + LINGER
    while (left := session(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    names = [f"{other} {_name(other)}" for other in left]
    for other in left:
        os.kill(other, signal.SIGKILL)
    text = output.read_text(errors="replace") if output.exists() else ""
    return Outcome(code, text, seconds, names)


def _start(
    world: str, arguments: list[str], output: str, prelude: Prelude | None, environment: Mapping[str, str]
) -> None:
    os.setsid()
    os.chdir(world)
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # as in a fresh interpreter
    write_to(Path(output))
    sys.argv = ["jemb", *arguments]
    from jemb.app.cli import main

    if prelude:
        prelude()
    code = main(arguments)
    sys.stdout.flush()
    sys.exit(code)


def session(leader: int) -> list[int]:
    """The living processes of a session, without its leader."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != leader:
            try:
                state, _, _, of = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(of) == leader and state != "Z":
                found.append(int(entry.name))
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:80]
    except OSError:
        return "?"


def digests(folder: Path, leave_out: Sequence[str] = ()) -> dict[str, str]:
    """What stands in a folder: file -> digest, link -> target, other -> its kind."""
    found: dict[str, str] = {}
    for base, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(base, name)
            where = path.relative_to(folder)
            if where.parts[0] in leave_out:
                continue
            if path.is_symlink():
                found[str(where)] = f"-> {path.readlink()}"
            elif path.is_file():
                try:
                    found[str(where)] = hashlib.sha256(path.read_bytes()).hexdigest()
                except PermissionError:
                    found[str(where)] = "closed"
            else:
                found[str(where)] = "folder" if path.is_dir() else "special"
    return found


def message_of(outcome: Outcome, command: str) -> str:
    """The one message of a command that was refused or failed: from `jemb COMMAND:` to the end."""
    parts = re.split(rf"^jemb(?: {re.escape(command)})?: ", outcome.output, flags=re.MULTILINE)
    assert len(parts) == 2, f"wanted one message, got {len(parts) - 1}:\n{outcome.output}"
    return parts[1].strip()


def check(fault: Fault, world: Path) -> Outcome:
    """Break the world, run the command, and hold it to the fault's rules. The world is the caller's to throw away."""
    if fault.breaks:
        fault.breaks(world)
    may_change = [OUTPUT, *fault.changes]
    before = digests(world, may_change)
    beside = {path.name for path in world.parent.iterdir()} - {"home"}
    outcome = run(world, fault.arguments, fault.prelude, fault.environment)
    said = f"\n$ jemb {' '.join(fault.arguments)}\n{outcome.output}"
    assert outcome.code is not None, f"did not end within {LIMIT} s{said}"
    assert "Traceback (most recent call last)" not in outcome.output, f"a traceback{said}"
    assert outcome.code == fault.code, f"exit code {outcome.code}, wanted {fault.code}{said}"
    assert not outcome.left, f"processes left: {outcome.left}{said}"
    after = digests(world, may_change)
    changed = sorted({name for name in before.keys() | after.keys() if before.get(name) != after.get(name)})
    assert not changed, f"changed: {changed}{said}"
    added = {path.name for path in world.parent.iterdir() if path.suffix != ".out"} - beside - {"home"}
    assert not added, f"written outside: {added}{said}"
    if fault.code in (1, 2):
        text = message_of(outcome, fault.arguments[0] if fault.arguments else "")
        assert len(text) < 2000, f"a message of {len(text)} characters{said}"
    else:
        text = outcome.output
    missing = [part for part in fault.says if part.lower() not in text.lower()]
    assert not missing, f"not said: {missing}{said}"
    if fault.then:
        fault.then(world)
    return outcome


# What happens at a chosen moment: when a file whose path matches gets its name.


def at(pattern: str, act: Callable[[], Any], number: int = 1, after: bool = False) -> Prelude:
    """A prelude: `act()` just before (or after) the `number`-th file or folder gets a name that matches `pattern`."""
    return partial(_watch, pattern, act, number, after)


def _watch(pattern: str, act: Callable[[], Any], number: int, after: bool) -> None:
    seen = 0
    for name in ("rename", "replace"):
        real = getattr(os, name)

        def watched(source: Any, target: Any, *more: Any, real: Any = real, **named: Any) -> None:
            nonlocal seen
            hit = bool(re.search(pattern, os.fspath(target)))
            seen += hit
            if hit and seen == number and not after:
                act()
            real(source, target, *more, **named)
            if hit and seen == number and after:
                act()

        setattr(os, name, watched)


def me(number: int) -> Callable[[], None]:
    """Send this signal to the process itself."""
    return partial(_me, number)


def _me(number: int) -> None:
    os.kill(os.getpid(), number)


def my_children(number: int) -> Callable[[], None]:
    """Send this signal to every child of the process."""
    return partial(_my_children, number)


def _my_children(number: int) -> None:
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            os.kill(int(child), number)


def copy_world(world: Path, to: Path) -> Path:
    return Path(shutil.copytree(world, to / "world", symlinks=True))
