"""How two texts are compared, and what a word is, wherever that matters."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from functools import cache

WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x1AAF), (0xA980, 0xA9DF),  # Tai Le, New Tai Lue, Tai Tham; Javanese
    (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),  # to here: Chinese characters
    (0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F),  # Japanese kana
    (0xA000, 0xA4CF),  # Yi
)  # fmt: skip
"""First and last code points of the scripts that put no spaces between words: each of their letters counts as a word,
nearly as Unicode's default word boundaries have it (UAX #29), since only a dictionary could find the words."""


def normalise(text: str) -> str:
    """`text` as it is compared: white space folded to single spaces, none at the ends, case folded."""
    return " ".join(text.split()).casefold()


def content_hash(text: str) -> int:
    """Signed 64-bit hash of the normalised text; equal on every machine."""
    digest = hashlib.blake2b(normalise(text).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def words(text: str, apart: bool = True) -> list[str]:
    """The words of `text`: runs of letters, digits and underscores with their marks (accents, vowel signs).

    apart: each letter of a script without spaces is a word; else runs of them are whole.
    """
    if text.isascii():
        return _ASCII.findall(text)
    whole, pieces, alone = _patterns()
    found = whole.findall(text)
    if not apart or not alone.search(text):
        return found
    return [piece for word in found for piece in (pieces.findall(word) if alone.search(word) else [word])]


def count_words(text: str) -> int:
    """How many words stand between white space, in any script."""
    tokens = text.split()
    if text.isascii() or not stands_alone(text):
        return len(tokens)
    return sum(max(1, len(words(token))) if stands_alone(token) else 1 for token in tokens)


def stands_alone(text: str) -> bool:
    """Whether a letter of a script without spaces is in `text`."""
    return _patterns()[2].search(text) is not None


def is_mark(letter: str) -> bool:
    """Whether it belongs to the letter before it."""
    return unicodedata.category(letter).startswith("M")


_ASCII = re.compile(r"\w+")


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """A word with its marks; what a word falls into where letters stand alone; a letter that does."""
    marks = [code for code in (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)) if is_mark(chr(code))]  # all there are
    mark = _one_of((code, code) for code in marks)
    letter = rf"(?={_one_of(WITHOUT_SPACES)})[^\W\d_]"
    return (
        re.compile(rf"\w+(?:{mark}+\w*)*"),
        re.compile(rf"{letter}{mark}*|(?:(?!{letter})\w{mark}*)+"),
        re.compile(letter),
    )


def _one_of(ranges: Iterable[tuple[int, int]]) -> str:
    """A pattern for one of these code points. Python looks those of the basic plane up in a table, but only where no
    others stand in the same brackets."""
    planes = ["", ""]
    for first, last in ranges:
        planes[first > 0xFFFF] += f"{chr(first)}-{chr(last)}"
    return f"(?:[{planes[0]}]|(?=[\U00010000-\U0010ffff])[{planes[1]}])"


def listed_texts(text: str) -> list[str]:
    """The texts of a JSON list of texts, as a cell of a table holds it or a chat model answers; none where `text` is
    something else."""
    if text.lstrip()[:1] != "[":
        return []
    try:
        items: list[str] = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return items if all(isinstance(item, str) for item in items) else []
