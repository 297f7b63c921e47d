"""`jemb prepare`: gives the stages the models they must not know."""

import sys
from dataclasses import replace

from jemb.config import PrepareConfig


def run(config: PrepareConfig) -> None:
    from jemb.app.models import make_tools
    from jemb.mirror import written_to
    from jemb.prepare import prepare, summary_table

    with written_to(config.output) as output:
        print(summary_table(prepare(replace(config, output=output), make_tools(config))))


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("prepare", sys.argv[1:]))
