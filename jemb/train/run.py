"""`jemb train`, read from top to bottom: processes -> shards -> plan -> encoder -> fit -> model folder."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning

from jemb.config import TrainConfig
from jemb.data import BatchPlan, Collate, ReadAhead, StepDataset, StepLoader, Verifier
from jemb.distributed import max_over_ranks, rank, world_size
from jemb.errors import InputError
from jemb.files import whole_folder, writing
from jemb.mirror import Mirror, mirror_of
from jemb.model import Encoder, load_start, load_weights, probe, save_start
from jemb.pretokenize import open_tokens
from jemb.run_folder import RunFolder
from jemb.shards import ShardReader, TokenReader
from jemb.tables.places import to_local
from jemb.train.build import (
    check_negatives,
    choose_bf16,
    count_steps,
    lora_options,
    make_encoder,
    make_plan,
    make_trainer,
    open_shards,
    planned,
)
from jemb.train.checkpoints import Checkpoints, StopRequest, find_start, remove_leftovers, stop_request
from jemb.train.dry_run import batch_lines, plan_lines
from jemb.train.evaluation import EvaluateInLoop, Evaluations, EvaluationTools
from jemb.train.module import EmbeddingModule
from jemb.train.optim import planned_rate
from jemb.train.peers import report_lost_peers
from jemb.train.processes import Processes, agreed, joined_processes, on_rank_zero
from jemb.train.record import check_resumable, facts_of, hardware, locked, write_end, write_start
from jemb.train.run_log import RunLog, keep_steps
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
    evaluations: Evaluations
    mirror: Mirror | None
    began: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class Start:
    """Where this start begins: after `step`, with the checkpoint `state`. evaluate: first of all, that step's model."""

    step: int
    state: Path | None
    evaluate: bool


def train(config: TrainConfig, tools: EvaluationTools | None = None) -> RunFolder:
    """Train until `max_steps`, or until a signal asks to stop; continue a run that was stopped or killed.

    Runs alone, or as one of the processes that torchrun or srun started. `RunFolder.model` is there once the run has
    finished; run.json says `finished` or `stopped`. After Ctrl-C it saves, then raises KeyboardInterrupt.
    tools: needed where there are `evaluation.tasks`.
    Raises InputError for wrong input, Failure for a loss or gradient that is no number; the last checkpoint stays.
    """
    mirror = mirror_of(config.output)
    run = RunFolder(mirror.folder if mirror else Path(to_local(config.output)))
    with ExitStack() as stack:
        processes = stack.enter_context(joined_processes(config.device, config.timeout_minutes))
        request = stack.enter_context(stop_request())
        ours: list[bool] = []

        def failed() -> None:
            with suppress(OSError, InputError):  # on a full disk, or in a folder that is no more
                if ours:
                    write_end(run, steps=run.checkpoints()[-1][0] if run.checkpoints() else 0, status="failed")

        stack.enter_context(report_lost_peers(config.timeout_minutes, before_end=failed))
        readers, plan = agreed(lambda: _open(config), lambda found: facts_of(config, *found))
        max_steps = count_steps(config, plan)
        evaluations = Evaluations(run, config.evaluation, tools, every=config.checkpoint_every, stop=max_steps)
        job = Job(config, run, readers, plan, max_steps, processes, evaluations, mirror)

        def lock_and_prepare() -> Start:
            evaluations.read_tasks()
            stack.enter_context(locked(run))
            ours.append(True)
            if mirror:
                mirror.fetch_run()
            start = _prepare_folder(job)
            if mirror:
                mirror.push()  # a URL that cannot be written to is found now
            return start

        start: Start = on_rank_zero(lock_and_prepare)
        if mirror:
            start = _fetch_start(job, mirror, start)
        try:
            with writing(run.path):
                done = _fit(job, request, start)
                over = on_rank_zero(evaluations.over)
                asked = max_over_ranks(request.signal or 0)
                if rank() == 0:
                    _finish(job, done, over, asked, did_nothing=done == start.step)
        except Exception:
            if rank() == 0:
                failed()
                if mirror:
                    mirror.try_push()
            raise
        if mirror and rank() == 0:
            mirror.push()
            log.info("the run is copied to %s", mirror.url)
        if done < job.max_steps and not over and request.signal == signal.SIGINT:
            raise KeyboardInterrupt
    return run


def _open(config: TrainConfig) -> tuple[dict[str, ShardReader], BatchPlan]:
    choose_strategy(config.strategy, world_size())
    readers = open_shards(config)
    plan = make_plan(config, readers, world_size())
    return planned(plan, readers), plan


def _prepare_folder(job: Job) -> Start:
    """Make or check the run folder."""
    check_resumable(job.run, job.config)
    remove_leftovers(job.run)
    step, state = find_start(job.run, job.plan.fingerprint)
    if state is None:
        check_negatives(job.config, job.readers)
        encoder = make_encoder(job.config, job.readers)
        _open_tokens(job, encoder)
        with writing(job.run.start), whole_folder(job.run.start) as folder:
            save_start(encoder, folder, lora_options(job.config))
    _warn_of_the_schedule(job, step)
    keep_steps(job.run.evaluations, step)
    if step < job.max_steps and not job.evaluations.over():
        job.run.scores.unlink(missing_ok=True)  # of a model that is about to be replaced
    layout = {
        "world_size": world_size(),
        "device": job.processes.device.type,
        "strategy": choose_strategy(job.config.strategy, world_size()),
        "precision": "bf16" if choose_bf16(job.config.precision, job.processes.device) else "fp32",
        "hardware": hardware(job.processes.device),
    }
    write_start(job.run, job.config, job.plan, job.readers, step=step, max_steps=job.max_steps, layout=layout)
    return Start(step, state, evaluate=job.evaluations.missing(step))


def _fetch_start(job: Job, mirror: Mirror, start: Start) -> Start:
    """The same with the checkpoint's path on this machine; first processes of machines without the folder fetch it."""
    record, state = on_rank_zero(job.run.record.read_bytes), start.state

    def fetch() -> None:
        if not job.processes.environment.local_rank():
            mirror.fetch_start(record, state.name if state else None)

    agreed(fetch, lambda _: {})
    return replace(start, state=job.run.checkpoint_folder / state.name) if state else start


def _warn_of_the_schedule(job: Job, step: int) -> None:
    """The learning rate depends on `max_steps`, which may change when a run goes on."""
    config, now = job.config, job.max_steps
    before = job.run.read_record("max_steps")["max_steps"] if step else now
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


def _fit(job: Job, request: StopRequest, begin: Start) -> int:
    """Do the steps from `begin` to `max_steps`, or till the evaluations end the run; returns the steps done."""
    start, over = begin.step, on_rank_zero(job.evaluations.over)
    if ((start >= job.max_steps or over) and not begin.evaluate) or max_over_ranks(request.wanted()):
        return start
    config, is_first = job.config, rank() == 0
    _announce(job, start)
    encoder = load_start(job.run.start, dropout=config.model.dropout, trust_remote_code=config.model.trust_remote_code)
    if begin.state is not None:
        load_weights(encoder, begin.state)
        on_rank_zero(lambda: probe(encoder, str(job.run.path)))  # its libraries may be others than before
    evaluated: Mapping[str, Any] = {}
    if begin.evaluate:  # here, where each process still has the whole model
        evaluated = job.evaluations.evaluate(start, encoder, device=job.processes.device)
    if start >= job.max_steps or on_rank_zero(job.evaluations.over) or max_over_ranks(request.wanted()):
        return start
    collate = Collate(
        tokenize=encoder.tokenize,
        num_negatives=config.num_negatives if config.takes_negatives else 0,
        seed=config.seed,
        query_prompt=encoder.prompt("query"),
        passage_prompt=encoder.prompt("document"),
        pad_id=encoder.tokenize.pad_id,
        dataset_prompts={
            name: (encoder.prompt("query", name), encoder.prompt("document", name)) for name in job.readers
        },
    )
    tokens = _open_tokens(job, encoder)
    dataset = StepDataset(
        job.plan,
        job.readers,
        collate,
        rank=rank(),
        world_size=world_size(),
        global_keys=config.log_samples and is_first,
        balance=config.balance,
        ahead=_ahead(job),
        tokens=tokens,
    )
    verifier = Verifier(
        job.plan,
        job.readers,
        tokens,
        start=start,
        stop=job.max_steps,
        share=(job.processes.info.local_rank, job.processes.info.local_world_size),
    )
    loader = StepLoader(dataset, start=start, stop=job.max_steps, workers=config.workers, verifier=verifier)
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
        began=job.began,
    )
    checkpoints = Checkpoints(
        job.run,
        start=(start, begin.state),
        plan=job.plan.fingerprint,
        every=config.checkpoint_every,
        keep=config.keep_checkpoints,
        stop=job.max_steps,
        wanted=job.evaluations.due,
        best=job.evaluations.best_step,
        saved=job.mirror.try_push if job.mirror else None,
        verified=verifier.verified,
    )
    callbacks: list[lightning.Callback] = [run_log, checkpoints]
    if config.evaluation.tasks:
        callbacks.append(EvaluateInLoop(job.evaluations, checkpoints, run_log, evaluated))
    trainer = make_trainer(config, job.processes, max_steps=job.max_steps - start, callbacks=callbacks)
    encoder.train()
    try:
        trainer.fit(module, loader)
    except InputError as error:
        if not is_first:  # a damaged sample is met by one process, and the first prints only its own errors
            log.error("jemb train: process %d: %s", rank(), error)
        raise
    return start + trainer.global_step


def _open_tokens(job: Job, encoder: Encoder) -> dict[str, TokenReader] | None:
    return open_tokens(job.config.tokens, job.readers, encoder) if job.config.tokens else None


def _ahead(job: Job) -> ReadAhead | None:
    """One process of each machine fetches ahead for all of them."""
    steps = job.config.read_ahead
    if not steps or job.processes.environment.local_rank():
        return None
    lag = 2 * job.config.workers + 1  # batches that wait for the trainer in each process
    return ReadAhead(job.plan, job.readers, steps=steps, stop=job.max_steps, lag=lag)


def _announce(job: Job, start: int) -> None:
    for line in [*plan_lines(job.plan, job.max_steps), batch_lines(job.config, world_size())[0]]:
        log.info("%s", line)
    if start:
        log.info("continuing after step %d of %d", start, job.max_steps)


def _finish(job: Job, done: int, over: str | None, asked: int, *, did_nothing: bool) -> None:
    """over: why the run has ended before `max_steps`, if it has. asked: the signal that stopped it, or 0."""
    run = job.run
    if done < job.max_steps and not over:
        write_end(run, steps=done, status="stopped")
        name = signal.Signals(asked).name if asked else "its trainer"
        log.warning(
            "stopped after step %d of %d, asked by %s; the same command continues there", done, job.max_steps, name
        )
        return
    checkpoints = dict(run.checkpoints())
    best = job.evaluations.standing(checkpoints)
    step = best.step if best else max(checkpoints)
    chosen = job.evaluations.describe_choice(best) if best else None
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
