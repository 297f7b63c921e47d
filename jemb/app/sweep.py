"""`jemb train -m …`: a run for each combination of values, started by Hydra's launchers, and one table of all.

Hydra reads the values (`a,b`, `range(1,4)`, `choice(…)`) and launches: one run after the other here, or jobs of Slurm
by its submitit launcher. Each run lies in a folder of its own below `output`, named by its values, so the same command
goes on where it stopped, and one with more values adds to it.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose, initialize
from hydra._internal.callbacks import Callbacks  # a launcher's context wants one; there is no public way to it
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from jemb.app.compose import compose_config
from jemb.config import TrainConfig, option_kinds
from jemb.config.parse import find_option
from jemb.core.errors import InputError
from jemb.launch import find_ranks
from jemb.mirror import local_copy
from jemb.run_folder import RunFolder
from jemb.tables.places import base_name, is_url

log = logging.getLogger(__name__)

OF_HYDRA = ("hydra/launcher=", "hydra.launcher.")
"""Overrides that are the launcher's."""
QUIET = ["hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null", "hydra.sweep.subdir=."]


def sweep(overrides: Sequence[str]) -> int:
    """Run them all and print the table; the highest of their exit codes. Raises InputError for what does not fit before
    the first run begins; one that fails later does not stop the others."""
    if find_ranks().world_size > 1:
        raise InputError(
            "-m starts each run by itself: leave out torchrun or srun; for Slurm, hydra/launcher=submitit_slurm"
        )
    own = [override for override in overrides if not override.startswith(OF_HYDRA)]
    output = next((o.partition("=")[2] for o in reversed(own) if o.startswith("output=")), None)
    if output is None:
        raise InputError("option 'output' is missing: give output=…, below which each run gets its folder")
    runs = {f"{output.rstrip('/')}/{_name(values)}": values for values in combinations(own)}
    fixed = [o for o in own if not o.startswith("output=") and o.partition("=")[0] not in next(iter(runs.values()))]
    jobs = [
        [*fixed, *(f"{key}={value}" for key, value in values.items()), f"output={place}"]
        for place, values in runs.items()
    ]
    seen: dict[str, str] = {}
    for job, place in zip(jobs, runs, strict=True):
        config = repr(replace(compose_config("train", TrainConfig, job), output="-"))
        if config in seen:
            raise InputError(
                f"-m: {base_name(seen[config])} and {base_name(place)} are the same run: what they differ in is set by "
                "experiment=… or another option as well; leave that or one of the two out"
            )
        seen[config] = place
    folder = Path() if is_url(output) else Path(output)
    codes = _launch(jobs, [o for o in overrides if o.startswith(OF_HYDRA)], folder)
    print(table(runs))
    return max(codes)


def combinations(overrides: Sequence[str]) -> list[dict[str, str]]:
    """The swept options of each run with their values; [{}] where there is none with several."""
    values: dict[str, list[str]] = {}
    for override in overrides:
        if len(found := _values(override)) > 1:
            values[override.partition("=")[0]] = found
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


def table(runs: Mapping[str, Mapping[str, str]]) -> str:
    """A line a run, the best first: by what chose its model, else by the mean loss of its last tenth of steps."""
    rows: list[dict[str, Any]] = [{**values, **_outcome(place), "run": place} for place, values in runs.items()]
    key, sign = ("metric", -1) if any(row["metric"] is not None for row in rows) else ("loss", 1)
    rows.sort(key=lambda row: (row[key] is None, sign * (row[key] or 0)))
    columns = [column for column in rows[0] if column != "metric" or key == "metric"]
    lines = [columns, *([_shown(row[column]) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _outcome(place: str) -> dict[str, Any]:
    with suppress(InputError, OSError):
        run = RunFolder(Path(local_copy(place)))
        record, losses = run.read_record("status", "steps"), [line["loss"] for line in run.read_metrics()]
        last = losses[-max(1, len(losses) // 10) :]
        metric = {line["step"]: line["value"] for line in run.read_evaluations()}.get(record.get("model_step"))
        loss = sum(last) / len(last) if last else None
        return {"status": record["status"], "steps": record["steps"], "loss": loss, "metric": metric}
    return {"status": None, "steps": None, "loss": None, "metric": None}


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _values(override: str) -> list[str]:
    name, _, value = override.partition("=")
    if name in ("--config-dir", "output"):  # one folder, whatever its name holds
        return [value]
    kinds = option_kinds(TrainConfig)
    kind = kinds[found[0]] if (found := find_option(kinds, name)) else ""
    if kind.startswith("text"):
        return next(csv.reader([value], quotechar="'" if "'" in value else '"', skipinitialspace=True), [value])
    if kind.startswith("list of"):
        return re.split(r"(?<=\])\s*,\s*(?=\[)", value)
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise InputError(f"'{override}': {str(error).splitlines()[0]}") from None
    return [str(item) for item in parsed.sweep_string_iterator()] if parsed.is_sweep_override() else [value]


def _name(values: Mapping[str, str]) -> str:
    """`learning_rate=1e-3,seed=2`, as a folder may be called."""
    name = re.sub(r"[^\w=,.+-]+", "_", ",".join(f"{key}={value}" for key, value in values.items())) or "run"
    return name if len(name) <= 120 else f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _launch(jobs: Sequence[Sequence[str]], launcher: Sequence[str], folder: Path) -> list[int]:
    """The exit code of each, by the launcher that Hydra's overrides name; by default here, one after the other."""
    ConfigStore.instance().store(name="sweep", node={"job": 0})
    GlobalHydra.instance().clear()
    try:
        with initialize(version_base="1.3"):
            options = [*QUIET, f"hydra.sweep.dir='{folder.resolve()}'", *launcher]
            config = compose("sweep", overrides=options, return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
            task: TaskFunction = partial(_run, [list(job) for job in jobs])
            start = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
            found = start.launch([[f"job={number}"] for number in range(len(jobs))], initial_job_idx=0)
    except HydraException as error:
        raise InputError(str(error).splitlines()[0]) from None
    except Exception as error:
        if not launcher:
            raise
        # A job that Slurm has ended, or refused; what the others did is in the table.
        log.error("hydra.launcher: %s", str(error).strip() or type(error).__name__)
        return [1]
    return [int(job.return_value) if job.status is JobStatus.COMPLETED else 1 for job in found]


def _run(jobs: Sequence[Sequence[str]], config: DictConfig) -> int:
    from jemb.app.cli import run_command

    return run_command("train", jobs[config.job])
