"""A data set on its way through the stages: pieces of rows on disk, and beside them what each stage decided.

Before: `read.py` writes the pieces, once. After: each stage reads the rows that the earlier ones kept, and adds a
verdict: which rows it drops and why, perhaps other negatives for those it keeps. Nothing is ever rewritten, so a killed
run loses only the files it had not finished, and memory holds a piece at a time.

A row's id is the number of its record in the source, from 0; unreadable records leave gaps. Its key in the shards is
the id in nine digits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jemb.core.files import write_atomic
from jemb.core.seeds import GAMMA, scramble

Ids = npt.NDArray[np.int64]

PIECE_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("query", pa.large_string()),
        ("positive", pa.large_string()),
        ("negatives", pa.list_(pa.large_string())),
        ("extra", pa.large_string()),
        ("more_positives", pa.list_(pa.large_string())),
        ("score", pa.float64()),
        ("label", pa.large_string()),
        ("scores", pa.list_(pa.float64())),
    ]
)
BESIDE = "beside"
"""Folder in that of a stage's job with the files that go beside the shards."""
OF_TEXTS = ("more_positives", "scores")
"""Columns that a stage may change together with the negatives."""
VERDICT_SCHEMA = pa.schema([("id", pa.int64()), ("reason", pa.string()), ("note", pa.string())])


def key_of(row: int) -> str:
    """The row's key in the shards."""
    return f"{row:09d}"


def seed_for(seed: int, purpose: str) -> int:
    """A number in [0, 2^64) that looks random; `purpose` keeps different uses of one seed apart."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{purpose}".encode(), digest_size=8).digest(), "big")


def scrambled(ids: Ids, seed: int, purpose: str) -> npt.NDArray[np.uint64]:
    """All randomness in prepare: a 64-bit number for each id, the same on any machine, whatever other rows there are.

    Different ids have different ones (SplitMix64 is a bijection), so sorting them is a shuffle without ties, and the n
    lowest are a random draw of n.
    """
    steps = ids.astype(np.uint64) + np.uint64(seed_for(seed, purpose))
    return scramble((steps - np.uint64(1)) * GAMMA)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one piece that all earlier stages kept. N of each column that was asked for, else none.

    ids: [N], ascending. negatives: () for a pair. extra: the other fields as a JSON object, "" when there are none.
    more_positives, score, scores: as of a `Sample`; label: as JSON, None where there is none.
    """

    ids: Ids
    query: list[str] = field(default_factory=list)
    positive: list[str] = field(default_factory=list)
    negatives: list[tuple[str, ...]] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    more_positives: list[tuple[str, ...]] = field(default_factory=list)
    score: list[float | None] = field(default_factory=list)
    label: list[str | None] = field(default_factory=list)
    scores: list[tuple[float | None, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(slots=True)
class Verdict:
    """What a stage that looks at one piece at a time decides for its N rows.

    dropped: position in the rows -> (reason, note for a reader). negatives, more_positives: new ones for all N rows
    (also of dropped ones); None: unchanged. scores: a teacher's of the positives and negatives as they then are; None:
    those that are known stay with their texts. statistics: numbers, dicts of numbers and lists of numbers, which add up
    over pieces.
    """

    dropped: dict[int, tuple[str, str]] = field(default_factory=dict)
    negatives: list[tuple[str, ...]] | None = None
    statistics: dict[str, Any] = field(default_factory=dict)
    more_positives: list[tuple[str, ...]] | None = None
    scores: list[tuple[float | None, ...]] | None = None

    def drop(self, position: int, reason: str, note: str = "") -> None:
        """Drop the row at a position. note: for a reader of the report."""
        self.dropped[position] = (reason, note)


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a stage that looks at the whole data set drops for one reason.

    ids: ascending. values: a number for each, which `note` shows: `{value}`, or `{key}` where it is a row's id.
    """

    ids: Ids
    values: Ids
    reason: str
    note: str = ""
    statistics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of rows. start: to be added to its numbers; its ids are below start + span. rows: how many it holds."""

    path: Path
    start: int
    span: int
    rows: int


@dataclass(frozen=True, slots=True)
class Table:
    """The pieces in order and the folders with the verdicts of the stages so far. Picklable; holds no rows."""

    pieces: tuple[Piece, ...]
    verdicts: tuple[Path, ...] = ()

    @property
    def num_pieces(self) -> int:
        return len(self.pieces)

    @property
    def end(self) -> int:
        """Every id is below it."""
        return self.pieces[-1].start + self.pieces[-1].span if self.pieces else 0

    def judged(self, folder: Path) -> Table:
        """This table after one more stage, whose verdicts lie in `folder`."""
        return replace(self, verdicts=(*self.verdicts, folder))

    def read(self, piece: int, columns: Sequence[str] = ("query", "positive", "negatives")) -> Rows:
        """The live rows of a piece."""
        batch = load_table(self.pieces[piece].path, ["number", *columns])
        ids = batch["number"].to_numpy() + self.pieces[piece].start
        alive = self._alive(piece, ids)
        if not alive.all():
            batch, ids = batch.filter(pa.array(alive)), ids[alive]
        values: dict[str, Any] = {name: batch[name].to_pylist() for name in columns}
        for name in {"negatives", "more_positives"} & set(columns):
            if changed := self._changed(piece, name, ids):
                values[name] = changed[1]
        for name in {"negatives", *OF_TEXTS} & set(columns):
            values[name] = [tuple(items) if items else () for items in values[name]]
        if "scores" in columns:
            values["scores"] = self._scores(piece, ids, values["scores"])
        return Rows(ids, **values)

    def has_scores(self) -> bool:
        """Whether a stage has left a teacher's scores."""
        none = np.empty(0, np.int64)
        return any(self._changed(piece, "scores", none) for piece in range(self.num_pieces))

    def ids(self, piece: int) -> Ids:
        """Ids of the live rows of a piece, ascending."""
        return self.read(piece, ()).ids

    def counts(self) -> list[int]:
        """Live rows of each piece."""
        dropped = [
            sum(load_table(path, ["id"]).num_rows for path in self._drops(piece)) for piece in range(self.num_pieces)
        ]
        return [piece.rows - gone for piece, gone in zip(self.pieces, dropped, strict=True)]

    def _drops(self, piece: int) -> Iterator[Path]:
        return (path for folder in self.verdicts if (path := drops_file(folder, piece)).exists())

    def _alive(self, piece: int, ids: Ids) -> npt.NDArray[np.bool_]:
        alive = np.ones(len(ids), dtype=bool)
        for path in self._drops(piece):
            alive[np.searchsorted(ids, load_table(path, ["id"])["id"].to_numpy())] = False
        return alive

    def _changed(self, piece: int, column: str, ids: Ids) -> tuple[int, list[Any]] | None:
        """How many stages there were when the column was last changed, and what these rows had then; None where none
        changed it."""
        for number in range(len(self.verdicts), 0, -1):
            path = changes_file(self.verdicts[number - 1], piece)
            if path.exists():
                table = load_table(path, ["id", column])
                if table[column].null_count < len(table):
                    places = pa.array(np.searchsorted(table["id"].to_numpy(), ids))
                    return number, table[column].combine_chunks().take(places).to_pylist()
        return None

    def _scores(self, piece: int, ids: Ids, given: list[tuple[float | None, ...]]) -> list[tuple[float | None, ...]]:
        """A teacher's scores go with their texts: what a stage after the teacher added has none."""
        columns = ("positive", "more_positives", "negatives")
        stages, scores = self._changed(piece, "scores", ids) or (0, given)
        scores = [tuple(one or ()) for one in scores]
        if stages == len(self.verdicts) or not any(scores):
            return scores
        before, now = replace(self, verdicts=self.verdicts[:stages]).read(piece, columns), self.read(piece, columns)
        kept = np.searchsorted(before.ids, ids)
        found = []
        for row, (place, known) in enumerate(zip(kept.tolist(), scores, strict=True)):
            old = (before.positive[place], *before.more_positives[place], *before.negatives[place])
            # A negative that is a positive as well goes, and leaves that one its own score.
            by_text = dict(zip(reversed(old), reversed(known), strict=True)) if known else {}
            new = (now.positive[row], *now.more_positives[row], *now.negatives[row])
            found.append(tuple(by_text.get(text) for text in new) if by_text else ())
        return found


def drops_file(folder: Path, piece: int) -> Path:
    """Where a stage leaves the rows of a piece it drops; absent when it drops none."""
    return folder / f"drops-{piece:06d}.arrow"


def changes_file(folder: Path, piece: int) -> Path:
    """Where a stage leaves new negatives of the live rows of a piece, further positives and scores (null where it does
    not change them); absent when it changes none."""
    return folder / f"negatives-{piece:06d}.arrow"


def write_table(path: Path, table: pa.Table) -> None:
    """An Arrow IPC file, whole or absent."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_atomic(path, sink.getvalue())


def load_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of an Arrow IPC file; their bytes stay in the file until they are used."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    return table.select(list(columns))
