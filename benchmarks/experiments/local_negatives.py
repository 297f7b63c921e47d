"""`jemb train` under torchrun, but each process contrasts its rows with its own candidates alone.

What tools do that do not gather: batches, steps and averaging of gradients stay as they are, and a query has the
negatives of one process. For `negatives.py`; jemb itself has no such option.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from jemb.app.cli import run_command
from jemb.loss import Pairs
from jemb.train import module


def patch() -> None:
    """From here on nothing is gathered in this process."""
    whole = Pairs.__call__
    Pairs.__call__ = lambda self, texts: whole(self, replace(texts, offset=0))
    patches = {"gather_rows": lambda x_BD: x_BD, "gather_values": lambda x: x.detach()}
    for name, function in patches.items():
        vars(module)[name]  # KeyError where jemb has changed
        setattr(module, name, function)


if __name__ == "__main__":
    patch()
    sys.exit(run_command("train", sys.argv[1:]))
