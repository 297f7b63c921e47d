"""`jemb demo`."""

import sys

from jemb.config import DemoConfig


def run(config: DemoConfig) -> None:
    from jemb.app.models import make_tools
    from jemb.demo.journey import demo

    demo(config, make_tools())


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("demo", sys.argv[1:]))
