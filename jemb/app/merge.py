"""`jemb merge`."""

import sys

from jemb.config import MergeConfig


def run(config: MergeConfig) -> None:
    from jemb.app.api import merge

    merge(config)


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("merge", sys.argv[1:]))
