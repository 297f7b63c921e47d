"""`jemb evaluate`: read every task, score every model on each, write the results.

Before: model folders, runs, `bm25`. After: the output, `report.html` and mteb's JSON beside it, and `RUN/scores.json`
for the model card of `export/`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from jemb.config import EvaluateConfig
from jemb.core.errors import InputError
from jemb.core.files import read_json, write_json
from jemb.core.folders import make_way
from jemb.evaluate.bm25 import SETTINGS
from jemb.evaluate.comparison import Comparison, write_task_results
from jemb.evaluate.measure import Bootstrap, Task
from jemb.evaluate.models import BM25, check_models, load_text_encoder, measure
from jemb.evaluate.report import report_path, write_report
from jemb.evaluate.tasks.load import load_task, load_tasks
from jemb.evaluate.vectors import Encode
from jemb.run_folder import RunFolder, is_run

log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, make: Callable[[str], Encode] | None = None) -> Comparison:
    """Score every `config.model` on every task, write the results beside `config.output`, return them.

    make: from the name of a model to its encoder; None: `load_text_encoder`, in this process alone.
    All tasks are read and all models found before anything is encoded, so a mistake in the last costs no work. Where a
    task fails later, what was scored before it is in `NAME.partial.json` beside the output.
    """
    output = Path(config.output)
    _check(config, output)
    tasks = load_tasks(config.tasks)
    models = list(dict.fromkeys(config.model))
    check_models(models, tasks)
    make_way(output)
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise InputError(f"output={output}: no permission to write in {output.parent}; give another place")
    comparison = Comparison(models, Bootstrap(config.bootstrap, config.level, config.seed))
    unfinished = output.with_name(f"{output.stem}.partial.json")
    try:
        for number, model in enumerate(models, start=1):
            # The last model may take the tasks along: their texts can go before the next is encoded.
            left = tasks if number == len(models) else list(tasks)
            score_model(model, left, comparison, config, make or partial(load_text_encoder, config=config))
        # mteb's files go to a folder of the output's name. The output comes last, as it says that all is done.
        write_task_results(comparison, output.with_name(output.stem if output.suffix else f"{output.name}_mteb"))
        report = report_path(output)
        write_report(comparison, config, report)
        write_json(output, comparison.output())
        log.info("report: %s", report)
        unfinished.unlink(missing_ok=True)
    except BaseException:
        if comparison.cells:
            write_json(unfinished, comparison.output())
            log.error("stopped before the end; the finished tasks are in %s", unfinished)
        raise
    return comparison


def evaluate_together(config: EvaluateConfig) -> Comparison | None:
    """`evaluate` in the first of several joined processes, for which all encode; None in the others once it is done.

    What it raises is raised in all. The first one alone has a task's vectors, float32 [N, D], its search and scores.
    """
    from jemb.distributed import shared_encoding

    def load(name: str) -> Encode:
        return replace(load_text_encoder(name, config), name=None)  # there is one bar for all processes

    with shared_encoding(load) as make:
        return evaluate(config, make) if make else None


def score(encode: Encode, task: Task | str) -> dict[str, float]:
    """Metrics in percent of any encode function on one task, read already or named as for `jemb evaluate`."""
    task = load_task(task) if isinstance(task, str) else task
    return task.score(encode)


def _check(config: EvaluateConfig, output: Path) -> None:
    """`InputError` where the options cannot lead to results."""
    if output.is_file() and not _is_scores(output):
        raise InputError(f"output={output} exists and holds no scores of `jemb evaluate`; wanted a new JSON file")
    if output.name == "scores.json" and is_run(output.parent):
        raise InputError(f"output={output} is where the run keeps all its scores by itself; give another file")
    for option, value in (("tasks", config.tasks), ("model", config.model)):
        if not value:
            raise InputError(f"{option} is empty; wanted one or several")


def score_model(
    name: str, tasks: list[Task], comparison: Comparison, config: EvaluateConfig, make: Callable[[str], Encode]
) -> None:
    """Add one model's scores to `comparison`, and to its run where it is one. `tasks` is empty afterwards."""
    path = Path(name).expanduser()
    run = RunFolder(path) if name != BM25 and is_run(path) else None
    identity = run.model_identity() if run else ""
    encode = None if name == BM25 else make(name)
    if encode is None:
        log.info("model=bm25: %s", SETTINGS)
    elif config.widths and max(config.widths) > (widest := encode(["0"]).shape[1]):
        raise InputError(
            f"widths={config.widths}: the vectors of {name} have {widest} numbers; wanted no more than that"
        )
    while tasks:
        task = tasks.pop(0)
        if encode is None and not task.ranks:
            log.info("model=%s ranks texts only, so it has no score for '%s'", name, task.name)
            continue
        began = time.monotonic()
        measured = task.measure_bm25() if encode is None else measure(task, encode, config.widths, config.quantization)
        comparison.add(name, task.name, task.main, measured, time.monotonic() - began)
    if run:
        try:
            run.keep_scores(comparison.scores.get(name, {}), identity)
        except PermissionError as error:  # a run of somebody else; the output has the scores all the same
            log.warning("%s: its scores are not kept there (%s)", run.path, error.strerror)


def _is_scores(path: Path) -> bool:
    """Whether a file may be replaced by new scores."""
    try:
        value = read_json(path)
    except InputError:
        return False
    return isinstance(value, dict) and all(isinstance(scores, dict) for scores in value.values())
