"""`jemb evaluate`: read every task, score the model on each, write the results.

Before: a model folder or run. After: `OUTPUT.json`, and `RUN/scores.json` for the model card of `export/`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jemb.config import EvaluateConfig
from jemb.errors import Failure, InputError
from jemb.evaluate.bm25 import SETTINGS, score_bm25
from jemb.evaluate.retrieval import RetrievalTask
from jemb.evaluate.tasks import Task, load_task
from jemb.evaluate.vectors import Encode
from jemb.files import read_json, write_json
from jemb.run_folder import RunFolder, is_run

log = logging.getLogger(__name__)

Results = dict[str, dict[str, float]]
"""{task as the user wrote it: {metric: percent}}."""


def evaluate(config: EvaluateConfig) -> Results:
    """Score `config.model` on every task, write the results to `config.output`, return them.

    All files are read before anything is encoded, so a mistake in the last task costs no work. Where a task
    fails later, what was scored before it is in `NAME.partial.json` beside the output.
    """
    output = Path(config.output)
    if output.is_dir():
        raise InputError(f"output={output} is a folder; wanted the name of a JSON file")
    if output.exists() and not _is_scores(output):
        raise InputError(f"output={output} exists and holds no scores of `jemb evaluate`; wanted a new JSON file")
    if not config.tasks:
        raise InputError("tasks is empty; wanted e.g. 'tasks=[sts:FILE.jsonl]'")
    tasks = [load_task(name) for name in dict.fromkeys(config.tasks)]
    score_one = _baseline(tasks) if config.model == "bm25" else _model(config)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output={output}: its folder cannot be made ({error.strerror})") from None
    results: Results = {}
    partial = output.with_name(f"{output.stem}.partial.json")
    try:
        while tasks:
            task = tasks.pop(0)  # so that its texts can go before the next is encoded
            results[task.name] = _finite(task.name, score_one(task))
    except BaseException:
        if results:
            write_json(partial, results)
            log.error("stopped before the end; the %d finished tasks are in %s", len(results), partial)
        raise
    write_json(output, results)
    partial.unlink(missing_ok=True)
    model = Path(config.model).expanduser()
    if config.model != "bm25" and is_run(model):
        _keep_scores(RunFolder(model), results)
    return results


def _is_scores(path: Path) -> bool:
    """Whether a file may be replaced by new scores."""
    try:
        value = read_json(path)
    except InputError:
        return False
    return isinstance(value, dict) and all(isinstance(scores, dict) for scores in value.values())


def score(encode: Encode, task: Task | str) -> dict[str, float]:
    """Metrics in percent of any encode function on one task, read already or named as for `jemb evaluate`."""
    task = load_task(task) if isinstance(task, str) else task
    return _finite(task.name, task.score(encode))


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """The results as aligned text: a line for each metric of each task."""
    rows = [
        (task if first else "", metric, f"{value:.2f}")
        for task, metrics in results.items()
        for first, (metric, value) in zip([True] + [False] * len(metrics), metrics.items(), strict=False)
    ]
    head = ("task", "metric", "percent")
    task_width, metric_width, value_width = (max(len(row[i]) for row in [head, *rows]) for i in range(3))
    return "\n".join(
        f"{task:<{task_width}}  {metric:<{metric_width}}  {value:>{value_width}}"
        for task, metric, value in [head, *rows]
    )


def _model(config: EvaluateConfig) -> Callable[[Task], dict[str, float]]:
    # Not at the top: BM25 and the tasks themselves do without torch, which takes seconds to import.
    import torch

    from jemb.model.encode import encode
    from jemb.model.load import load_encoder

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda, but torch sees no CUDA device; use device=cpu or device=auto")
    encoder = load_encoder(config.model, max_length=config.max_length)

    def score_one(task: Task) -> dict[str, float]:
        def encode_texts(texts: Sequence[str]) -> np.ndarray:
            return encode(encoder, texts, batch_size=config.batch_size, device=device, progress=Path(task.name).name)

        return task.score(encode_texts)

    return score_one


def _baseline(tasks: Sequence[Task]) -> Callable[[Task], dict[str, float]]:
    for task in tasks:
        if not isinstance(task, RetrievalTask):
            raise InputError(f"model=bm25 does retrieval only, so it cannot do '{task.name}'; leave that task out")
    log.info("model=bm25: %s", SETTINGS)

    def score_one(task: Task) -> dict[str, float]:
        assert isinstance(task, RetrievalTask)
        return score_bm25(task)

    return score_one


def _finite(task: str, metrics: dict[str, float]) -> dict[str, float]:
    for metric, value in metrics.items():
        if not math.isfinite(value):
            raise Failure(f"{task}: {metric} is {value}; wanted a finite number")
    return metrics


def _keep_scores(run: RunFolder, results: Results) -> None:
    """Into RUN/scores.json, beside earlier scores of the same model; scores of an older model go."""
    known: Results = {}
    if run.scores.exists() and run.scores.stat().st_mtime >= run.model.stat().st_mtime:
        known = read_json(run.scores)
    write_json(run.scores, known | results)
