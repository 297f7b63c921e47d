"""`jemb evaluate`."""

import sys

from jemb.config import EvaluateConfig


def run(config: EvaluateConfig) -> None:
    from jemb.evaluate import evaluate, table

    print(table(evaluate(config)))


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("evaluate", sys.argv[1:]))
