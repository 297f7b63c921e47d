"""Makers of rows and files, and an auxiliary encoder of a few lines, for the tests of prepare."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jemb.prepare.engine.executor import LocalExecutor
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import PIECE_SCHEMA, Piece, Rows, Table, write_table
from jemb.prepare.source.record_fields import Row
from tests.helpers.prepare_tools import bag_of_words


@pytest.fixture
def encode() -> Callable[[Sequence[str]], Any]:
    return bag_of_words


@pytest.fixture
def rows() -> Callable[..., Rows]:
    """rows(("q", "p"), ("q", "p", "n1", "n2"), …): a piece with ids 0, 1, …"""

    def make(*texts: tuple[str, ...]) -> Rows:
        return Rows(
            np.arange(len(texts)),
            [text[0] for text in texts],
            [text[1] for text in texts],
            [tuple(text[2:]) for text in texts],
            [""] * len(texts),
        )

    return make


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Table]:
    """table([("q", "p"), ("q", "p", "n1"), …], piece_rows=2): on disk, with ids 0, 1, …"""

    def make(
        texts: Sequence[tuple[str, ...]], piece_rows: int = 1000, more: Mapping[int, tuple[str, ...]] | None = None
    ) -> Table:
        """more: further positives of some rows."""
        further = more or {}
        pieces = []
        for start in range(0, len(texts), piece_rows):
            part = texts[start : start + piece_rows]
            path = tmp_path / f"pieces-{len(list(tmp_path.glob('pieces-*')))}" / f"piece-{start:06d}.arrow"
            rows = [
                Row(number, text[0], text[1], text[2:], "", further.get(start + number, ()))
                for number, text in enumerate(part)
            ]
            write_table(path, pa.table(list(map(list, zip(*rows, strict=True))), schema=PIECE_SCHEMA))
            pieces.append(Piece(path, start, len(part), len(part)))
        return Table(tuple(pieces))

    return make


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """job("name"): a fresh work folder, in this process."""

    def make(name: str = "stage") -> Job:
        folder = tmp_path / "jobs" / name
        folder.mkdir(parents=True)
        return Job(folder, LocalExecutor(1), name)

    return make


@pytest.fixture
def write_jsonl() -> Callable[..., Path]:
    def write(path: Path, records: Sequence[Any]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        return path

    return write
