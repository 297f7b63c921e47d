"""Samples to a `Batch`: token ids, padding, content hashes, and which of a sample's negatives are used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jemb.core.records import Batch, Sample, Tokens
from jemb.core.text import content_hash
from jemb.data.permutation import mix, shuffled
from jemb.data.wanted import Wanted
from jemb.shards import TokenReader
from jemb.shards.teacher import TeacherVectors

Numbers = NDArray[np.int64]
Part = tuple[Tokens, Tensor]
"""Texts, and their content hashes."""


@dataclass(frozen=True, slots=True)
class Collate:
    """Makes the batch of one step.

    tokenize: texts -> padded Tokens. num_negatives: K, how many of each sample's negatives to use; 0 for pairs.
    query_prompt, passage_prompt: put before each query, and before each positive and negative; dataset_prompts: those
    of data sets that have others. The hashes are those of the texts alone, or a query could not be found equal to a
    passage. pad_id: what stored ids are padded with. wanted: data sets of which something else than K is wanted.
    teachers: of the data sets that are learned from vectors.
    Which of its positives and negatives a step has is a function of (seed, step, key), so it is the same however often
    and on whatever rank it is asked. Of a sample with fewer some come more than once, and one without negatives has its
    positive in their place, which the loss hides as equal; `Batch.negatives_short` and `positives_short` count such.
    """

    tokenize: Callable[[Sequence[str]], Tokens]
    num_negatives: int
    seed: int
    query_prompt: str = ""
    passage_prompt: str = ""
    pad_id: int = 0
    dataset_prompts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    wanted: Mapping[str, Wanted] = field(default_factory=dict)
    teachers: Mapping[str, TeacherVectors] = field(default_factory=dict)

    def __call__(self, step: int, dataset: str, samples: Sequence[Sample], keys: Sequence[str]) -> Batch:
        """keys: what `Batch.keys` shall hold."""
        wanted = self.of(dataset)
        places = [self._places(step, s.key, len(s.positives), len(s.negatives), wanted) for s in samples]
        texts = [sample.texts for sample in samples]

        def made(prompt: str, chosen: Sequence[Sequence[int]]) -> Part | None:
            taken = [row[place] for row, row_places in zip(texts, chosen, strict=True) for place in row_places]
            if not taken:
                return None
            tokens = self.tokenize([prompt + text for text in taken] if prompt else taken)
            hashes = torch.tensor([content_hash(text) for text in taken], dtype=torch.int64)
            return self._pooled_without(prompt, tokens), hashes

        return self._batch(step, dataset, keys, places, made, samples)

    def from_tokens(
        self,
        step: int,
        dataset: str,
        tokens: TokenReader,
        rows: Numbers,
        own: Sequence[str],
        keys: Sequence[str],
        samples: Sequence[Sample] = (),
    ) -> Batch:
        """The batch of these rows, equal to that of their samples, from the ids that `jemb tokenize` wrote. own: the
        rows' keys. samples: these, where more than their texts is wanted (`reads_samples`)."""
        wanted = self.of(dataset)
        counts = tokens.count(rows)
        positives = [len(sample.positives) for sample in samples] or [1] * len(rows)
        places = [
            self._places(step, key, good, have - 1 - good, wanted)
            for key, have, good in zip(own, counts.tolist(), positives, strict=True)
        ]

        def stored(prompt: str, chosen: Sequence[Sequence[int]]) -> Part | None:
            flat = np.array([place for row_places in chosen for place in row_places], dtype=np.int64)
            if not len(flat):
                return None
            ids, lengths, hashes = tokens.take(np.repeat(rows, [len(row_places) for row_places in chosen]), flat)
            return self._pooled_without(prompt, Tokens.padded(ids, lengths, self.pad_id)), torch.from_numpy(hashes)

        return self._batch(step, dataset, keys, places, stored, samples)

    def reads_samples(self, dataset: str) -> bool:
        """Whether stored ids do not suffice for a batch."""
        return not {"teacher"}.issuperset(self.of(dataset).fields)

    def of(self, dataset: str) -> Wanted:
        """What is wanted of a data set."""
        return self.wanted.get(dataset) or Wanted(num_negatives=self.num_negatives)

    def _batch(
        self,
        step: int,
        dataset: str,
        keys: Sequence[str],
        places: Sequence[Places],
        take: Callable[[str, Sequence[Sequence[int]]], Part | None],
        samples: Sequence[Sample],
    ) -> Batch:
        wanted = self.of(dataset)
        query_prompt, passage_prompt = self.dataset_prompts.get(dataset, (self.query_prompt, self.passage_prompt))
        query = take(query_prompt, [[0]] * len(places))
        positive = None if wanted.alone else take(passage_prompt, [row.positives for row in places])
        negatives = take(passage_prompt, [row.negatives for row in places])
        assert query is not None
        said: dict[str, Any] = {}
        if "score" in wanted.fields:
            said["score"] = torch.tensor([sample.score for sample in samples], dtype=torch.float64)
        if "label" in wanted.fields:
            labels = [content_hash(str(sample.label)) for sample in samples]  # 1 is "1", as in a table
            said["label"] = torch.tensor(labels, dtype=torch.int64)
        if "scores" in wanted.fields:
            rows = [_scores_of(row, sample.scores) for row, sample in zip(places, samples, strict=True)]
            said["scores"] = torch.tensor(rows, dtype=torch.float64)
        if "teacher" in wanted.fields:
            vectors = [
                self.teachers[dataset].take(part[1].numpy(), query=part is query)
                for part in (query, positive, negatives)
                if part
            ]
            said["teacher"] = torch.from_numpy(
                np.concatenate([found.reshape(len(places), -1, found.shape[1]) for found in vectors], axis=1)
            )
        return Batch(
            step=step,
            dataset=dataset,
            keys=tuple(keys),
            query=query[0],
            positive=positive[0] if positive else None,
            negatives=negatives[0] if negatives else None,
            query_hash=query[1],
            positive_hash=positive[1] if positive else None,
            negative_hash=negatives[1] if negatives else None,
            negatives_short=sum(row.negatives_short for row in places),
            positives_short=sum(row.positives_short for row in places),
            objective=wanted.objective,
            **said,
        )

    def _pooled_without(self, prompt: str, tokens: Tokens) -> Tokens:
        """With the prompt left out of pooling, where the model does so."""
        known: Mapping[str, int] = getattr(self.tokenize, "prompt_lengths", {})
        return tokens.without_prompt([known.get(prompt, 0)] * len(tokens.input_ids)) if known else tokens

    def _places(self, step: int, key: str, positives: int, negatives: int, wanted: Wanted) -> Places:
        """Which of a sample's texts, counted from the query, which is 0."""

        def draw(what: str, have: int, number: int) -> Sequence[int]:
            if have == number:
                return range(have)
            return np.resize(shuffled(have, mix(what, self.seed, step, key)), number).tolist()

        good = [1 + place for place in draw("positives", positives, wanted.num_positives)]
        bad = [1] * wanted.num_negatives  # where there is none, the positive
        if negatives and wanted.num_negatives:
            bad = [1 + positives + place for place in draw("negatives", negatives, wanted.num_negatives)]
        return Places(good, bad, positives < wanted.num_positives, negatives < wanted.num_negatives)


class Places(NamedTuple):
    """Of a sample: which of its texts are taken, and whether it has fewer than are wanted."""

    positives: Sequence[int]
    negatives: Sequence[int]
    positives_short: bool
    negatives_short: bool


def _scores_of(places: Places, scores: Sequence[float | None]) -> list[float]:
    """Of the texts at these places; NaN for one that stands there once more."""
    found: list[float] = []
    seen: set[int] = set()
    for place in (*places.positives, *places.negatives):
        score = None if place in seen else scores[place - 1]
        found.append(math.nan if score is None else score)
        seen.add(place)
    return found
