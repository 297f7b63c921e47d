"""`python -m jemb.app.prepare`: `jemb prepare`."""

import sys

from jemb.app.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("prepare", sys.argv[1:]))
