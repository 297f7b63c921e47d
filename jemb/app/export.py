"""`python -m jemb.app.export`: `jemb export`."""

import sys

from jemb.app.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("export", sys.argv[1:]))
