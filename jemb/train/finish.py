"""The end of a start of `jemb train`: what run.json says, and the model folder of a run that has finished."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

from jemb.core.files import whole_folder, writing
from jemb.model import load_start, load_weights
from jemb.run_folder import RunFolder
from jemb.train.build import Job
from jemb.train.evaluation import Evaluations
from jemb.train.record import write_end

log = logging.getLogger(__name__)


def finish(
    run: RunFolder, job: Job, evaluations: Evaluations, start: int, done: int, over: str | None, asked: int
) -> None:
    """On rank 0, after `done` steps of which there were `start` before. over: why the run has ended before its last
    step, if it has. asked: the signal that stopped it, or 0."""
    max_steps, did_nothing = job.max_steps, done == start
    if done < max_steps and not over:
        write_end(run, steps=done, status="stopped")
        name = signal.Signals(asked).name if asked else "a callback"
        log.warning("stopped after step %d of %d, asked by %s; the same command continues there", done, max_steps, name)
        return
    checkpoints = dict(run.checkpoints())
    best = evaluations.standing(checkpoints)
    step = best.step if best else max(checkpoints)
    chosen = evaluations.describe_choice(best) if best else None
    if best and best.worse_than_start:
        log.warning("evaluation.tasks: %s. Training has not helped here: is it the right data, learning_rate?", chosen)
    if not (did_nothing and run.model.is_dir() and run.read_record().get("model_step") == step):
        _write_model(run, checkpoints[step], trust_remote_code=job.config.model.trust_remote_code)
    write_end(run, steps=done, status="finished", model_step=step, chosen=chosen, stopped_early=over)
    if over:
        log.info("%s", over)
    log.info(
        "%s after %d steps; model%s: %s",
        "was already finished" if did_nothing else "finished",
        done,
        f" of step {step}, {chosen}" if chosen else "",
        run.model,
    )


def _write_model(run: RunFolder, checkpoint: Path, *, trust_remote_code: bool) -> None:
    """The model of a checkpoint, which holds it whole under every strategy."""
    encoder = load_start(run.start, trust_remote_code=trust_remote_code)
    load_weights(encoder, checkpoint)
    with writing(run.model, f"{checkpoint} has its weights"), whole_folder(run.model) as folder:
        encoder.save(folder)
