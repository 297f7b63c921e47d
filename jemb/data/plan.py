"""The batch plan: which samples make up global batch t. A pure function: position is one integer, ranks need not talk.

Before: the manifests' sizes and fingerprints, and `small.py` for data sets smaller than a batch. After: `sampler.py`
reads the rows of this rank.

Laws, each held by a test:
- a batch holds samples of one data set, drawn by P(i) = |D_i| s_i / sum_j |D_j| s_j (arXiv 2307.11224, section 3.1);
- a data set is used up once before any of its samples comes again, and each pass has a new order;
- no batch holds a sample twice, also where one pass ends and the next begins inside it;
- with `shuffle_shards`, the rows of a batch come from the few windows of whole shards that `windows` names, so that
  no more shards need be at hand;
- the batches of a data set all have one size: the global batch size, or one of its own where it has fewer samples;
- the plan depends on (names, sizes, fingerprints, weights, seed, global batch size, with `shuffle_shards` on that and
  on the shards' sizes, with small data sets on what is done with them) and nothing else: not on where the shards lie,
  nor on the number of processes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jemb.core.errors import InputError
from jemb.data.permutation import WindowedPass, mix, permute, shuffled
from jemb.data.small import PlanSource, SmallDatasets, own_batch, settle_small

PLAN_VERSION = 1
BLOCK = 1024
"""Steps over which each data set gets its exact share, in a keyed random order."""

Rows = NDArray[np.int64]
Patch = tuple[Rows, Rows]
"""(positions in a pass, the rows to put there)."""
Window = tuple[int, int]
"""(number of the pass, number of the window in it)."""


class BatchPlan:
    """Global batches of `global_batch_size` rows each, by step = 0, 1, 2, …

    small_datasets: what is done with data sets that have fewer rows than that, see `settle_small`; `note` says it.
    shuffle_shards: None: any row of a data set may come next; N: rows are shuffled within windows of N whole shards.
    Time for a batch is O(global_batch_size), memory O(number of data sets), whatever the number of samples; with
    `shuffle_shards` the first batch of a pass and the memory are O(number of shards). Only for a data set under three
    batches long a far step needs all of its earlier passes, and so does a jump back.
    Raises InputError for a data set smaller than the batch that is to be refused, and where none is left.
    """

    def __init__(
        self,
        sources: Sequence[PlanSource],
        *,
        seed: int,
        global_batch_size: int,
        shuffle_shards: int | None = None,
        small_datasets: SmallDatasets = "own_size",
    ) -> None:
        self.sources, self.note = settle_small(sources, global_batch_size, small_datasets)
        self._sizes = [own_batch(source.num_samples, global_batch_size) for source in self.sources]
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.shuffle_shards = shuffle_shards
        assert not shuffle_shards or all(sum(s.shard_sizes) == s.num_samples for s in self.sources)
        exact = [Fraction(str(s.weight)) * s.num_samples for s in self.sources]
        total = sum(exact)
        self._shares = [max(1, round(2**40 * share / total)) for share in exact]
        self._keys = [mix("order", seed, s.name) for s in self.sources]
        self._schedule = lru_cache(maxsize=4)(self._make_schedule)
        self._patch = lru_cache(maxsize=256)(self._make_patch)
        # A batch at the border of two passes needs both.
        self._windowed = lru_cache(maxsize=2 * len(self.sources))(self._make_windowed)
        self._furthest: dict[int, tuple[int, Patch]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        size, number = self.global_batch_size, self.shuffle_shards
        return partial(BatchPlan, seed=self.seed, global_batch_size=size, shuffle_shards=number), (self.sources,)

    @property
    def fingerprint(self) -> str:
        """sha256 of everything the plan depends on. Runs with equal fingerprints see equal batches."""
        facts: dict[str, Any] = {
            "version": PLAN_VERSION,
            "seed": self.seed,
            "global_batch_size": self.global_batch_size,
            "sources": [[s.name, s.num_samples, s.fingerprint, str(s.weight)] for s in self.sources],
        }
        if self.shuffle_shards:  # so that plans without it keep the fingerprints they had before there was such a thing
            facts["shuffle_shards"] = [self.shuffle_shards, *(s.shard_sizes for s in self.sources)]
        if set(self._sizes) != {self.global_batch_size}:
            facts["batch_sizes"] = self._sizes
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def shares(self) -> dict[str, float]:
        """P(i) of each data set; they sum to 1."""
        total = sum(self._shares)
        return {s.name: share / total for s, share in zip(self.sources, self._shares, strict=True)}

    @property
    def dataset_shares(self) -> dict[str, float]:
        """The same of each data set that was given and not left out: a joined one's is that of its rows."""
        return {
            member.name: self.shares[source.name] * member.num_samples / source.num_samples
            for source in self.sources
            for member in source.members or (source,)
        }

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Rows in the batches of each data set."""
        return {s.name: size for s, size in zip(self.sources, self._sizes, strict=True)}

    @property
    def num_samples(self) -> int:
        return sum(source.num_samples for source in self.sources)

    @property
    def steps_of_a_pass(self) -> int:
        """Steps that take as many rows as there are."""
        rows = sum(share * size for share, size in zip(self._shares, self._sizes, strict=True))
        return -(-self.num_samples * sum(self._shares) // rows)

    def check_processes(self, number: int) -> None:
        """Raises InputError where a batch cannot be divided among so many processes."""
        if self.global_batch_size % number:
            raise InputError(
                f"global_batch_size={self.global_batch_size} cannot be divided among {number} processes: use a "
                f"multiple of {number}"
            )
        for name, size in self.batch_sizes.items():
            if size % number:
                raise InputError(
                    f"data set {name} is smaller than global_batch_size={self.global_batch_size}, and its batches of "
                    f"{size} cannot be divided among {number} processes: use a number of them that divides "
                    f"{math.gcd(size, self.global_batch_size)}, or small_datasets=leave_out"
                )

    def passes(self, steps: int) -> dict[str, float]:
        """How often each data set has been gone through after `steps` steps."""
        block, inside = divmod(steps, BLOCK)
        order, _ = self._schedule(block)
        begun = np.bincount(order[:inside], minlength=len(self.sources)).tolist()
        used = [whole + part for whole, part in zip(self._counts(block * BLOCK), begun, strict=True)]
        return {
            s.name: count * size / s.num_samples for s, count, size in zip(self.sources, used, self._sizes, strict=True)
        }

    def batch(self, step: int) -> tuple[str, Rows]:
        """(data set, its row numbers [`batch_sizes` of it], all different) of global batch `step` >= 0."""
        source, occurrence = self._source_at(step)
        first = occurrence * self._sizes[source]
        return self.sources[source].name, self._stream(source, first, first + self._sizes[source])

    def windows(self, step: int) -> tuple[str, list[Window]]:
        """(data set, windows that hold all rows of global batch `step`). Without `shuffle_shards`, (0, 0) is all."""
        source, occurrence = self._source_at(step)
        name, n, size = self.sources[source].name, self.sources[source].num_samples, self._sizes[source]
        if not self.shuffle_shards:
            return name, [(0, 0)]
        found: list[Window] = []
        start, stop = occurrence * size, (occurrence + 1) * size
        for number in range(start // n, (stop - 1) // n + 1):
            first, last = max(start - number * n, 0), min(stop - number * n, n)
            if first < 2 * size:  # where a pass is patched, rows change places within so many
                first, last = 0, min(max(last, 2 * size), n)
            found += [(number, window) for window in self._windowed(source, number).windows(first, last)]
        return name, found

    def window_shards(self, name: str, window: Window) -> Rows:
        """The numbers of the shards in a window of data set `name`, `shuffle_shards` of them but for the last one."""
        source = next(number for number, source in enumerate(self.sources) if source.name == name)
        if not self.shuffle_shards:
            return np.arange(len(self.sources[source].shard_sizes))
        return self._windowed(source, window[0]).shards(window[1])

    def _source_at(self, step: int) -> tuple[int, int]:
        """(data set number, how many earlier batches it had)."""
        block, inside = divmod(step, BLOCK)
        order, occurrences = self._schedule(block)
        return int(order[inside]), int(occurrences[inside])

    def _make_schedule(self, block: int) -> tuple[Rows, Rows]:
        before = self._counts(block * BLOCK)
        quotas = [after - used for after, used in zip(self._counts((block + 1) * BLOCK), before, strict=True)]
        order = np.repeat(np.arange(len(quotas)), quotas)[shuffled(BLOCK, mix("schedule", self.seed, block))]
        occurrences = np.empty(BLOCK, dtype=np.int64)
        for number, used in enumerate(before):
            mine = np.flatnonzero(order == number)
            occurrences[mine] = used + np.arange(mine.size)
        return order, occurrences

    def _counts(self, steps: int) -> list[int]:
        """Batches of each data set among the first `steps` steps.

        Divided down a binary tree by exact integer proportion, so that counts sum to `steps`, never fall as `steps`
        grows, and stay within ceil(log2 D) + 1 of steps * P(i). (A floor per data set would not sum up.)
        """
        counts = [0] * len(self._shares)

        def divide(low: int, high: int, amount: int) -> None:
            if high - low == 1:
                counts[low] = amount
                return
            middle = (low + high) // 2
            left, total = sum(self._shares[low:middle]), sum(self._shares[low:high])
            phase = mix("phase", self.seed, low, high) % total
            to_left = (amount * left + phase) // total
            divide(low, middle, to_left)
            divide(middle, high, amount - to_left)

        divide(0, len(counts), steps)
        return counts

    def _stream(self, source: int, start: int, stop: int) -> Rows:
        """Positions [start, stop) of a data set's endless sequence of passes, as row numbers."""
        n = self.sources[source].num_samples
        parts = []
        while start < stop:
            number, inside = divmod(start, n)
            length = min(stop - start, n - inside)
            parts.append(self._pass(source, number, inside, inside + length))
            start += length
        return np.concatenate(parts)

    def _pass(self, source: int, number: int, start: int, stop: int) -> Rows:
        """Positions [start, stop) of one pass."""
        return _patched(self._raw_pass(source, number, start, stop), start, self._patch(source, number))

    def _raw_pass(self, source: int, number: int, start: int, stop: int) -> Rows:
        if start == stop:
            return _NOTHING[0].copy()
        if self.shuffle_shards:
            return self._windowed(source, number).rows(start, stop)
        n = self.sources[source].num_samples
        return permute(np.arange(start, stop, dtype=np.int64), n, mix("pass", self._keys[source], number))

    def _make_windowed(self, source: int, number: int) -> WindowedPass:
        assert self.shuffle_shards
        sizes = np.array(self.sources[source].shard_sizes)
        return WindowedPass(sizes, self.shuffle_shards, mix("pass", self._keys[source], number))

    def _make_patch(self, source: int, number: int) -> Patch:
        """The swaps that keep the batch in which pass `number` begins from repeating a row of the pass before."""
        n, size = self.sources[source].num_samples, self._sizes[source]
        if number == 0:
            return _NOTHING
        if n >= 3 * size:  # the end of the pass before is out of reach of its own patch
            tail = (number * n) % size
            return self._swaps(source, number, self._raw_pass(source, number - 1, n - tail, n))
        # A short pass is patched up to its end, so each patch needs the one before: go on from the furthest one known.
        at, patch = self._furthest.get(source, (0, _NOTHING))
        if at > number:
            at, patch = 0, _NOTHING
        while at < number:
            tail = ((at + 1) * n) % size
            last = _patched(self._raw_pass(source, at, n - tail, n), n - tail, patch)
            at += 1
            patch = self._swaps(source, at, last)
        self._furthest[source] = at, patch
        return patch

    def _swaps(self, source: int, number: int, last: Rows) -> Patch:
        """Where the rows of pass `number` that share a batch with `last` repeat it, they change places with the next
        rows that do not. There are always enough of them, for the data set is at least one batch long."""
        if last.size == 0:
            return _NOTHING
        size = self._sizes[source]
        head = size - last.size
        reach = min(self.sources[source].num_samples, head + size)
        rows = self._raw_pass(source, number, 0, reach)
        repeated = np.isin(rows, last)
        wrong = np.flatnonzero(repeated[:head])
        right = head + np.flatnonzero(~repeated[head:])[: wrong.size]
        return np.concatenate([wrong, right]), np.concatenate([rows[right], rows[wrong]])


def _patched(rows: Rows, start: int, patch: Patch) -> Rows:
    """`rows`, which stand at positions start, start + 1, … of their pass, with the patch's values put in."""
    positions, values = patch
    inside = (positions >= start) & (positions < start + rows.size)
    rows[positions[inside] - start] = values[inside]
    return rows


_NOTHING: Patch = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
