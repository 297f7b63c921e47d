"""`jemb prepare`."""

import sys

from jemb.prepare.options import PrepareConfig


def run(config: PrepareConfig) -> None:
    from jemb.app.api import prepare
    from jemb.prepare import summary_table

    print(summary_table(prepare(config)))


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("prepare", sys.argv[1:]))
