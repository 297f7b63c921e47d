"""`jemb tokenize`: tokenises the texts of the shards once and stores the ids, shard by shard, by several processes.

Before: `prepare` wrote the shards. After: `jemb train tokens=DIR` makes from the ids the batches of the texts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from jemb.config import TokenizeConfig
from jemb.config.train import PromptsConfig
from jemb.core.errors import InputError
from jemb.core.files import inside
from jemb.core.folders import alone
from jemb.core.progress import Progress
from jemb.core.text import content_hash
from jemb.model import Tokenize, load_encoder, probe
from jemb.prepare.engine.executor import LocalExecutor
from jemb.shards import ShardReader, open_datasets
from jemb.shards.tokens import Recipe, has_part, recipe_of, start_tokens, token_folder, write_part

ROWS = 4096
"""Samples that are tokenised at once."""


@dataclass(frozen=True, slots=True)
class _Task:
    """One shard: rows `start` to `stop` of a data set."""

    reader: ShardReader
    number: int
    start: int
    stop: int
    tokenize: Tokenize
    recipe: Recipe
    folder: Path


def pretokenize(config: TokenizeConfig) -> str:
    """Write the tokens of all data sets; those that are there already stay. Returns what to say at the end.

    Raises InputError for shards or a model that are not there, and where `output` has tokens of another recipe.
    """
    readers = open_datasets(config.shards)
    encoder = load_encoder(config.model, max_length=config.max_length, trust_remote_code=config.trust_remote_code)
    check_prompts(config.prompts, readers)
    encoder.prompts |= config.prompts.given
    probe(encoder, config.model)
    output = token_folder(config.output, "output")
    with alone(output, "jemb tokenize"):
        tasks = []
        for name, reader in readers.items():
            folder = inside(output, name, f"shards={config.shards}")  # a manifest says what its data set is called
            recipe = recipe_of(reader.manifest, encoder)
            start_tokens(folder, recipe)
            borders = pairwise([0, *accumulate(shard.num_samples for shard in reader.manifest.shards)])
            tasks += [
                _Task(reader, number, *rows, encoder.tokenize, recipe, folder)
                for number, rows in enumerate(borders)
                if not has_part(folder, number)
            ]
        total = sum(task.stop - task.start for task in tasks)
        with LocalExecutor(config.workers) as executor, Progress("tokenise", total, "sample") as bar:
            for number, _ in executor.run(_write, tasks, serial=len(tasks) == 1):
                bar.update(tasks[number].stop - tasks[number].start)
    rows = sum(map(len, readers.values()))
    return f"tokens of {rows:,} samples of {len(readers)} data sets: {output} ({total:,} samples tokenised now)"


def check_prompts(prompts: PromptsConfig, names: Collection[str]) -> None:
    """Raises InputError for the prompts of a data set that is not there."""
    for name in prompts.datasets:
        if name not in names:
            raise InputError(f"prompts.datasets.{name}: no such data set; there are: {', '.join(names)}")


def _write(task: _Task) -> None:
    task.reader.verify_shard(task.number)
    ids, lengths = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]  # a shard may be empty
    counts: list[int] = []
    hashes: list[int] = []
    for start in range(task.start, task.stop, ROWS):
        texts: list[str] = []
        prompts: list[str] = []
        for row in range(start, min(start + ROWS, task.stop)):
            sample = task.reader.read(row)
            texts += sample.texts
            counts.append(len(sample.texts))
            prompts += (task.recipe.query_prompt, *[task.recipe.passage_prompt] * (counts[-1] - 1))
        flat, each = task.tokenize.flat([prompt + text for prompt, text in zip(prompts, texts, strict=True)])
        ids.append(flat.astype(np.uint32))
        lengths.append(each)
        hashes += map(content_hash, texts)
    found = np.concatenate(ids)
    arrays = {
        "ids": found.astype(np.uint16) if found.max(initial=0) < 2**16 else found,
        "starts": np.concatenate([[0], np.cumsum(np.concatenate(lengths))]),
        "first": np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32),
        "hashes": np.array(hashes, dtype=np.int64),
    }
    write_part(task.folder, task.number, arrays)
