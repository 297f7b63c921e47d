"""Rows and token ids of what the plan calls a data set: one as it is, or several joined, whose rows follow each other.

Before: `plan.py` names a source and rows of it. After: `sampler.py` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from jemb.core.errors import InputError
from jemb.core.files import inside
from jemb.core.records import Sample
from jemb.data.deal import Numbers, PayloadSizes
from jemb.data.small import PlanSource
from jemb.shards import ShardReader, TokenReader
from jemb.shards.index import by_part
from jemb.shards.tokens import Recipe
from jemb.tables.places import is_url, to_local

if TYPE_CHECKING:
    from jemb.model import Encoder


class SourceRows:
    """The samples of a source, and their sizes in bytes. The keys of joined data sets get the name of theirs before
    them: `NAME/KEY`."""

    def __init__(self, readers: Mapping[str, ShardReader]) -> None:
        self.readers = list(readers.items())
        self.starts = [0, *accumulate(len(reader) for reader in readers.values())]
        self._sizes = [PayloadSizes(reader) for reader in readers.values()]

    def read(self, row: int) -> Sample:
        name, reader, local = self._at(row)
        sample = reader.read(local)
        return sample if len(self.readers) == 1 else replace(sample, key=f"{name}/{sample.key}")

    def key(self, row: int) -> str:
        name, reader, local = self._at(row)
        return reader.key(local) if len(self.readers) == 1 else f"{name}/{reader.key(local)}"

    def sizes(self, rows: Numbers) -> Numbers:
        """Bytes of these rows' samples [N]."""
        found = np.empty(len(rows), dtype=np.int64)
        for number, chosen, local in by_part(self.starts, rows):
            found[chosen] = self._sizes[number](local)
        return found

    def _at(self, row: int) -> tuple[str, ShardReader, int]:
        number = int(np.searchsorted(self.starts, row, side="right")) - 1 if len(self.readers) > 1 else 0
        return *self.readers[number], row - self.starts[number]


class StoredTokens(Protocol):
    """As `TokenReader` has it."""

    def count(self, rows: Numbers) -> Numbers: ...

    def take(self, rows: Numbers, places: Numbers) -> tuple[Numbers, Numbers, Numbers]: ...


class JoinedTokens:
    """The stored tokens of joined data sets as one."""

    def __init__(self, members: Sequence[tuple[TokenReader, int]]) -> None:
        self.tokens = [tokens for tokens, _ in members]
        self.starts = [0, *accumulate(size for _, size in members)]

    def count(self, rows: Numbers) -> Numbers:
        found = np.empty(len(rows), dtype=np.int64)
        for number, chosen, local in by_part(self.starts, rows):
            found[chosen] = self.tokens[number].count(local)
        return found

    def take(self, rows: Numbers, places: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        texts: list[Numbers] = [np.empty(0, dtype=np.int64)] * len(rows)
        lengths, hashes = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.int64)
        for number, chosen, local in by_part(self.starts, rows):
            ids, lengths[chosen], hashes[chosen] = self.tokens[number].take(local, places[chosen])
            for row, text in zip(chosen.tolist(), np.split(ids, np.cumsum(lengths[chosen])[:-1]), strict=True):
                texts[row] = text
        return np.concatenate(texts), lengths, hashes


def rows_of(source: PlanSource, readers: Mapping[str, ShardReader]) -> SourceRows:
    return SourceRows({member.name: readers[member.name] for member in source.members or (source,)})


def tokens_of(source: PlanSource, tokens: Mapping[str, TokenReader]) -> StoredTokens:
    if not source.members:
        return tokens[source.name]
    return JoinedTokens([(tokens[member.name], member.num_samples) for member in source.members])


def recipe_of(name: str, reader: ShardReader, encoder: Encoder) -> Recipe:
    return Recipe(
        fingerprint=reader.manifest.fingerprint,
        tokenizer=encoder.tokenize.fingerprint,
        max_length=encoder.max_length,
        query_prompt=encoder.prompt("query", name),
        passage_prompt=encoder.prompt("document", name),
    )


def open_tokens(folder: str, readers: Mapping[str, ShardReader], encoder: Encoder) -> dict[str, TokenReader]:
    """The stored tokens of every data set. Raises InputError where they are not those of this encoder's tokenizer."""
    place = token_folder(folder, "tokens")
    return {
        name: TokenReader(
            inside(place, name, f"tokens={folder}"),
            reader.manifest,
            recipe_of(name, reader, encoder),
            len(encoder.embeddings),
        )
        for name, reader in readers.items()
    }


def token_folder(given: str, option: str) -> Path:
    place = to_local(given)
    if is_url(place):
        raise InputError(f"{option}={given}: wanted a folder; token ids are mapped into memory, not fetched")
    return Path(place)
