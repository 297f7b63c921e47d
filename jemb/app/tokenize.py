"""`python -m jemb.app.tokenize`: `jemb tokenize`."""

import sys

from jemb.app.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("tokenize", sys.argv[1:]))
