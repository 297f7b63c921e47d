"""`jemb train`, read from top to bottom: processes -> shards -> plan -> encoder -> fit -> model folder."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from jemb.config import TrainConfig
from jemb.data import BatchPlan, Collate, StepDataset, StepLoader
from jemb.distributed import rank, world_size
from jemb.errors import InputError
from jemb.files import whole_folder
from jemb.model import Encoder, load_encoder, read_weights
from jemb.model.weights import STATE
from jemb.run_folder import RunFolder
from jemb.shards import ShardReader
from jemb.train.build import count_steps, make_encoder, make_plan, make_trainer, open_shards
from jemb.train.checkpoints import Checkpoints, StopRequest, find_start, remove_leftovers, stop_request
from jemb.train.module import EmbeddingModule
from jemb.train.processes import Processes, joined_processes, on_rank_zero
from jemb.train.record import check_resumable, locked, write_end, write_start
from jemb.train.run_log import RunLog

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
        readers = open_shards(config)
        plan = make_plan(config, readers, world_size())
        job = Job(config, run, readers, plan, count_steps(config, plan), processes)

        def lock_and_prepare() -> tuple[int, Path | None]:
            stack.enter_context(locked(run))
            return _prepare_folder(job)

        start, state = on_rank_zero(lock_and_prepare)
        encoder = load_encoder(str(run.start), dropout=config.model.dropout)
        try:
            done = _fit(job, encoder, request, start, state)
        except Exception:
            if rank() == 0:
                write_end(run, steps=run.checkpoints()[-1][0] if run.checkpoints() else 0, status="failed")
            raise
        if rank() == 0:
            _finish(job, encoder, done, did_nothing=done == start)
        if done < job.max_steps and request.signal == signal.SIGINT:
            raise KeyboardInterrupt
    return run


def _prepare_folder(job: Job) -> tuple[int, Path | None]:
    """Make or check the run folder; returns (steps done, checkpoint to load)."""
    check_resumable(job.run, job.config)
    remove_leftovers(job.run)
    step, state = find_start(job.run, job.plan.fingerprint)
    if state is None:
        with whole_folder(job.run.start) as folder:
            make_encoder(job.config, job.readers).save(folder)
    if step < job.max_steps:
        job.run.scores.unlink(missing_ok=True)  # of a model that is about to be replaced
    layout = {
        "world_size": world_size(),
        "device": job.processes.device.type,
        "strategy": job.config.strategy,
        "precision": job.config.precision,
    }
    write_start(job.run, job.config, job.plan, job.readers, step=step, max_steps=job.max_steps, layout=layout)
    return step, state


def _fit(job: Job, encoder: Encoder, request: StopRequest, start: int, state: Path | None) -> int:
    """Do steps `start` to `max_steps`, beginning with the checkpoint `state`; returns the steps done."""
    if start >= job.max_steps and state is not None:
        encoder.load_state_dict(read_weights(state))
        return start
    config, is_first = job.config, rank() == 0
    _announce(job, start)
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
    )
    loader = StepLoader(dataset, start=start, stop=job.max_steps, workers=config.workers)
    module = EmbeddingModule(encoder, config, max_steps=job.max_steps, wants_to_stop=request.wanted)
    run_log = RunLog(job.run, start=start, stop=job.max_steps, log_samples=config.log_samples, write=is_first)
    checkpoints = Checkpoints(
        job.run,
        plan=job.plan.fingerprint,
        every=config.checkpoint_every,
        keep=config.keep_checkpoints,
        stop=job.max_steps,
    )
    trainer = make_trainer(config, job.processes, max_steps=job.max_steps, callbacks=[run_log, checkpoints])
    encoder.train()
    try:
        trainer.fit(module, loader, ckpt_path=state / STATE if state else None, weights_only=True)
    except InputError as error:
        if not is_first:  # a damaged sample is met by one process, and the first prints only its own errors
            log.error("jemb train: process %d: %s", rank(), error)
        raise
    return trainer.global_step


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


def _finish(job: Job, encoder: Encoder, done: int, *, did_nothing: bool) -> None:
    run = job.run
    if done < job.max_steps:
        write_end(run, steps=done, status="stopped")
        log.warning("stopped after step %d of %d; the same command continues there", done, job.max_steps)
        return
    if not (did_nothing and run.model.is_dir() and run.read_record()["model_step"] == done):
        with whole_folder(run.model) as folder:
            encoder.cpu().save(folder)
    write_end(run, steps=done, status="finished")
    log.info("%s after %d steps; model: %s", "was already finished" if did_nothing else "finished", done, run.model)
