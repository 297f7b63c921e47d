"""What there is to score, by name: `sts:FILE`, `retrieval:BEIR_DIR`, `negation:FILE`.

Before: the command's `tasks`. After: `run.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from jemb.config import suggest
from jemb.errors import InputError
from jemb.evaluate.negation import read_negation
from jemb.evaluate.retrieval import read_retrieval
from jemb.evaluate.sts import read_sts
from jemb.evaluate.vectors import Encode


class Task(Protocol):
    """A task whose files have been read."""

    @property
    def name(self) -> str:
        """The task as the user wrote it: its key in the results."""
        ...

    def score(self, encode: Encode) -> dict[str, float]:
        """Metrics in percent, all finite."""
        ...


READERS: dict[str, Callable[[Path, str], Task]] = {
    "sts": read_sts,
    "retrieval": read_retrieval,
    "negation": read_negation,
}


def load_task(name: str) -> Task:
    """Read the task's files whole; `InputError` for an unknown kind and for anything unreadable in them."""
    kind, colon, path = name.partition(":")
    if not colon or not path or kind not in READERS:
        wanted = "wanted sts:FILE, retrieval:BEIR_DIR or negation:FILE"
        raise InputError(f"unknown task '{name}'; {wanted}{suggest(kind, READERS) if colon else ''}")
    return READERS[kind](Path(path).expanduser(), name)
