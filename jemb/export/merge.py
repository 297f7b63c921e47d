"""Weights of several models of one kind, averaged into one model folder.

Models that were trained from the same one, on other data, with another seed or for another number of steps, mostly lie
in one basin of the loss: a mean of their weights is often better than each of them (model soups, arXiv 2203.05482), and
costs no more than one. Before: runs, checkpoints, model folders. After: whatever takes an exported folder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise
from pathlib import Path

from torch import Tensor

from jemb import __version__
from jemb.config import ExportConfig, MergeConfig
from jemb.core.errors import InputError
from jemb.core.folders import check_free
from jemb.distributed.processes import choose_device
from jemb.evaluate import load_tasks
from jemb.evaluate.models import TextEncoder
from jemb.export.alike import check_alike
from jemb.export.exporter import load_trained, write_model
from jemb.lineage import Stage, public_name, stages_before, task_name
from jemb.model import Encoder, find_folder, load_start, load_weights
from jemb.report import text_table
from jemb.run_folder import RunFolder, is_run, read_position

log = logging.getLogger(__name__)

MOST = 500
"""Weightings that are tried at most."""
EQUAL = 1e-9
"""Two weights this near are equal."""


@dataclass(frozen=True, slots=True)
class Member:
    """One of the models. name: what it is called, without its place. checkpoint: that folder of the run `place`; None:
    the model there."""

    name: str
    place: str
    checkpoint: Path | None = None

    def load(self, *, trust_remote_code: bool) -> Encoder:
        """The encoder on the CPU, without adapters."""
        if self.checkpoint is None:
            encoder, _ = load_trained(self.place, trust_remote_code=trust_remote_code)
        else:
            encoder = load_start(RunFolder(Path(self.place)).start, trust_remote_code=trust_remote_code)
            load_weights(encoder, self.checkpoint)
        encoder.merge_lora()
        return encoder


@dataclass(frozen=True, slots=True)
class Weighting:
    """What each model counts, with sum 1, and what their mean scored, {task: percent}."""

    weights: tuple[float, ...]
    scores: Mapping[str, float]

    @property
    def value(self) -> float:
        """The mean over the tasks."""
        return sum(self.scores.values()) / len(self.scores)


def merge(config: MergeConfig) -> Path:
    """Write the weighted mean of the models as the folder `config.output`, checked as an export is; return the folder.

    Raises `InputError` where the models differ in more than their weights, naming in what, and where the output is not
    empty.
    """
    output = Path(config.output).expanduser().resolve()
    check_free(output, f"output={config.output}")
    members = _members(config)
    tried: list[Weighting] = []
    encoders = _load_alike(members, config)
    if config.tasks:
        tasks = load_tasks(config.tasks)
        grid = weightings(len(members), config.step)
        device = choose_device(config.device)

        def score(encoder: Encoder) -> dict[str, float]:
            encode = TextEncoder(encoder, 64, device)
            return {task.name: task.score(encode)[task.main] for task in tasks}

        encoder, tried = _try_all(list(encoders), grid, score)
        weights = tried[0].weights
        log.info("%s", table(tried))
    else:
        weights = normalised(config.weights or [1 / len(members)] * len(members), len(members))
        encoder = next(encoders)
        states = chain([encoder.state_dict()], (other.state_dict() for other in encoders))
        encoder.load_state_dict(combine(states, weights))
    merged = {member.name: weight for member, weight in zip(members, weights, strict=True)}
    log.info("merged: %s", " + ".join(f"{weight:.4g} × {name}" for name, weight in merged.items()))
    stages: list[Stage] = []
    for member in members:
        stages += [stage for stage in stages_before(member.place) if stage not in stages]
    stages.append(_stage(output.name, members[0], merged, tried))
    options = ExportConfig(
        run=str(output), output=str(output), license=config.license, trust_remote_code=config.trust_remote_code
    )
    write_model(encoder, output, stages, options, name=output.name, source="a weighted mean of several models'")
    return output


def combine(states: Iterable[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """For each name the sum of weight times tensor over the models, in fp32; of what is no floating-point number the
    first model's. states: one state dict for each weight, looked at one after the other."""
    total: dict[str, Tensor] = {}
    for state, weight in zip(states, weights, strict=True):
        for name, value in state.items():
            if not value.is_floating_point():
                total.setdefault(name, value)
            elif name in total:
                total[name].add_(value.float(), alpha=weight)
            else:
                total[name] = value.float() * weight
    return total


def normalised(weights: Sequence[float], count: int) -> tuple[float, ...]:
    """The weights divided by their sum. Raises `InputError` where there is not one for each of `count` models."""
    total = sum(weights)
    if len(weights) != count:
        raise InputError(f"weights={list(weights)}: {len(weights)} for {count} models; wanted one for each")
    if total <= 0:
        raise InputError(f"weights={list(weights)}: their sum is {total:g}; wanted one above 0")
    if abs(total - 1) > EQUAL:
        log.info("weights: divided by their sum, %g", total)
    return tuple(weight / total for weight in weights)


def weightings(count: int, step: float) -> list[tuple[float, ...]]:
    """Equal weights, then all weights of `count` models that are multiples of `step` and have the sum 1, each once.

    Raises `InputError` where 1 is no multiple of `step`, and where these are too many.
    """
    parts = round(1 / step)
    if abs(parts * step - 1) > EQUAL:
        raise InputError(f"step={step}: wanted 1 divided by a whole number, as 0.5, 0.25 or 0.1")
    found = [(1 / count,) * count]
    # count - 1 bars among parts + count - 1 places: the places between two bars are the parts of a model.
    places = parts + count - 1
    for bars in combinations(range(places), count - 1):
        weights = tuple((end - start - 1) / parts for start, end in pairwise((-1, *bars, places)))
        if any(abs(weight - 1 / count) > EQUAL for weight in weights):
            found.append(weights)
        if len(found) > MOST:
            raise InputError(
                f"step={step}: more than {MOST} weightings of {count} models, each of which is evaluated on all tasks; "
                "wanted a larger step, or fewer models"
            )
    return found


def table(tried: Sequence[Weighting]) -> str:
    """All weightings in order, with their scores in percent, as text."""
    tasks = list(tried[0].scores)
    rows = [["weights in the order given", "mean", *tasks]]
    for one in tried:
        shown = "  ".join(f"{weight:.3f}" for weight in one.weights)
        rows.append([shown, *(f"{value:.2f}" for value in (one.value, *one.scores.values()))])
    return text_table(rows, right=True)


def _members(config: MergeConfig) -> list[Member]:
    """Raises `InputError` for what can be known before any model is loaded."""
    if config.last_checkpoints is not None:
        members = _checkpoints(config.runs, config.last_checkpoints)
    elif len(config.runs) < 2:
        raise InputError(f"runs={config.runs}: one model; wanted several, or last_checkpoints=N of one run")
    else:
        for place in config.runs:
            if not is_run(Path(place).expanduser()):
                find_folder(place, code=config.trust_remote_code)
        names = [public_name(place) or place for place in config.runs]
        numbered = [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, 1)]
        members = [Member(name, place) for name, place in zip(numbered, config.runs, strict=True)]
    if config.weights:
        normalised(config.weights, len(members))
    return members


def _checkpoints(runs: Sequence[str], count: int) -> list[Member]:
    """The newest `count` of a run, oldest first, each with its files as they were written."""
    run = RunFolder(Path(runs[0]).expanduser())
    if len(runs) != 1 or not is_run(run.path):
        raise InputError(f"last_checkpoints={count}: wanted one run folder of `jemb train` as runs, got {list(runs)}")
    found = run.checkpoints()
    if len(found) < count:
        steps = ", ".join(str(step) for step, _ in found) or "none"
        raise InputError(
            f"last_checkpoints={count}: {run.path} has {len(found)}, of steps {steps}; a run keeps as many as its "
            "keep_checkpoints says"
        )
    for _, folder in found[-count:]:
        read_position(folder)
    return [Member(f"{run.path.resolve().name}, step {step}", str(run.path), folder) for step, folder in found[-count:]]


def _load_alike(members: Sequence[Member], config: MergeConfig) -> Iterator[Encoder]:
    """Each encoder in turn; `InputError` at one that differs from the first in more than weights."""
    first: Encoder | None = None
    for member in members:
        encoder = member.load(trust_remote_code=config.trust_remote_code)
        if first is None:
            first = encoder
        else:
            check_alike(members[0].name, first, member.name, encoder)
        yield encoder


def _try_all(
    encoders: list[Encoder], grid: Sequence[tuple[float, ...]], score: Callable[[Encoder], Mapping[str, float]]
) -> tuple[Encoder, list[Weighting]]:
    """(an encoder with the best weights, all that were tried, the best first, of equal ones the earlier in `grid`).
    Holds the weights of all models in memory."""
    encoder = encoders[0]
    states = [{name: value.clone() for name, value in encoder.state_dict().items()}]
    states += [other.state_dict() for other in encoders[1:]]
    tried: list[Weighting] = []
    for number, weights in enumerate(grid, start=1):
        encoder.load_state_dict(combine(states, weights))
        tried.append(Weighting(weights, score(encoder)))
        shown = ", ".join(f"{weight:.3f}" for weight in weights)
        log.info("weighting %d of %d: %s: %.2f", number, len(grid), shown, tried[-1].value)
    tried.sort(key=lambda weighting: -weighting.value)
    encoder.load_state_dict(combine(states, tried[0].weights))
    return encoder, tried


def _stage(name: str, first: Member, merged: Mapping[str, float], tried: Sequence[Weighting]) -> Stage:
    """The merge as the last stage of the model's training. merged: what each model counts."""
    stage: Stage = {
        "name": name,
        "jemb": __version__,
        "objective": "merge",
        "steps": 0,
        "seconds": 0.0,
        "started_from": public_name(first.place),
        "datasets": {},
        "starts": [],
        "merged": merged,
    }
    if tried:
        tasks = ", ".join(map(task_name, tried[0].scores))
        stage["model_chosen"] = f"the best of {len(tried)} weightings: mean of {tasks} = {tried[0].value:.2f}"
        stage["weightings"] = [
            {"weights": one.weights, "scores": {task_name(task): value for task, value in one.scores.items()}}
            for one in tried
        ]
    return stage
