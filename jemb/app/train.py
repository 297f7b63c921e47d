"""`torchrun … -m jemb.app.train`: `jemb train` as one of several processes."""

import sys

from jemb.app.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("train", sys.argv[1:]))
