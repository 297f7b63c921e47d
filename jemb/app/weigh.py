"""`python -m jemb.app.weigh`: `jemb weigh`."""

import sys

from jemb.app.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("weigh", sys.argv[1:]))
