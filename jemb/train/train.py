"""`jemb train`, from top to bottom: processes -> shards and plan -> start -> module and data -> fit -> model folder."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace

import lightning
from lightning.pytorch.loggers import Logger

from jemb.config import TrainConfig
from jemb.core.errors import InputError
from jemb.core.files import writing
from jemb.data import loader_processes
from jemb.data.module import PairData
from jemb.distributed import max_over_ranks, rank, world_size
from jemb.distributed.peers import report_lost_peers
from jemb.distributed.processes import joined_processes
from jemb.distributed.ranks import agreed, on_rank_zero
from jemb.loss.products import FULL, products_in
from jemb.run_folder import RunFolder
from jemb.train.build import choose_precision, count_steps, make_module, make_scaling, make_trainer
from jemb.train.checkpoints import Checkpoints
from jemb.train.dry_run import batch_lines, plan_lines
from jemb.train.evaluation import EvaluateInLoop
from jemb.train.logs.record import facts_of, locked, write_end
from jemb.train.logs.run_log import RunLog
from jemb.train.preemption import CopyToStorage, StopOnSignal, StopRequest
from jemb.train.resume import Start, begin_with, decide_start, finish
from jemb.train.strategies.choice import choose_strategy

log = logging.getLogger(__name__)


def train(
    config: TrainConfig, *, callbacks: Sequence[lightning.Callback] = (), loggers: Sequence[Logger] = ()
) -> RunFolder:
    """Train until `max_steps`, or until a signal asks to stop; continue a run that was stopped or killed.

    Runs alone, or as one of the processes that torchrun or srun started. `RunFolder.model` is there once the run has
    finished; run.json says `finished` or `stopped`. After Ctrl-C it saves, then raises KeyboardInterrupt.
    callbacks, loggers: of the caller, for the Trainer; the callbacks come before those that save, so that one may set
    `trainer.should_stop`.
    Raises InputError for wrong input, Failure for a loss or gradient that is no number; the last checkpoint stays.
    """
    began = time.perf_counter()
    run = (storage := CopyToStorage(config.output)).run
    with ExitStack() as stack:
        processes = stack.enter_context(joined_processes(config.device, config.timeout_minutes))
        request = stack.enter_context(StopRequest())
        held: list[bool] = []  # that this process, the first, has the run's lock

        def failed() -> None:
            with suppress(OSError, InputError):  # on a full disk, or in a folder that is no more
                if held:
                    write_end(run, max(dict(run.checkpoints()), default=0), "failed")

        stack.enter_context(report_lost_peers(config.timeout_minutes, before_end=failed))

        def open_data() -> PairData:
            """Shards and plan, as this process sees them."""
            choose_strategy(config.strategy, world_size())
            make_scaling(config, processes.device, world_size())
            choose_precision(config.precision, processes.device)
            data = PairData.of_run(config)
            data.wanted()
            data.plan.check_processes(world_size())
            return data

        data = agreed(open_data, lambda data: facts_of(config, data.readers, data.plan))
        stack.enter_context(products_in("high" if config.precision == "tf32" else FULL))
        max_steps = data.steps = count_steps(config, data.plan)
        evaluations = EvaluateInLoop(run, config.evaluation, every=config.checkpoint_every, stop=max_steps)

        def lock_and_decide() -> Start:
            evaluations.read_tasks()
            stack.enter_context(locked(run))
            held.append(True)
            storage.fetch()
            return decide_start(run, config, data, processes.device, evaluations)

        start: Start = on_rank_zero(lock_and_decide)
        start = replace(start, state=storage.share_start(processes.info.local_rank, start.state))
        stack.enter_context(storage.copied())

        def fit() -> int:
            """Do the steps that are left, or till evaluations or a signal end the run; returns how many are done."""
            for line in [*plan_lines(data.plan, max_steps), batch_lines(config, world_size())[0]]:
                log.info("%s", line)
            if start.step:
                log.info("continuing after step %d of %d", start.step, max_steps)
            module = make_module(
                config,
                begin_with(run, start.state, config.model),
                processes.device,
                max_steps=max_steps,
                first_step=start.step,
                teacher_width=data.teacher_width,
            )
            every, keep = config.checkpoint_every, config.keep_checkpoints
            ours: list[lightning.Callback] = [
                storage,
                StopOnSignal(request),
                RunLog(run.path, trackers=config.trackers, log_samples=config.log_samples, began=began),
                Checkpoints(run.path, every=every, keep=keep, start=(start.step, start.state)),
                *([evaluations] if config.evaluation.tasks else []),
            ]
            trainer = make_trainer(
                config, processes, max_steps=max_steps, callbacks=[*callbacks, *ours], loggers=loggers
            )
            try:
                with loader_processes():
                    trainer.fit(module, data)
            except InputError as error:
                if rank():  # a damaged sample is met by one process, and the first prints only its own errors
                    log.error("jemb train: process %d: %s", rank(), error)
                raise
            return start.step + trainer.global_step

        try:
            with writing(run.path):
                done = start.step if start.ended or max_over_ranks(request.wanted()) else fit()
                over, asked = on_rank_zero(evaluations.over), max_over_ranks(request.signal or 0)
                if rank() == 0:
                    finish(run, config, evaluations, start.step, done, over, asked)
        except Exception:
            failed()
            raise
        if done < max_steps and not over and request.signal == signal.SIGINT:
            raise KeyboardInterrupt
    return run
