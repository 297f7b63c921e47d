"""Training of a tiny model under one strategy, case after case, on the ranks of `ranks.on_ranks`: what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

import jemb.train.module as module_file
from jemb.config import ModelConfig, TrainConfig
from jemb.core.records import Batch, Sample
from jemb.data import Collate
from jemb.data.wanted import Wanted
from jemb.distributed import rank, world_size
from jemb.distributed.processes import joined_processes
from jemb.model import Encoder, make_tiny
from jemb.model.packed import compiled
from jemb.registry import OBJECTIVES
from jemb.shards.teacher import keys_of
from jemb.train.build import make_module, make_trainer
from jemb.train.strategies.choice import state_of

ROWS = 8
STEPS = 3
WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron"]
# Texts that come twice, within a process and across processes: the masks have something to hide.
SAMPLES = [
    Sample(
        key=f"{i}",
        query=("AMBER  twice" if i == 6 else "amber twice") if i in (1, 6) else f"{WORDS[i]} asked" + " long" * i,
        positive=f"{WORDS[i % 5]} found",
        negatives=(f"{WORDS[(i + 1) % 5]} found", f"{WORDS[i % 5]} Found", f"{WORDS[i]} wrong" + " more" * (i % 3)),
        score=float(i % 4),
        label=i % 3,
        scores=(3.0, None if i == 2 else 1.0 + i % 2, 0.5 * i, -1.0),
    )
    for i in range(ROWS)
]
WITH_MORE = [replace(s, more_positives=(f"{s.positive} too",)) if i % 3 else s for i, s in enumerate(SAMPLES)]
SIZE = ModelConfig(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2)


@dataclass(frozen=True)
class Outcome:
    """What three steps of SGD did: the change of each weight; loss, gradient norm and hidden candidates by step.

    held: numbers of the weights that this process holds between the steps. calls: collectives by kind.
    """

    changes: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    hidden: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def all_changes(self) -> Tensor:
        return torch.cat([change.double().flatten() for change in self.changes.values()])


def distance(one: Outcome, other: Outcome) -> float:
    """Norm of the difference of what was done to the weights, relative to the second's norm."""
    assert one.changes.keys() == other.changes.keys()
    return float((one.all_changes - other.all_changes).norm() / other.all_changes.norm())


class Teacher:
    """A vector for any text."""

    width = 12

    def take(self, hashes: Any, *, query: bool) -> Any:
        seeds = np.abs(keys_of(hashes, query=query)).tolist()
        return np.array([np.random.default_rng(seed).normal(size=self.width) for seed in seeds], np.float32)


class Batches:
    """The samples in another order at each step, this rank's share."""

    def __init__(self, collate: Collate, samples: list[Sample]) -> None:
        self.collate, self.samples = collate, samples

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[Batch]:
        share = ROWS // world_size()
        for step in range(STEPS):
            turned = self.samples[step:] + self.samples[:step]
            mine = turned[rank() * share : (rank() + 1) * share]
            names = [*self.collate.wanted]
            yield self.collate(step, names[step % len(names)], mine, [sample.key for sample in mine])


class Collect(lightning.Callback):
    def __init__(self, before: dict[str, Tensor]) -> None:
        self.before = before
        self.outcome = Outcome()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        seen = self.outcome
        seen.losses.append(module.facts.loss)
        seen.norms.append(module.grad_norm)
        seen.hidden.append(module.facts.hidden_candidates)
        seen.held.append(sum(held(p) for p in module.encoder.parameters()))
        if module.facts.step == STEPS:
            state = state_of(trainer.strategy)
            for name, p in module.named_parameters():
                seen.changes[name] = state.weight(p).cpu() - self.before[name]


def held(p: Any) -> int:
    """Numbers of a parameter that are in this process's memory: all, or its shard."""
    part = p.ds_tensor if hasattr(p, "ds_tensor") else p.to_local() if hasattr(p, "to_local") else p
    return part.numel() + (p.numel() if hasattr(p, "ds_tensor") else 0)


def sgd(model: torch.nn.Module, *, learning_rate: float, weight_decay: float) -> Optimizer:
    """In the place of AdamW, which hides the scale of a gradient."""
    return SGD([p for p in model.parameters() if p.requires_grad], lr=learning_rate)


def run_case(options: dict[str, Any], encoder: Encoder, processes: Any) -> Outcome:
    """Three steps as `jemb train` does them, but for optimiser and data."""
    taken = OBJECTIVES.takes(options.get("objective", "pairs"))
    shape = {name: value for name, value in {"temperature": 0.2, "margin": 0.5}.items() if name in taken}
    defaults = {"shards": "s", "output": "o", "gradient_clip": None, **shape}
    config = TrainConfig(**{**defaults, "learning_rate": 0.001, "warmup_steps": 0, "schedule": "constant", **options})
    objective = OBJECTIVES.find(config.objective)
    needs = getattr(objective, "needs", None)
    wanted = Wanted(
        objective=config.objective,
        num_negatives=config.num_negatives if getattr(objective, "negatives", False) else 0,
        num_positives=config.num_positives,
        alone=config.objective == "labelled",
        fields=("positives", needs or "positives"),
    )
    by_name = {"data": wanted} | {name: replace(wanted, objective=other) for name, other in config.objectives.items()}
    module_file.make_optimizer = sgd
    module = make_module(config, encoder, processes.device, max_steps=STEPS, teacher_width=Teacher.width)
    collect = Collect({name: p.detach().clone() for name, p in module.named_parameters()})
    trainer = make_trainer(config, processes, max_steps=STEPS, callbacks=[collect])
    encoder.train().packed = config.model.packing == "on"
    encoder.compiled = config.model.compile
    taught: Any = {name: Teacher() for name in by_name}
    prompts = {"query_prompt": encoder.prompt("query"), "passage_prompt": encoder.prompt("document")}
    collate = Collate(encoder.tokenize, num_negatives=0, seed=0, wanted=by_name, teachers=taught, **prompts)
    batches: Any = Batches(collate, WITH_MORE if config.num_positives > 1 else SAMPLES)
    trainer.fit(module, batches)
    assert len(collect.outcome.losses) == STEPS
    return collect.outcome


def tiny(config: ModelConfig) -> Encoder:
    texts = [text for sample in SAMPLES for text in (sample.query, sample.positive, *sample.negatives)]
    return make_tiny(texts, replace(SIZE, dropout=config.dropout), seed=1, max_length=24)


def run_cases(
    cases: Mapping[str, dict[str, Any]],
    inside: Callable[[str], AbstractContextManager[Any]] | None = None,
    count_calls: bool = False,
) -> dict[str, Outcome]:
    """Every case, in the processes of this job. inside: what to run a case in, by its name."""
    found = {}
    # Before the processes join: transformers writes, also to a temporary folder, on the first of them alone.
    dropouts = {name: options.get("model", ModelConfig()).dropout for name, options in cases.items()}
    made = {dropout: tiny(ModelConfig(dropout=dropout)) for dropout in set(dropouts.values())}
    encoders = {name: deepcopy(made[dropout]) for name, dropout in dropouts.items()}
    with joined_processes("cpu", 2) as processes:
        for name, options in cases.items():
            profile = torch.profiler.profile() if count_calls else nullcontext()
            with inside(name) if inside else nullcontext(), profile:
                found[name] = run_case(options, encoders[name], processes)
            if isinstance(profile, torch.profiler.profile):
                found[name].calls.update(e.name for e in profile.events() if e.name.startswith("c10d::"))
    return found


def run_packed(
    encoders: Mapping[str, Encoder], *ways: Literal["on", "off", "compiled"]
) -> dict[str, dict[str, Outcome]]:
    """Triplets in groups that are computed again, with the prompts of each model; by model and way. What is compiled is
    traced as ever, but not made into C++, which takes a minute each."""
    compiled.BACKEND = "aot_eager"
    options: dict[str, Any] = {"objective": "triplets", "num_negatives": 2, "micro_batch_tokens": 150}
    models = {
        "on": ModelConfig(packing="on"),
        "compiled": ModelConfig(packing="on", compile=True),
        "off": ModelConfig(),
    }
    given = {way: {**options, "model": models[way]} for way in ways}
    with joined_processes("cpu", 2) as processes:
        # Copies: what is given to a process is in memory that all share.
        return {
            name: {way: run_case(options, deepcopy(encoder), processes) for way, options in given.items()}
            for name, encoder in encoders.items()
        }
