"""`jemb train`, also as `torchrun … -m jemb.app.train`."""

import sys
from typing import TYPE_CHECKING

from jemb.config import TrainConfig
from jemb.launch import find_ranks

if TYPE_CHECKING:
    from jemb.train import EvaluationTools


def run(config: TrainConfig) -> None:
    from jemb.train import dry_run, train

    tools = _tools() if config.evaluation.tasks else None
    if not config.dry_run:
        train(config, tools)
    elif find_ranks().rank == 0:
        print(dry_run(config, tools))


def _tools() -> "EvaluationTools":
    from jemb.evaluate import load_tasks
    from jemb.evaluate.vectors import Prompts
    from jemb.train import EvaluationTools

    return EvaluationTools(load_tasks, Prompts)


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("train", sys.argv[1:]))
