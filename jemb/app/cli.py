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
from shlex import quote
from typing import Any

import yaml

from jemb import __version__
from jemb import config as configs
from jemb.app.compose import compose_config
from jemb.config import describe, option_kinds, suggest
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
    def config(self) -> type[Any]:
        return self.of if isinstance(self.of, type) else _import(self.of)

    @property
    def summary(self) -> str:
        return (self.config.__doc__ or "").splitlines()[0]


COMMANDS = {
    "demo": Command(configs.DemoConfig, "jemb demo"),
    "prepare": Command("jemb.prepare.options:PrepareConfig", "jemb prepare input=raw output=shards"),
    "weigh": Command(
        configs.WeighConfig, "jemb weigh shards=shards model=runs/pairs dev=dev.jsonl output=weights.yaml"
    ),
    "train": Command(configs.TrainConfig, "jemb train shards=shards output=runs/pairs model=t5_small max_steps=1000"),
    "tokenize": Command(configs.TokenizeConfig, "jemb tokenize shards=shards model=google-t5/t5-small output=tokens"),
    "evaluate": Command(
        configs.EvaluateConfig,
        "jemb evaluate model=runs/pairs 'tasks=[sts:sts.jsonl,retrieval:beir]' output=scores.json",
    ),
    "merge": Command(configs.MergeConfig, "jemb merge 'runs=[runs/a,runs/b]' output=merged"),
    "export": Command(configs.ExportConfig, "jemb export run=runs/pairs output=my-model"),
    "inspect": Command(configs.InspectConfig, "jemb inspect shards", positional="path"),
    "new": Command(configs.NewConfig, "jemb new my-model", positional="path"),
}
SHOWN = {"prepare": "jemb.prepare:summary_table", "weigh": "jemb.weighing:table", "evaluate": "jemb.evaluate:table"}
"""What makes a text of the result of a command's function."""

WRONG_PATHS = {
    errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.EROFS,
}  # fmt: skip
"""What the system says of a path that nothing but another path, or other rights, can mend."""
ABOUT_OPTIONS = """
jemb COMMAND --help lists a command's options, written as Hydra's overrides: nested ones with a dot
(consistency.top_k=3), lists in brackets ('stages=[exact,language]', quoted for the shell)."""
ABOUT_TRAIN = """
model=NAME sets all of model.* at once: tiny, t5_small, t5_base, t5_large. objective=NAME also sets the
learning rate. experiment=NAME takes a whole recipe, also from experiment/NAME.yaml in --config-dir=DIR.

-m runs every combination of values, each in a folder of its own below output, and compares them:
jemb train -m learning_rate=1e-3,5e-4 seed=1,2,3 …; on Slurm by hydra/launcher=submitit_slurm. --cfg job
shows the config that a command would run with."""


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
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # as it is called before torch 2.9
        # Texts have all lengths: without this a GPU's memory that was cut up for some is never put together for others.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    try:
        ranks = find_ranks()
    except InputError as error:
        print(f"jemb {name}: {error}", file=sys.stderr)
        return WRONG_INPUT
    is_first = ranks.rank == 0
    end_with_launcher()
    if name == "train":
        end_at_early_signals()
    _set_up_logging(debug, is_first)
    try:
        many, shown, overrides = _read_arguments(name, arguments)
        if many:
            return int(importlib.import_module("jemb.app.sweep").sweep(overrides))
        config = compose_config(name, COMMANDS[name].config, overrides)
        if shown:
            show(yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True))
        else:
            run(name, config)
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


def _set_up_logging(debug: bool, is_first: bool) -> None:
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, stream=sys.stderr, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_ForTerminal("%(message)s"))
    logging.getLogger("jemb").setLevel((logging.DEBUG if debug else logging.INFO) if is_first else logging.ERROR)
    if not debug:  # DeepSpeed, which accelerate imports, reports a machine without a GPU on stdout
        logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())


class _ForTerminal(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record))


def run(name: str, config: Any) -> None:
    """Do a command's work, by its function in `api.py` where it has one, and print what came of it."""
    from jemb.app import api  # here and below, whatever takes a while to be imported

    match name:
        case "demo":
            from jemb.app.models import make_tools
            from jemb.demo.journey import demo

            demo(config, make_tools())
        case "inspect":
            from jemb.inspect import inspect

            show(inspect(config))
        case "new":
            from jemb.new import new

            print(f"{new(config)} is there. Next:\n\n    cd {quote(config.path)}\n    cat README.md")
        case "train" if config.dry_run:
            from jemb.train import dry_run

            if find_ranks().rank == 0:
                print(dry_run(config))
        case _:
            found = getattr(api, name)(config)
            if name in SHOWN and found is not None:
                print(_import(SHOWN[name])(found))


def show(text: str) -> None:
    """Print `text`; nothing happens where the reader has gone, who may have seen enough (`jemb … | head`)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Else the interpreter says at its end that it could not write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _import(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _said(error: Exception) -> str:
    """The message of an expected error, with the way out where the system's own has none."""
    if isinstance(error, OSError) and error.errno in WRONG_PATHS:
        return f"{str(error.filename)[:300]}: cannot be used ({error.strerror}); use another path, or get the rights"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error}; what was finished is kept: make room and run the same command again"
    return str(error)


def _read_arguments(name: str, arguments: Sequence[str]) -> tuple[bool, bool, list[str]]:
    """(whether `-m` asks for a run of each combination, whether `--cfg job` for the config, the overrides as
    `option=value`): `--flag` is flag=true, and a command that is about one thing takes that first without its name."""
    kinds, positional = option_kinds(COMMANDS[name].config), COMMANDS[name].positional
    many = "-m" in arguments or "--multirun" in arguments
    if many and name != "train":
        raise InputError(f"-m: only jemb train runs over several values, not jemb {name}")
    overrides: list[str] = []
    for before, argument in pairwise(["", *arguments]):
        option = before.removeprefix("--").replace("-", "_")
        if argument in ("--debug", "-m", "--multirun", "--cfg"):
            continue
        if before == "--cfg":
            if argument != "job":
                raise InputError("--cfg: wanted --cfg job, which shows the config that the command would run with")
        elif argument == "--config-dir":
            raise InputError("--config-dir: wanted --config-dir=DIR")
        elif argument.startswith("--config-dir="):
            overrides.append(argument)
        elif "=" in argument:
            overrides.append(argument.removeprefix("--"))
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
    return many, "--cfg" in arguments, overrides


def general_help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: jemb COMMAND [option=value …] [--debug]", "", *lines, ABOUT_OPTIONS])


def command_help(name: str) -> str:
    command = COMMANDS[name]
    lines = [f"usage: jemb {name} option=value …", "", *textwrap.wrap(command.config.__doc__ or "", 100), ""]
    lines += [f"example: {command.example}", "", "options:"]
    for option, kind, default, meaning in describe(command.config):
        lines.append(
            f"  {option}={kind}  " + ("(required)" if default == "required" else f"(default: {_show(default)})")
        )
        lines += textwrap.wrap(meaning, 92, initial_indent="      ", subsequent_indent="      ")
    return "\n".join([*lines, *([ABOUT_TRAIN] if name == "train" else [])])


def _show(default: Any) -> str:
    if isinstance(default, list):
        return "[" + ",".join(map(str, default)) + "]"
    words = {None: "null", True: "true", False: "false"}
    return words[default] if default is None or isinstance(default, bool) else str(default).replace("\n", "\\n")


if __name__ == "__main__":
    sys.exit(main())
