"""Texts as they are compared: lower case, words with one space between; packed end to end as UTF-8, without Python's
strings.

Before: rows of a piece. After: `minhash.py` signs what is folded here, and `near/check.py` compares it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jemb.config import DuplicateSide
from jemb.core.text import is_mark, stands_alone, words
from jemb.prepare.equal import Numbers, ends
from jemb.prepare.near.kernel import kernel, read_only

ASK = 0xFFFFFFFF
"""In the table of letters: this one is left to Python."""
MARK, ALONE, CODE = 1 << 30, 1 << 31, (1 << 30) - 1
"""Bits there: it belongs to the letter before it; it is a word by itself; its code point."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Packed:
    """N texts as UTF-8, end to end: text i is data[offsets[i]:offsets[i + 1]]. offsets: [N + 1]."""

    data: Bytes
    offsets: Numbers

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes().decode()

    def lengths(self, rows: Numbers) -> Numbers:
        """Bytes of each of these texts."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def take(self, rows: Numbers) -> Packed:
        """These texts, in this order."""
        offsets = ends(self.lengths(rows))
        data = np.empty(offsets[-1], np.uint8)
        copy_runs(self.data, self.offsets[rows], np.diff(offsets), offsets[:-1], data)
        return Packed(data, offsets)


def pack(texts: Sequence[str]) -> Packed:
    """The texts as they are. A lone surrogate raises UnicodeEncodeError."""
    array = pa.array(texts, pa.large_string())
    _, offsets, data = array.buffers()
    if not len(array):
        return Packed(np.empty(0, np.uint8), np.zeros(1, np.int64))
    return Packed(np.frombuffer(data or b"", np.uint8), np.frombuffer(offsets, np.int64, len(array) + 1))


def fold_text(text: str, apart: bool = False) -> str:
    """The words of `text` in lower case, one space between, no punctuation. apart: as in `jemb.core.text.words`.

    A text of punctuation alone is compared as it is, or all of them would be equal.
    """
    return " ".join(words(text.lower(), apart)) or " ".join(text.replace("\0", " ").split())


def fold(texts: Packed, apart: bool = False) -> Packed:
    """`fold_text` of each."""
    # A letter that gets a space before it has three bytes or more.
    data = np.empty(len(texts.data) + (len(texts.data) // 3 if apart else 0) + 2, np.uint8)
    offsets = np.zeros(len(texts) + 1, np.int64)
    ask = np.zeros(len(texts), np.bool_)
    _fold(read_only(texts.data), read_only(texts.offsets), _letters(apart), data, offsets, ask)
    folded = Packed(data[: offsets[-1]], offsets)
    return _replaced(folded, ask, texts, apart) if ask.any() else folded


def fold_rows(
    query: Sequence[str],
    positive: Sequence[str],
    negatives: Sequence[Sequence[str]],
    side: DuplicateSide,
    apart: bool = False,
) -> Packed:
    """What is compared of each row, its parts split by NUL. apart: as in `fold`.

    `both` has a part for the query and one for the positive, `joined` one for the two together; a triplet adds its
    negatives as a part, since the same texts in other roles teach something else.
    """
    if side in ("query", "positive"):
        return fold(pack(query if side == "query" else positive), apart)
    if side == "both":
        parts = [fold(pack(query), apart), fold(pack(positive), apart)]
    else:
        parts = [fold(pack([f"{one} {other}" for one, other in zip(query, positive, strict=True)]), apart)]
    if any(negatives):
        parts.append(fold(pack([" ".join(texts) for texts in negatives]), apart))
    if len(parts) == 1:
        return parts[0]
    last = np.array([bool(texts) for texts in negatives]) if any(negatives) else np.ones(len(query), np.bool_)
    return _joined(parts, last)


def _joined(parts: Sequence[Packed], last: npt.NDArray[np.bool_]) -> Packed:
    """The parts of each row with NUL between; the last part only of rows where `last`."""
    lengths = [np.diff(part.offsets) for part in parts]
    lengths[-1] = np.where(last, lengths[-1], 0)
    splits = len(parts) - 2 + last.astype(np.int64)
    offsets = ends(np.sum(lengths, axis=0) + splits)
    data = np.zeros(offsets[-1], np.uint8)
    start = offsets[:-1].copy()
    for part, size in zip(parts, lengths, strict=True):
        copy_runs(part.data, part.offsets[:-1], size, start, data)
        start += size + 1
    return Packed(data, offsets)


def _replaced(folded: Packed, ask: npt.NDArray[np.bool_], texts: Packed, apart: bool) -> Packed:
    """`folded` with the texts in question done by Python."""
    rows = np.flatnonzero(ask)
    ours = pack([fold_text(texts[row], apart) for row in rows.tolist()])
    lengths = np.diff(folded.offsets)
    lengths[rows] = np.diff(ours.offsets)
    offsets = ends(lengths)
    data = np.empty(offsets[-1], np.uint8)
    copy_runs(folded.data, folded.offsets[:-1], np.diff(folded.offsets), offsets[:-1], data)
    copy_runs(ours.data, ours.offsets[:-1], np.diff(ours.offsets), offsets[rows], data)
    return Packed(data, offsets)


@cache
def _letters(apart: bool) -> npt.NDArray[np.uint32]:
    """[65536]: for each code point of the basic plane its lower case, 0 when it is no part of a word, or ASK; with the
    bits MARK and, where `apart`, ALONE.

    Python is asked where lower case is several letters, longer in UTF-8, or decided by its neighbours (the final
    sigma), and for the planes beyond.
    """
    table = np.zeros(1 << 16, np.uint32)
    for code in range(1 << 16):
        low = chr(code).lower()
        if len(low) > 1 or chr(code) == "Σ" or _size(low) > _size(chr(code)):
            table[code] = ASK
        elif low.isalnum() or low == "_":
            table[code] = ord(low) | (ALONE if apart and stands_alone(low) else 0)
        elif is_mark(low):
            table[code] = ord(low) | MARK
    return table


def _size(letter: str) -> int:
    return len(letter.encode(errors="surrogatepass"))


@kernel
def _fold(data, offsets, letters, out, out_offsets, ask):  # type: ignore[no-untyped-def]
    # Unsigned places: numba looks at a signed one for whether it counts from the end, which takes half the time.
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    mark, alone, code = np.uint32(MARK), np.uint32(ALONE), np.uint32(CODE)
    o = np.uint64(0)
    for row in range(len(offsets) - 1):
        start = o
        at = np.uint64(offsets[row])
        end = np.uint64(offsets[row + 1])
        inside = False  # a word
        closed = False  # that is one letter
        while at < end:
            byte = np.uint32(data[at])
            if byte < 128:
                at += one
                letter = letters[byte]
                if closed and letter != 0:
                    out[o] = 32
                    o += one
                closed = False
                out[o] = letter if letter != 0 else 32
                o += np.uint64(inside or letter != 0)
                inside = letter != 0
                continue
            if byte >= 0xF0:
                ask[row] = True
                break
            if byte >= 0xE0:
                middle, last = np.uint32(data[at + one]) & 0x3F, np.uint32(data[at + two]) & 0x3F
                byte = (byte & 0x0F) << 12 | middle << 6 | last
                at += three
            else:
                byte = (byte & 0x1F) << 6 | (np.uint32(data[at + one]) & 0x3F)
                at += two
            letter = letters[byte]
            if letter == ASK:
                ask[row] = True
                break
            if letter & mark and not inside:
                letter = np.uint32(0)
            if letter & mark == 0:
                if letter != 0 and (closed or (inside and letter & alone)):
                    out[o] = 32
                    o += one
                closed = letter & alone != 0
            letter &= code
            if letter == 0:
                out[o] = 32
                o += np.uint64(inside)
            elif letter < 0x80:
                out[o] = letter
                o += one
            elif letter < 0x800:
                out[o] = 0xC0 | letter >> 6
                out[o + one] = 0x80 | letter & 0x3F
                o += two
            else:
                out[o] = 0xE0 | letter >> 12
                out[o + one] = 0x80 | letter >> 6 & 0x3F
                out[o + two] = 0x80 | letter & 0x3F
                o += three
            inside = letter != 0
        if ask[row]:
            o = start
        elif o == start:
            ask[row] = offsets[row + 1] > offsets[row]
        elif not inside:
            o -= one
        out_offsets[row + 1] = o


@kernel
def copy_runs(data, starts, lengths, targets, out):  # type: ignore[no-untyped-def]
    """Copy each run of bytes of `data` to its target in `out`."""
    for row in range(len(lengths)):
        shift = targets[row] - starts[row]
        for at in range(starts[row], starts[row] + lengths[row]):
            out[at + shift] = data[at]
