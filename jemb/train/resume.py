"""Where a start of a run begins (step, weights, moments, logs), and what it leaves at its end.

Both are decided by rank 0, under the run's lock.
"""

from __future__ import annotations

import logging
import signal
from dataclasses import dataclass
from pathlib import Path

import torch

from jemb.config import ModelConfig, TrainConfig
from jemb.core.files import writing
from jemb.core.folders import whole_folder
from jemb.data import check_data
from jemb.data.module import PairData
from jemb.distributed import world_size
from jemb.distributed.ranks import on_rank_zero
from jemb.model import Encoder, load_start, load_weights, probe, save_start
from jemb.run_folder import RunFolder
from jemb.train.build import choose_precision, lora_options, make_encoder
from jemb.train.checkpoints import find_start, remove_leftovers
from jemb.train.evaluation import EvaluateInLoop
from jemb.train.logs.record import check_resumable, hardware, write_end, write_start
from jemb.train.logs.run_log import keep_steps
from jemb.train.optim import schedule_of
from jemb.train.strategies.choice import choose_strategy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Start:
    """Where this start begins: after `step`, with the checkpoint `state`. ended: there is nothing left to do."""

    step: int
    state: Path | None
    ended: bool


def decide_start(
    run: RunFolder, config: TrainConfig, data: PairData, device: torch.device, evaluations: EvaluateInLoop
) -> Start:
    """Make or check the run folder; the newest checkpoint that can be read says where to begin, else `run.start` gets
    the model to begin with. Lines of logs behind it go (those of metrics and samples when the fit begins)."""
    max_steps = evaluations.stop
    check_resumable(run, config)
    remove_leftovers(run)
    step, state = find_start(run, data.plan.fingerprint)
    if state is None:
        check_data(config, data.readers, data.wanted())
        encoder = make_encoder(config, data.readers)
        data.open_tokens(encoder)
        with writing(run.start), whole_folder(run.start) as folder:
            save_start(encoder, folder, lora_options(config))
    _warn_of_the_schedule(config, run, step, max_steps)
    keep_steps(run.evaluations, step)
    ended = step >= max_steps or evaluations.over() is not None
    if not ended:
        run.scores.unlink(missing_ok=True)  # of a model that is about to be replaced
    layout = {
        "world_size": world_size(),
        "device": device.type,
        "strategy": choose_strategy(config.strategy, world_size()),
        "precision": choose_precision(config.precision, device),
        "hardware": hardware(device),
    }
    write_start(run, config, data.plan, data.readers, step=step, max_steps=max_steps, layout=layout)
    return Start(step, state, ended and not evaluations.missing(step))


def begin_with(run: RunFolder, state: Path | None, model: ModelConfig) -> Encoder:
    """The encoder with the weights to begin with, on every rank. `Checkpoints` puts in the moments."""
    encoder = load_start(run.start, dropout=model.dropout, trust_remote_code=model.trust_remote_code)
    encoder.packed, encoder.compiled = model.packing == "on", model.compile
    if state is not None:
        # Its libraries may be others than before. With the weights of the start: the trained ones may be no numbers.
        on_rank_zero(lambda: probe(encoder, str(run.path)))
        load_weights(encoder, state)
    return encoder


def _warn_of_the_schedule(config: TrainConfig, run: RunFolder, step: int, now: int) -> None:
    """The learning rate depends on `max_steps`, which may change when a run goes on."""
    before = run.read_record()["max_steps"] if step else now
    old, new = (schedule_of(config, steps).rate(step) for steps in (before, now))
    if step < now and old != new:
        log.warning(
            "max_steps was %d and is now %d, which moves the learning rate: after step %d it is %.3g instead of %.3g",
            before, now, step, new, old,
        )  # fmt: skip
    if config.warmup_steps and config.warmup_steps > now:
        log.warning(
            "warmup_steps=%d is more than the %d steps of this run: the learning rate only rises, to %.0f %% of %g",
            config.warmup_steps, now, 100 * now / config.warmup_steps, config.learning_rate,
        )  # fmt: skip


def finish(
    run: RunFolder,
    config: TrainConfig,
    evaluations: EvaluateInLoop,
    start: int,
    done: int,
    over: str | None,
    asked: int,
) -> None:
    """On rank 0, after `done` steps of which there were `start` before. over: why the run has ended before its last
    step, if it has. asked: the signal that stopped it, or 0."""
    max_steps, did_nothing = evaluations.stop, done == start
    if done < max_steps and not over:
        write_end(run, done, "stopped")
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
        _write_model(run, checkpoints[step], trust_remote_code=config.model.trust_remote_code)
    write_end(run, done, "finished", model_step=step, model_chosen=chosen, stopped_early=over)
    if over:
        log.info("%s", over)
    how, of = "was already finished" if did_nothing else "finished", f" of step {step}, {chosen}" if chosen else ""
    log.info("%s after %d steps; model%s: %s", how, done, of, run.model)


def _write_model(run: RunFolder, checkpoint: Path, *, trust_remote_code: bool) -> None:
    """The model of a checkpoint, which holds it whole under every strategy."""
    encoder = load_start(run.start, trust_remote_code=trust_remote_code)
    load_weights(encoder, checkpoint)
    with writing(run.model, f"{checkpoint} has its weights"), whole_folder(run.model) as folder:
        encoder.save(folder)
