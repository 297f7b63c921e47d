"""Text for whoever reads standard output, who may have seen enough before its end (`jemb … | head`)."""

from __future__ import annotations

import os
import sys


def show(text: str) -> None:
    """Print `text`; nothing happens where the reader has gone."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Else the interpreter says at its end that it could not write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
