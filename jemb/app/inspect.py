"""`python -m jemb.app.inspect`: `jemb inspect`."""

import sys

from jemb.app.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("inspect", sys.argv[1:]))
