"""`python -m jemb.app.new`: `jemb new`."""

import sys

from jemb.app.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("new", sys.argv[1:]))
