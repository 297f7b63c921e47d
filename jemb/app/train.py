"""`jemb train`, also as `torchrun … -m jemb.app.train`."""

import sys

from jemb.config import TrainConfig


def run(config: TrainConfig) -> None:
    from jemb.train import train

    train(config)


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("train", sys.argv[1:]))
