"""`python -m jemb.app.demo`: `jemb demo`."""

import sys

from jemb.app.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("demo", sys.argv[1:]))
