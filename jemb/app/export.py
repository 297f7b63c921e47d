"""`jemb export`."""

import sys
from dataclasses import replace

from jemb.config import ExportConfig


def run(config: ExportConfig) -> None:
    from jemb.export import export
    from jemb.mirror import local_copy, written_to

    with written_to(config.output, anew=True) as output:
        export(replace(config, run=local_copy(config.run), output=output))


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("export", sys.argv[1:]))
