"""`jemb new`."""

import sys
from shlex import quote

from jemb.config import NewConfig


def run(config: NewConfig) -> None:
    from jemb.new import new

    folder = new(config)
    print(f"{folder} is there. Next:\n\n    cd {quote(config.path)}\n    cat README.md")


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("new", sys.argv[1:]))
