"""Samples to a `Batch`: token ids, padding, content hashes, and which of a sample's negatives are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jemb.data.permutation import mix, shuffled
from jemb.errors import InputError
from jemb.records import Batch, Sample, Tokens
from jemb.text import content_hash


@dataclass(frozen=True, slots=True)
class Collate:
    """Makes the batch of one step.

    tokenize: texts -> padded Tokens. num_negatives: K, how many of each sample's negatives to use; 0 for pairs.
    query_prompt, passage_prompt: put before each query, and before each positive and negative. The hashes are those of
    the texts alone, or a query could not be found equal to a passage.
    Which K is a function of (seed, step, key), so it is the same however often and on whatever rank it is asked.
    """

    tokenize: Callable[[Sequence[str]], Tokens]
    num_negatives: int
    seed: int
    query_prompt: str = ""
    passage_prompt: str = ""

    def __call__(self, step: int, dataset: str, samples: Sequence[Sample], keys: Sequence[str]) -> Batch:
        """keys: what `Batch.keys` shall hold. Raises InputError for a sample with fewer than K negatives."""
        queries = [sample.query for sample in samples]
        positives = [sample.positive for sample in samples]
        negatives = [text for sample in samples for text in self._negatives(step, dataset, sample)]
        return Batch(
            step=step,
            dataset=dataset,
            keys=tuple(keys),
            query=self._tokens(self.query_prompt, queries),
            positive=self._tokens(self.passage_prompt, positives),
            negatives=self._tokens(self.passage_prompt, negatives) if self.num_negatives else None,
            query_hash=_hashes(queries),
            positive_hash=_hashes(positives),
            negative_hash=_hashes(negatives) if self.num_negatives else None,
        )

    def _tokens(self, prompt: str, texts: Sequence[str]) -> Tokens:
        return self.tokenize([prompt + text for text in texts] if prompt else texts)

    def _negatives(self, step: int, dataset: str, sample: Sample) -> Sequence[str]:
        have, wanted = sample.negatives, self.num_negatives
        if len(have) < wanted:
            raise InputError(
                f"data set {dataset}, sample {sample.key}: {len(have)} negatives, num_negatives={wanted} wanted"
            )
        if len(have) == wanted or not wanted:
            return have[:wanted]
        order = shuffled(len(have), mix("negatives", self.seed, step, sample.key))
        return [have[i] for i in order[:wanted]]


def _hashes(texts: Sequence[str]) -> Tensor:
    return torch.tensor([content_hash(text) for text in texts], dtype=torch.int64)
