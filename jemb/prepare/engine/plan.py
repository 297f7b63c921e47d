"""What is to be made of each source: its stages in order, their options, what they need, and what decides the rows.

Before: `source/sources.py` has found the sources. After: `run.py` makes the data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jemb.prepare.engine.identity import origin
from jemb.prepare.options import PrepareConfig
from jemb.prepare.registry import Stage, StageInputs, Tools, all_stages
from jemb.prepare.source.sources import Source


@dataclass(slots=True)
class Step:
    """A stage of one data set. settings: what decides what it keeps, for the record."""

    stage: Stage
    options: Any
    inputs: StageInputs
    settings: dict[str, Any]


@dataclass(slots=True)
class Plan:
    """What is to be made of one source. across: the stages that look at the data sets before it."""

    source: Source
    config: PrepareConfig
    steps: list[Step]
    made_from: dict[str, Any]

    @property
    def across(self) -> list[Step]:
        return [step for step in self.steps if step.stage.across and getattr(step.options, step.stage.across)]

    def add_others(self, fingerprints: dict[str, str], output: Path) -> None:
        """Tell those stages which data sets there are."""
        for step in self.across if fingerprints else ():
            self.made_from["settings"][f"{step.stage.name}.others"] = fingerprints
            step.inputs = replace(step.inputs, others=tuple(output / name for name in fingerprints))


def plan_all(config: PrepareConfig, sources: Sequence[Source], tools: Tools) -> list[Plan]:
    """Of each source, with the options that are its own. Raises `InputError` where a stage cannot work."""
    stages = all_stages(config.plugins)
    ready: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {}
    plans: list[Plan] = []
    for source in sources:
        own = config.of(source.name)
        steps: list[Step] = []
        for name in (name for name in stages if name in own.stages):
            stage = stages[name]
            options = getattr(own, name) if stage.options else None
            key = (name, repr(options))
            if key not in ready:
                ready[key] = stage.before(options, tools) if stage.before else (None, {})
            prepared, settings = ready[key]
            inputs = StageInputs(config.seed, tools, prepared)
            steps.append(Step(stage, options, inputs, stage.settings(options) | settings))
        settings_of = {step.stage.name: step.settings for step in steps}
        plans.append(Plan(source, own, steps, origin(source, own, settings_of)))
    return plans
