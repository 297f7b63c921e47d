"""`torchrun … -m jemb.app.evaluate`: `jemb evaluate` as one of several processes."""

import sys

from jemb.app.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("evaluate", sys.argv[1:]))
