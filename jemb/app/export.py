"""`jemb export`."""

import sys

from jemb.app.api import export as run

__all__ = ["run"]

if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("export", sys.argv[1:]))
