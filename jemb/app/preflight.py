"""`python -m jemb.app.preflight`, with the options of `jemb train`: one task a node, before training (launch/)."""

import sys
from collections.abc import Sequence

from jemb.app.compose import compose_config
from jemb.config import TrainConfig
from jemb.core.errors import InputError
from jemb.launch import find_node
from jemb.preflight import preflight


def main(arguments: Sequence[str]) -> int:
    """0: nothing speaks against training; 2: something does, and is told."""
    node = find_node()
    try:
        config = compose_config("train", TrainConfig, [a for a in arguments if a != "--debug"])
    except InputError as error:
        if node.number == 0:
            print(f"jemb train: {error}", file=sys.stderr)
        return 2
    faults = list(preflight(config, node))
    for fault in faults:
        print(fault, file=sys.stderr)
    return 2 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
