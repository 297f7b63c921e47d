"""Token ids of a data set's texts, counted once by `jemb tokenize`, beside the shards they were made from.

A folder for each data set: `tokens.json`, and four arrays for each shard, which readers map into memory, with their
checksums beside them. A row's texts are numbered query, positives, negatives; `first` [rows + 1] says with which text
each row begins, `starts` [texts + 1] with which id each text, and `hashes` [texts] are those of the texts without
prompts.

Before: `jemb/pretokenize.py` writes them. After: `data/collate.py` makes the batches of the same steps from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jemb.core.errors import InputError
from jemb.core.files import MAX_MAPPED, check_sha256, inside, map_array, read_json, sha256_of, write_array, write_json
from jemb.shards.index import by_part
from jemb.shards.manifest import Manifest
from jemb.tables.places import is_url, to_local

if TYPE_CHECKING:
    from jemb.model import Encoder
    from jemb.shards.reader import ShardReader

Numbers = NDArray[np.int64]

TOKENS = "tokens.json"
FORMAT = 1
ARRAYS = ("ids", "starts", "first", "hashes")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What token ids depend on. fingerprint: of the data set; tokenizer: of the tokenizer with its length limit."""

    fingerprint: str
    tokenizer: str
    max_length: int | None
    query_prompt: str
    passage_prompt: str


def part_path(folder: Path, number: int, array: str) -> Path:
    return folder / f"{number:06d}.{array}.npy"


def has_part(folder: Path, number: int) -> bool:
    return _sums_path(folder, number).is_file()  # written last


def write_part(folder: Path, number: int, arrays: Mapping[str, NDArray[Any]]) -> None:
    """The arrays of one shard, and at last their checksums; each file is whole or absent."""
    for name in ARRAYS:
        write_array(part_path(folder, number, name), arrays[name])
    write_json(_sums_path(folder, number), {name: sha256_of(part_path(folder, number, name)) for name in ARRAYS})


def _sums_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.sha256.json"


def start_tokens(folder: Path, recipe: Recipe) -> None:
    """Make `folder` ready for the parts. Raises `InputError` for other tokens in it."""
    if (folder / TOKENS).is_file():
        _check_recipe(folder, recipe)
        for leftover in folder.glob(".*.tmp"):  # of a killed start
            leftover.unlink()
    else:
        write_json(folder / TOKENS, {"format": FORMAT, "recipe": asdict(recipe)})


def _check_recipe(folder: Path, recipe: Recipe) -> None:
    """`InputError` for tokens of another recipe, with the first difference."""
    path = folder / TOKENS
    found = read_json(path, {"format": int, "recipe": {}})
    seen, wanted = ({"format": found["format"], **found["recipe"]}, {"format": FORMAT, **asdict(recipe)})
    for name, value in wanted.items():
        if name not in seen or seen[name] != value:
            raise InputError(
                f"{path}: made with {name} {seen.get(name)!r}, wanted {value!r}; use another folder, or remove {folder}"
            )


def recipe_of(manifest: Manifest, encoder: Encoder) -> Recipe:
    return Recipe(
        fingerprint=manifest.fingerprint,
        tokenizer=encoder.tokenize.fingerprint,
        max_length=encoder.max_length,
        query_prompt=encoder.prompt("query", manifest.name),
        passage_prompt=encoder.prompt("document", manifest.name),
    )


def open_tokens(folder: str, readers: Mapping[str, ShardReader], encoder: Encoder) -> dict[str, TokenReader]:
    """The stored tokens of every data set. Raises InputError where they are not those of this encoder's tokenizer."""
    place, found = token_folder(folder, "tokens"), {}
    for name, reader in readers.items():
        inner, recipe = inside(place, name, f"tokens={folder}"), recipe_of(reader.manifest, encoder)
        found[name] = TokenReader(inner, reader.manifest, recipe, len(encoder.embeddings))
    return found


def token_folder(given: str, option: str) -> Path:
    place = to_local(given)
    if is_url(place):
        raise InputError(f"{option}={given}: wanted a folder; token ids are mapped into memory, not fetched")
    return Path(place)


class TokenReader:
    """The token ids of one data set, whose rows are numbered as by its `ShardReader`.

    vocabulary: ids below it have an embedding. Raises `InputError` where they are not there or not finished, or where
    they were made by another recipe.
    """

    def __init__(self, folder: Path, manifest: Manifest, recipe: Recipe, vocabulary: int = 2**32) -> None:
        self.vocabulary = vocabulary
        if not (folder / TOKENS).is_file():
            raise InputError(
                f"{folder}: no tokens of the data set {manifest.name} (no {TOKENS}); `jemb tokenize` makes them"
            )
        _check_recipe(folder, recipe)
        if not all(has_part(folder, number) for number in range(len(manifest.shards))):
            raise InputError(f"{folder}: not finished; run the same `jemb tokenize` command again")
        self._places = [(folder, number, shard.num_samples) for number, shard in enumerate(manifest.shards)]
        self._starts = np.array([0, *accumulate(size for _, _, size in self._places)])

    @staticmethod
    def joined(tokens: Sequence[TokenReader]) -> TokenReader:
        """One of the rows of all, which follow each other."""
        one = copy(tokens[0])
        one._places = [place for each in tokens for place in each._places]
        one._starts = np.array([0, *accumulate(size for _, _, size in one._places)])
        return one

    def verify_part(self, number: int) -> int:
        """Compare the arrays of a shard with their checksums; the bytes that were read. Raises `InputError` with both
        sums."""
        folder, number, _ = self._places[number]
        path = _sums_path(folder, number)
        sums, done = read_json(path, dict.fromkeys(ARRAYS, str)), 0
        for name in ARRAYS:
            done += check_sha256(part_path(folder, number, name), sums[name], path.name, _again(folder))
        return done

    def count(self, rows: Numbers) -> Numbers:
        """Texts of each row [N]."""
        found = np.empty(len(rows), dtype=np.int64)
        for chosen, part, local in self._parts(rows):
            found[chosen] = part.first[local + 1] - part.first[local]
        return found

    def take(self, rows: Numbers, places: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Text `places[i]` of row `rows[i]`, 0 <= place < its count -> (ids one after the other [sum of lengths],
        lengths [N], hashes [N])."""
        parts = []
        lengths, hashes = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.int64)
        for chosen, part, local in self._parts(rows):
            texts = part.first[local] + places[chosen]
            begin = part.starts[texts]
            lengths[chosen] = part.starts[texts + 1] - begin
            hashes[chosen] = part.hashes[texts]
            parts.append((chosen, part, begin))
        ends = np.cumsum(lengths)
        ids = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.int64)
        for chosen, part, begin in parts:
            found = part.ids[_ranges(begin, lengths[chosen])]
            if found.max(initial=0) >= self.vocabulary:
                raise InputError(
                    f"{part.path}: has the id {found.max()}, but the model has only {self.vocabulary} embeddings: it "
                    f"has changed; {_again(part.path.parent)}"
                )
            ids[_ranges((ends - lengths)[chosen], lengths[chosen])] = found
        return ids, lengths, hashes

    def _parts(self, rows: Numbers) -> Iterator[tuple[Numbers, _Part, Numbers]]:
        """(which of `rows`, their shard's arrays, their numbers in it)."""
        for number, chosen, local in by_part(self._starts, rows):
            yield chosen, _open_part(*self._places[number]), local


@dataclass(frozen=True, slots=True)
class _Part:
    ids: NDArray[Any]
    starts: Numbers
    first: NDArray[Any]
    hashes: Numbers
    path: Path


@lru_cache(maxsize=MAX_MAPPED // len(ARRAYS))
def _open_part(folder: Path, number: int, size: int) -> _Part:
    arrays = ids, starts, first, hashes = [map_array(part_path(folder, number, one), _again(folder)) for one in ARRAYS]
    part = _Part(ids, starts, first, hashes, part_path(folder, number, "ids"))
    numbers = all(array.ndim == 1 and array.dtype.kind in "iu" for array in arrays)
    if not numbers or not (
        len(part.first) == size + 1
        and len(part.hashes) == part.first[-1] == len(part.starts) - 1
        and len(part.ids) == part.starts[-1]
    ):
        raise InputError(f"{part.path}: the arrays do not belong together; {_again(folder)}")
    return part


def _again(folder: Path) -> str:
    return f"remove {folder} and run `jemb tokenize` again"


def _ranges(starts: Numbers, lengths: Numbers) -> Numbers:
    """The numbers from starts[i] on, lengths[i] of them, for all i one after the other."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(int(ends[-1]) if len(ends) else 0)
