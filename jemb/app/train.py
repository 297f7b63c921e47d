"""`jemb train`, also as `torchrun … -m jemb.app.train`."""

import sys

from jemb.config import TrainConfig
from jemb.launch import find_ranks


def run(config: TrainConfig) -> None:
    from jemb.app.api import evaluation_tools, train
    from jemb.train import dry_run

    if not config.dry_run:
        train(config)
    elif find_ranks().rank == 0:
        print(dry_run(config, evaluation_tools(config)))


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("train", sys.argv[1:]))
