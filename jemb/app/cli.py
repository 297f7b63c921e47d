"""`jemb <command> [option=value …]`: finds the command, and turns its errors into messages and exit codes."""

from __future__ import annotations

import errno
import importlib
import logging
import multiprocessing
import os
import sys
import textwrap
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import yaml

from jemb import __version__
from jemb.app import commands
from jemb.app.commands import show
from jemb.app.compose import compose_config
from jemb.config import (
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    MergeConfig,
    NewConfig,
    TokenizeConfig,
    TrainConfig,
    WeighConfig,
    describe,
    option_kinds,
    suggest,
)
from jemb.config.parse import unknown_option
from jemb.core.errors import Failure, InputError
from jemb.launch import end_at_early_signals, end_with_launcher, find_ranks
from jemb.public import for_terminal

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, slots=True)
class Command:
    """A command's config class and the line that `jemb --help` and its own help show.

    of: the class, or MODULE:NAME of one whose module takes a while to be imported.
    """

    of: type | str
    example: str
    positional: str | None = None
    """The option that a first argument without `=` gives."""

    @property
    def config(self) -> type:
        if isinstance(self.of, type):
            return self.of
        module, _, name = self.of.partition(":")
        found: type = getattr(importlib.import_module(module), name)
        return found

    @property
    def summary(self) -> str:
        return (self.config.__doc__ or "").splitlines()[0]


COMMANDS = {
    "demo": Command(DemoConfig, "jemb demo"),
    "prepare": Command("jemb.prepare.options:PrepareConfig", "jemb prepare input=raw output=shards"),
    "weigh": Command(WeighConfig, "jemb weigh shards=shards model=runs/pairs dev=dev.jsonl output=weights.yaml"),
    "train": Command(TrainConfig, "jemb train shards=shards output=runs/pairs model=t5_small max_steps=1000"),
    "tokenize": Command(TokenizeConfig, "jemb tokenize shards=shards model=google-t5/t5-small output=tokens"),
    "evaluate": Command(
        EvaluateConfig, "jemb evaluate model=runs/pairs 'tasks=[sts:sts.jsonl,retrieval:beir]' output=scores.json"
    ),
    "merge": Command(MergeConfig, "jemb merge 'runs=[runs/a,runs/b]' output=merged"),
    "export": Command(ExportConfig, "jemb export run=runs/pairs output=my-model"),
    "inspect": Command(InspectConfig, "jemb inspect shards", positional="path"),
    "new": Command(NewConfig, "jemb new my-model", positional="path"),
}


WRONG_PATHS = {
    errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.EROFS,
}  # fmt: skip
"""What the system says of a path that nothing but another path, or other rights, can mend."""
FULL = "; what was finished is kept: make room and run the same command again"
"""Said where a disk is full."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `jemb`. Returns the exit code: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(f"jemb {__version__}")
        return DONE
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        show(general_help())
        return DONE if arguments else WRONG_INPUT
    name = arguments[0]
    if name not in COMMANDS:
        print(f"jemb: no command '{name}'{suggest(name, COMMANDS)}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return WRONG_INPUT
    return run_command(name, arguments[1:])


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run one command. `--help` shows its options; `--debug` shows tracebacks; `--flag` means flag=true."""
    if "-h" in arguments or "--help" in arguments:
        show(command_help(name))
        return DONE
    debug = "--debug" in arguments
    # Before torch is imported: threads that wait actively for a core that somebody else uses cost up to 10 x the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        ranks = find_ranks()
    except InputError as error:
        print(f"jemb {name}: {error}", file=sys.stderr)
        return WRONG_INPUT
    is_first = ranks.rank == 0
    end_with_launcher()
    if name == "train":
        end_at_early_signals()
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, format="%(message)s", stream=sys.stderr, force=True
    )
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_ForTerminal("%(message)s"))
    logging.getLogger("jemb").setLevel((logging.DEBUG if debug else logging.INFO) if is_first else logging.ERROR)
    if not debug:  # DeepSpeed, which accelerate imports, reports a machine without a GPU on stdout
        logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    try:
        arguments, many, shown = _of_hydra(name, arguments)
        overrides = _overrides(name, arguments)
        if many:
            return int(importlib.import_module("jemb.app.sweep").sweep(overrides))
        config: Any = compose_config(name, COMMANDS[name].config, overrides)
        if shown:
            show(yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True))
            return DONE
        getattr(commands, name)(config)
        return DONE
    except (InputError, Failure, OSError) as error:
        if debug:
            print(for_terminal(traceback.format_exc()), file=sys.stderr)
        elif is_first or isinstance(error, OSError):  # what all processes find is said once
            print(f"jemb {name}: {for_terminal(_said(error))}", file=sys.stderr)
        wrong = isinstance(error, InputError) or (isinstance(error, OSError) and error.errno in WRONG_PATHS)
        code = WRONG_INPUT if wrong else FAILED
        if ranks.world_size > 1:
            # gloo's threads can wait for ever for the interpreter that frees them while an error unwinds.
            sys.stdout.flush()
            sys.stderr.flush()
            if not is_first:
                time.sleep(2)  # or torchrun ends the first process before it has said why
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(code)
        return code
    except KeyboardInterrupt:
        print(f"jemb {name}: interrupted; the same command continues", file=sys.stderr)
        return INTERRUPTED


class _ForTerminal(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record))


def _said(error: Exception) -> str:
    """The message of an expected error, with the way out where the system's own has none."""
    if isinstance(error, PermissionError):
        return f"{error.filename}: may not be read or written ({error.strerror}); use another path, or get the rights"
    if isinstance(error, OSError) and error.errno in WRONG_PATHS:
        name = str(error.filename)
        name = name if len(name) < 300 else f"{name[:200]}…{name[-50:]}"
        return f"{name}: cannot be used ({error.strerror}); use another path"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error}{FULL}"
    return str(error)


def _of_hydra(name: str, arguments: Sequence[str]) -> tuple[list[str], bool, bool]:
    """(the other arguments, whether `-m` asks for a run of each combination, whether `--cfg job` for the config)."""
    left = [argument for argument in arguments if argument not in ("-m", "--multirun")]
    if (many := len(left) < len(arguments)) and name != "train":
        raise InputError(f"-m: only jemb train runs over several values, not jemb {name}")
    shown = [flag for flag in ("--cfg", "-c") if flag in left]
    if shown and left[left.index(shown[0]) + 1 : left.index(shown[0]) + 2] != ["job"]:
        raise InputError(f"{shown[0]}: wanted {shown[0]} job, which shows the config that the command would run with")
    if shown:
        at = left.index(shown[0])
        del left[at : at + 2]
    return left, many, bool(shown or "--cfg=job" in left)


def _overrides(name: str, arguments: Sequence[str]) -> list[str]:
    """The arguments as `option=value`: `--flag` is flag=true, `--option=value` does too, and a command that is about
    one thing takes that first without its name."""
    kinds, positional = option_kinds(COMMANDS[name].config), COMMANDS[name].positional
    overrides: list[str] = []
    for before, argument in pairwise(["", *arguments]):
        option = before.removeprefix("--").replace("-", "_")
        if argument in ("--debug", "--cfg=job") or argument.startswith("--config-dir="):
            overrides += [argument] if argument.startswith("--config-dir=") else []
        elif "=" in argument:
            overrides.append(argument.removeprefix("--"))
        elif argument == "--config-dir":
            raise InputError("--config-dir: wanted --config-dir=DIR")
        elif argument.startswith("--"):
            overrides.append(argument.removeprefix("--") + "=true")
        elif before.startswith("--") and "=" not in before and kinds.get(option) != "true|false":
            wanted = f"'{before} {argument}': wanted {option}={argument}"
            raise InputError(wanted if option in kinds else unknown_option(kinds, option))
        elif positional:
            overrides.append(f"{positional}={argument}")
            positional = None
        else:
            raise InputError(f"'{argument}': wanted option=value, as in: {COMMANDS[name].example}")
    return overrides


def general_help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jemb COMMAND [option=value …] [--debug]",
            "",
            *lines,
            "",
            "jemb COMMAND --help lists a command's options. They are Hydra overrides: nested ones with a dot",
            "(consistency.top_k=3), lists in brackets ('stages=[exact,language]', quoted for the shell).",
        ]
    )


def command_help(name: str) -> str:
    command = COMMANDS[name]
    lines = [f"usage: jemb {name} option=value …", "", *textwrap.wrap(command.config.__doc__ or "", 100), ""]
    lines += [f"example: {command.example}", "", "options:"]
    for option, kind, default, meaning in describe(command.config):
        shown = _show(default)
        lines.append(f"  {option}={kind}" + ("  (required)" if shown == "required" else f"  (default: {shown})"))
        lines += textwrap.wrap(meaning, 92, initial_indent="      ", subsequent_indent="      ")
    if name == "train":
        lines += [
            "",
            "model=NAME sets all of model.* at once: tiny, t5_small, t5_base, t5_large. objective=NAME also sets the",
            "learning rate. experiment=NAME takes a whole recipe, also from experiment/NAME.yaml in --config-dir=DIR.",
            "",
            "-m runs every combination of values, each in a folder of its own below output, and compares them:",
            "jemb train -m learning_rate=1e-3,5e-4 seed=1,2,3 …; on Slurm by hydra/launcher=submitit_slurm. --cfg job",
            "shows the config that a command would run with.",
        ]
    return "\n".join(lines)


def _show(default: Any) -> str:
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return "[" + ",".join(map(str, default)) + "]"
    return str(default).replace("\n", "\\n")


if __name__ == "__main__":
    sys.exit(main())
