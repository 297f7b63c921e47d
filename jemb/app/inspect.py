"""`jemb inspect`."""

import sys

from jemb.config import InspectConfig


def run(config: InspectConfig) -> None:
    from jemb.app.show import show
    from jemb.inspect import inspect

    show(inspect(config))


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("inspect", sys.argv[1:]))
