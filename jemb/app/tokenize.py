"""`jemb tokenize`."""

import sys

from jemb.config import TokenizeConfig


def run(config: TokenizeConfig) -> None:
    from jemb.app.api import tokenize

    print(tokenize(config))


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("tokenize", sys.argv[1:]))
