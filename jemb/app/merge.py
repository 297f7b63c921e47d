"""`python -m jemb.app.merge`: `jemb merge`."""

import sys

from jemb.app.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("merge", sys.argv[1:]))
