"""`jemb train`, read from top to bottom: processes -> shards -> plan -> encoder -> fit -> model folder."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from jemb.config import TrainConfig
from jemb.data import BatchPlan, Collate, StepDataset, StepLoader
from jemb.distributed import rank, world_size
from jemb.errors import InputError
from jemb.files import whole_folder
from jemb.model import load_encoder, read_weights
from jemb.run_folder import RunFolder
from jemb.shards import ShardReader
from jemb.train.build import (
    check_negatives,
    choose_bf16,
    count_steps,
    make_encoder,
    make_plan,
    make_trainer,
    open_shards,
)
from jemb.train.checkpoints import Checkpoints, StopRequest, find_start, remove_leftovers, stop_request, writing
from jemb.train.module import EmbeddingModule
from jemb.train.optim import planned_rate
from jemb.train.peers import agreed, answering, facts_of
from jemb.train.processes import Processes, joined_processes, on_rank_zero
from jemb.train.record import check_resumable, locked, write_end, write_start
from jemb.train.run_log import RunLog
from jemb.train.strategies import choose_strategy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """What all processes of a run agree on before the first step."""

    config: TrainConfig
    run: RunFolder
    readers: Mapping[str, ShardReader]
    plan: BatchPlan
    max_steps: int
    processes: Processes


def train(config: TrainConfig) -> RunFolder:
    """Train until `max_steps`, or until a signal asks to stop; continue a run that was stopped or killed.

    Runs alone, or as one of the processes that torchrun or srun started. `RunFolder.model` is there once the run has
    finished; run.json says `finished` or `stopped`. After Ctrl-C it saves, then raises KeyboardInterrupt.
    Raises InputError for wrong input, Failure for a loss or gradient that is no number; the last checkpoint stays.
    """
    run = RunFolder(Path(config.output))
    with ExitStack() as stack:
        processes = stack.enter_context(joined_processes(config.device, config.timeout_minutes))
        request = stack.enter_context(stop_request())
        stack.enter_context(answering(config.timeout_minutes))
        readers, plan = agreed(lambda: _open(config), lambda found: facts_of(config, *found))
        job = Job(config, run, readers, plan, count_steps(config, plan), processes)

        def lock_and_prepare() -> tuple[int, Path | None]:
            stack.enter_context(locked(run))
            return _prepare_folder(job)

        start, state = on_rank_zero(lock_and_prepare)
        try:
            with writing(run.path):
                done = _fit(job, request, start, state)
                if rank() == 0:
                    _finish(job, done, did_nothing=done == start)
        except Exception:
            if rank() == 0:
                with suppress(OSError):  # on a full disk
                    write_end(run, steps=run.checkpoints()[-1][0] if run.checkpoints() else 0, status="failed")
            raise
        if done < job.max_steps and request.signal == signal.SIGINT:
            raise KeyboardInterrupt
    return run


def _open(config: TrainConfig) -> tuple[dict[str, ShardReader], BatchPlan]:
    choose_strategy(config.strategy, world_size())
    readers = open_shards(config)
    return readers, make_plan(config, readers, world_size())


def _prepare_folder(job: Job) -> tuple[int, Path | None]:
    """Make or check the run folder; returns (steps done, checkpoint to load)."""
    check_resumable(job.run, job.config)
    remove_leftovers(job.run)
    step, state = find_start(job.run, job.plan.fingerprint)
    if state is None:
        check_negatives(job.config, job.readers)
        encoder = make_encoder(job.config, job.readers)
        with writing(job.run.start), whole_folder(job.run.start) as folder:
            encoder.save(folder)
    _warn_of_the_schedule(job, step)
    if step < job.max_steps:
        job.run.scores.unlink(missing_ok=True)  # of a model that is about to be replaced
    layout = {
        "world_size": world_size(),
        "device": job.processes.device.type,
        "strategy": choose_strategy(job.config.strategy, world_size()),
        "precision": job.config.precision,
    }
    write_start(job.run, job.config, job.plan, job.readers, step=step, max_steps=job.max_steps, layout=layout)
    return step, state


def _warn_of_the_schedule(job: Job, step: int) -> None:
    """The learning rate depends on `max_steps`, which may change when a run goes on."""
    config, now = job.config, job.max_steps
    before = job.run.read_record()["max_steps"] if step else now
    old, new = (planned_rate(config, step, steps) for steps in (before, now))
    if step < now and old != new:
        log.warning(
            "max_steps was %d and is now %d, which moves the learning rate: after step %d it is %.3g instead of %.3g",
            before,
            now,
            step,
            new,
            old,
        )
    if config.warmup_steps and config.warmup_steps > now:
        log.warning(
            "warmup_steps=%d is more than the %d steps of this run: the learning rate only rises, to %.0f %% of %g",
            config.warmup_steps,
            now,
            100 * now / config.warmup_steps,
            config.learning_rate,
        )


def _fit(job: Job, request: StopRequest, start: int, state: Path | None) -> int:
    """Do steps `start` to `max_steps`, beginning with the checkpoint `state`; returns the steps done."""
    if start >= job.max_steps:
        return start
    config, is_first = job.config, rank() == 0
    _announce(job, start)
    encoder = load_encoder(str(job.run.start), dropout=config.model.dropout)
    if state is not None:
        encoder.load_state_dict(read_weights(state))
    collate = Collate(
        tokenize=encoder.tokenize,
        num_negatives=config.num_negatives if config.objective == "triplets" else 0,
        seed=config.seed,
    )
    dataset = StepDataset(
        job.plan,
        job.readers,
        collate,
        rank=rank(),
        world_size=world_size(),
        global_keys=config.log_samples and is_first,
        balance=config.balance,
    )
    loader = StepLoader(dataset, start=start, stop=job.max_steps, workers=config.workers)
    module = EmbeddingModule(
        encoder,
        config,
        max_steps=job.max_steps,
        wants_to_stop=request.wanted,
        bf16=choose_bf16(config.precision, job.processes.device),
    )
    run_log = RunLog(
        job.run,
        start=start,
        stop=job.max_steps,
        log_samples=config.log_samples,
        trackers=config.trackers,
        write=is_first,
    )
    checkpoints = Checkpoints(
        job.run,
        start=(start, state),
        plan=job.plan.fingerprint,
        every=config.checkpoint_every,
        keep=config.keep_checkpoints,
        stop=job.max_steps,
    )
    trainer = make_trainer(config, job.processes, max_steps=job.max_steps - start, callbacks=[run_log, checkpoints])
    encoder.train()
    try:
        trainer.fit(module, loader)
    except InputError as error:
        if not is_first:  # a damaged sample is met by one process, and the first prints only its own errors
            log.error("jemb train: process %d: %s", rank(), error)
        raise
    return start + trainer.global_step


def _announce(job: Job, start: int) -> None:
    passes = job.plan.passes(job.max_steps)
    for source in job.plan.sources:
        log.info(
            "data set %s: %d samples, %.1f %% of the batches, %.2f passes",
            source.name,
            source.num_samples,
            100 * job.plan.shares[source.name],
            passes[source.name],
        )
    size = job.config.global_batch_size
    log.info("global batch of %d: %d processes with %d samples each", size, world_size(), size // world_size())
    if start:
        log.info("continuing after step %d of %d", start, job.max_steps)


def _finish(job: Job, done: int, *, did_nothing: bool) -> None:
    run = job.run
    if done < job.max_steps:
        write_end(run, steps=done, status="stopped")
        log.warning("stopped after step %d of %d; the same command continues there", done, job.max_steps)
        return
    if not (did_nothing and run.model.is_dir() and run.read_record()["model_step"] == done):
        _write_model(run)
    write_end(run, steps=done, status="finished")
    log.info("%s after %d steps; model: %s", "was already finished" if did_nothing else "finished", done, run.model)


def _write_model(run: RunFolder) -> None:
    """The model of the last checkpoint, which holds it whole under every strategy."""
    encoder = load_encoder(str(run.start))
    encoder.load_state_dict(read_weights(run.checkpoints()[-1][1]))
    with writing(run.model, "the last checkpoint has its weights"), whole_folder(run.model) as folder:
        encoder.save(folder)
