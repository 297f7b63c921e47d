"""`jemb evaluate`, also as `torchrun … -m jemb.app.evaluate`: all processes encode, the first does the rest."""

import sys

from jemb.config import EvaluateConfig


def run(config: EvaluateConfig) -> None:
    from jemb.app.api import evaluate
    from jemb.evaluate import table

    if (found := evaluate(config)) is not None:
        print(table(found))


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("evaluate", sys.argv[1:]))
