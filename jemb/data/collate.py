"""Samples to a `Batch`: token ids, padding, content hashes, and which of a sample's negatives are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jemb.core.records import Batch, Sample, Tokens
from jemb.core.text import content_hash
from jemb.data.joined import StoredTokens
from jemb.data.permutation import mix, shuffled

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Collate:
    """Makes the batch of one step.

    tokenize: texts -> padded Tokens. num_negatives: K, how many of each sample's negatives to use; 0 for pairs.
    query_prompt, passage_prompt: put before each query, and before each positive and negative; dataset_prompts: those
    of data sets that have others. The hashes are those of the texts alone, or a query could not be found equal to a
    passage. pad_id: what stored ids are padded with.
    Which K is a function of (seed, step, key), so it is the same however often and on whatever rank it is asked. Of a
    sample with fewer than K some come more than once, and one with none has its positive in their place, which the loss
    hides as equal; `Batch.negatives_short` counts such samples.
    """

    tokenize: Callable[[Sequence[str]], Tokens]
    num_negatives: int
    seed: int
    query_prompt: str = ""
    passage_prompt: str = ""
    pad_id: int = 0
    dataset_prompts: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __call__(self, step: int, dataset: str, samples: Sequence[Sample], keys: Sequence[str]) -> Batch:
        """keys: what `Batch.keys` shall hold."""
        query_prompt, passage_prompt = self._prompts(dataset)
        queries = [sample.query for sample in samples]
        positives = [sample.positive for sample in samples]
        negatives = [
            (sample.positive, *sample.negatives)[place]
            for sample in samples
            for place in self._places(step, sample.key, len(sample.negatives))
        ]
        return Batch(
            step=step,
            dataset=dataset,
            keys=tuple(keys),
            query=self._tokens(query_prompt, queries),
            positive=self._tokens(passage_prompt, positives),
            negatives=self._tokens(passage_prompt, negatives) if self.num_negatives else None,
            query_hash=_hashes(queries),
            positive_hash=_hashes(positives),
            negative_hash=_hashes(negatives) if self.num_negatives else None,
            negatives_short=sum(len(sample.negatives) < self.num_negatives for sample in samples),
        )

    def from_tokens(
        self, step: int, dataset: str, tokens: StoredTokens, rows: Numbers, own: Sequence[str], keys: Sequence[str]
    ) -> Batch:
        """The batch of these rows, equal to that of their samples, from the ids that `jemb tokenize` wrote. own: the
        rows' keys."""
        query_prompt, passage_prompt = self._prompts(dataset)
        negatives, short = None, 0
        if self.num_negatives:
            counts = tokens.count(rows) - 2
            short = int((counts < self.num_negatives).sum())
            chosen = [self._places(step, key, have) for key, have in zip(own, counts.tolist(), strict=True)]
            places = 1 + np.array(chosen).ravel()
            negatives = self._stored(passage_prompt, tokens, np.repeat(rows, self.num_negatives), places)
        query = self._stored(query_prompt, tokens, rows, np.full(len(rows), 0))
        positive = self._stored(passage_prompt, tokens, rows, np.full(len(rows), 1))
        return Batch(
            step=step,
            dataset=dataset,
            keys=tuple(keys),
            query=query[0],
            positive=positive[0],
            negatives=negatives[0] if negatives else None,
            query_hash=query[1],
            positive_hash=positive[1],
            negative_hash=negatives[1] if negatives else None,
            negatives_short=short,
        )

    def _prompts(self, dataset: str) -> tuple[str, str]:
        return self.dataset_prompts.get(dataset, (self.query_prompt, self.passage_prompt))

    def _stored(self, prompt: str, tokens: StoredTokens, rows: Numbers, places: Numbers) -> tuple[Tokens, Tensor]:
        ids, lengths, hashes = tokens.take(rows, places)
        return self._pooled_without(prompt, Tokens.padded(ids, lengths, self.pad_id)), torch.from_numpy(hashes)

    def _tokens(self, prompt: str, texts: Sequence[str]) -> Tokens:
        return self._pooled_without(prompt, self.tokenize([prompt + text for text in texts] if prompt else texts))

    def _pooled_without(self, prompt: str, tokens: Tokens) -> Tokens:
        """With the prompt left out of pooling, where the model does so."""
        known: Mapping[str, int] = getattr(self.tokenize, "prompt_lengths", {})
        return tokens.without_prompt([known.get(prompt, 0)] * len(tokens.input_ids)) if known else tokens

    def _places(self, step: int, key: str, have: int) -> Sequence[int]:
        """Which of the sample's `have` negatives, counted from 1; 0 is its positive."""
        wanted = self.num_negatives
        if not have:
            return [0] * wanted
        if have == wanted or not wanted:
            return range(1, wanted + 1)
        order = 1 + shuffled(have, mix("negatives", self.seed, step, key))
        return np.resize(order, wanted).tolist()


def _hashes(texts: Sequence[str]) -> Tensor:
    return torch.tensor([content_hash(text) for text in texts], dtype=torch.int64)
