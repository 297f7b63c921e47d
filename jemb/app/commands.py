"""What each command does with its config, and what it prints. Whatever takes a while to be imported is imported here,
when a command runs.

Before: `cli.py` makes the config. After: `api.py` does the work.
"""

from __future__ import annotations

import os
import sys
from shlex import quote
from typing import TYPE_CHECKING

from jemb.launch import find_ranks

if TYPE_CHECKING:
    from jemb import config as options
    from jemb.prepare.options import PrepareConfig


def demo(config: options.DemoConfig) -> None:
    from jemb.app.models import make_tools
    from jemb.demo.journey import demo

    demo(config, make_tools())


def prepare(config: PrepareConfig) -> None:
    from jemb.app.api import prepare
    from jemb.prepare import summary_table

    print(summary_table(prepare(config)))


def tokenize(config: options.TokenizeConfig) -> None:
    from jemb.pretokenize import pretokenize

    print(pretokenize(config))


def weigh(config: options.WeighConfig) -> None:
    from jemb.app.api import weigh
    from jemb.weighing import table

    print(table(weigh(config)))


def train(config: options.TrainConfig) -> None:
    from jemb.app.api import train
    from jemb.train import dry_run

    if not config.dry_run:
        train(config)
    elif find_ranks().rank == 0:
        print(dry_run(config))


def evaluate(config: options.EvaluateConfig) -> None:
    from jemb.app.api import evaluate
    from jemb.evaluate import table

    if (found := evaluate(config)) is not None:
        print(table(found))


def merge(config: options.MergeConfig) -> None:
    from jemb.app.api import merge

    merge(config)


def export(config: options.ExportConfig) -> None:
    from jemb.app.api import export

    export(config)


def inspect(config: options.InspectConfig) -> None:
    from jemb.inspect import inspect

    show(inspect(config))


def new(config: options.NewConfig) -> None:
    from jemb.new import new

    print(f"{new(config)} is there. Next:\n\n    cd {quote(config.path)}\n    cat README.md")


def show(text: str) -> None:
    """Print `text`; nothing happens where the reader has gone, who may have seen enough (`jemb … | head`)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Else the interpreter says at its end that it could not write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
