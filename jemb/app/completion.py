"""`jemb completion`."""

import sys

from jemb.config import CompletionConfig


def run(config: CompletionConfig) -> None:
    from jemb.app.cli import COMMANDS
    from jemb.app.complete import script
    from jemb.app.show import show

    show(script(config.shell, {name: command.config for name, command in COMMANDS.items()}))


if __name__ == "__main__":
    from jemb.app.cli import run_command

    sys.exit(run_command("completion", sys.argv[1:]))
