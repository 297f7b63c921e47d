"""`jemb export`."""

import sys

from jemb.config import ExportConfig


def run(config: ExportConfig) -> None:
    from jemb.app.api import export

    export(config)


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("export", sys.argv[1:]))
