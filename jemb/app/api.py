"""The commands as functions of their config, with all that the parts may not know of each other put together.

`jemb COMMAND` and a notebook both call these. Each raises `InputError` for what is wrong with the config or the data,
`Failure` where the work cannot go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from jemb.config import EvaluateConfig, ExportConfig, MergeConfig, TokenizeConfig, TrainConfig, WeighConfig
from jemb.core.errors import InputError
from jemb.launch import find_ranks
from jemb.mirror import local_copy, written_file, written_to
from jemb.prepare.options import PrepareConfig, SourceConfig
from jemb.tables.places import base_name, is_url, to_local

if TYPE_CHECKING:
    from lightning import Callback
    from lightning.pytorch.loggers import Logger

    from jemb.evaluate import Comparison
    from jemb.run_folder import RunFolder
    from jemb.shards import Manifest
    from jemb.weighing import Weighed

PATIENCE_MINUTES = 24 * 60
"""How long the other processes wait while the first searches and scores; that one has died is noticed at once."""


def prepare(config: PrepareConfig, data: Any = None) -> list[Manifest]:
    """Make shards of `config.input`, of `config.sources` and of `data`; the manifests of the data sets.

    data: rows in memory: a `datasets.Dataset`, a pandas or polars frame, an Arrow table, an iterable of dictionaries;
    they become the data set `data`. Several as {name: rows}; options of theirs in `config.sources` hold.
    """
    from jemb.app.models import make_tools
    from jemb.prepare import prepare as prepare_files

    with written_to(config.output) as output, _as_files(config, data, Path(output)) as files:
        return prepare_files(replace(files, output=output), make_tools())


def weigh(config: WeighConfig) -> list[Weighed]:
    """Weigh data sets by how far their gradients go with those of the dev files; the data sets, the most aligned first.
    Writes the weights as settings of `jemb train`."""
    from jemb.weighing import weigh as weigh_here

    sources = {base_name(path).partition(".")[0]: SourceConfig(path=path) for path in config.dev}
    if len(sources) < len(config.dev) or not sources:
        raise InputError(f"dev={config.dev}: wanted a file or several, each with a name of its own")
    with written_file(config.output) as output, TemporaryDirectory() as dev:
        try:
            prepare(PrepareConfig(output=dev, sources=sources, stages=[], workers=1))
        except InputError as error:
            raise InputError(f"dev={config.dev}: {error}. Dev files have the fields query and positive") from None
        return weigh_here(replace(config, model=local_copy(config.model), output=output), Path(dev))


def tokenize(config: TokenizeConfig) -> str:
    """Store the tokens of shards; says how many."""
    from jemb.pretokenize import pretokenize

    return pretokenize(config)


def train(
    config: TrainConfig, data: Any = None, *, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = ()
) -> RunFolder:
    """Train until `max_steps`, or continue a run that was stopped; alone, or as one of the processes that torchrun or
    srun started. After Ctrl-C it saves, then raises KeyboardInterrupt.

    data: rows in memory, as for `prepare`, which are written to `config.shards` first, unfiltered. callbacks, loggers:
    Lightning's, or made after them, for the Trainer: they get what `EmbeddingModule` logs, in every process.
    """
    from jemb.train import train as train_on_shards

    if config.dry_run:
        raise InputError("dry_run=true starts nothing: `jemb.train.dry_run(config)` gives its text")
    if data is not None and find_ranks().rank == 0:
        prepare(PrepareConfig(output=config.shards, stages=[]), data)
    return train_on_shards(config, callbacks=callbacks, loggers=loggers)


def evaluate(config: EvaluateConfig) -> Comparison | None:
    """Score models on tasks. In several processes all encode, and the first has the result, the others None."""
    from jemb.evaluate import evaluate as evaluate_here

    if find_ranks().world_size == 1:
        with written_file(config.output) as output:
            models = [local_copy(model) for model in config.model]
            return evaluate_here(replace(config, model=models, output=output))
    from jemb.distributed.peers import report_lost_peers
    from jemb.distributed.processes import joined_processes
    from jemb.evaluate.run import evaluate_together

    for option, place in [("output", config.output), *(("model", model) for model in config.model)]:
        if is_url(to_local(place)):
            raise InputError(f"{option}={place}: several processes share a folder; a URL is for one process alone")
    with joined_processes(config.device, PATIENCE_MINUTES), report_lost_peers(PATIENCE_MINUTES, "Start it again"):
        return evaluate_together(config)


def merge(config: MergeConfig) -> Path:
    """Average the weights of models as a folder for sentence-transformers, checked; the folder."""
    from jemb.export.merge import merge as merge_models

    with written_to(config.output, anew=True) as output:
        return merge_models(replace(config, runs=[local_copy(run) for run in config.runs], output=output))


def export(config: ExportConfig) -> Path:
    """Write a run's model as a folder for sentence-transformers, checked; the folder."""
    from jemb.export import export as export_run

    with written_to(config.output, anew=True) as output:
        return export_run(replace(config, run=local_copy(config.run), output=output))


@contextmanager
def _as_files(config: PrepareConfig, data: Any, output: Path) -> Iterator[PrepareConfig]:
    """The config with data in memory as sources of their own."""
    if data is None:
        yield config
        return
    from jemb.tables.memory import write_rows

    # Where the job keeps what is unfinished: a folder that all processes see, removed at the end.
    paths = write_rows(data, output / ".work" / "given")
    for name in paths:
        if name in config.sources and config.sources[name].path:
            raise InputError(f"sources.{name}.path: data set {name!r} is given in memory, too; rename one")
    options = {name: replace(config.sources.get(name, SourceConfig()), path=str(path)) for name, path in paths.items()}
    yield replace(config, sources={**config.sources, **options})
