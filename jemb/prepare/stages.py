"""The stages in order, each as one or two passes over the table, with its settings bound.

Before: `read.py` has made the pieces. After: `run.py` counts what each stage kept and dropped, and `write.py` writes
what is left. `Each` looks at one piece at a time; `Whole` compares rows of the whole data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from jemb.config import PrepareConfig, StageName
from jemb.files import read_json, write_json
from jemb.prepare.job import Job
from jemb.prepare.table import Dropped, Rows, Table, Verdict, add_up, is_verdict, write_dropped, write_verdict
from jemb.prepare.tools import Tools

VERDICT = "verdict.json"
"""Marker of a finished pass: its counts by reason, and its statistics."""


@dataclass(frozen=True, slots=True)
class Each:
    """A pure, picklable function of the live rows of one piece."""

    name: str
    function: Callable[[Rows], Verdict]
    columns: tuple[str, ...] = ("query", "positive", "negatives")
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class Whole:
    """A function of the table, which does its work through the job."""

    name: str
    function: Callable[[Table, Job], Sequence[Dropped]]


Pass = Each | Whole


@dataclass(frozen=True, slots=True)
class Given:
    """What the stages are made from. evaluation_texts: what `decontaminate` looks for. others: folders of the data sets
    that `exact.across` compares with."""

    config: PrepareConfig
    tools: Tools
    evaluation_texts: Sequence[str] = ()
    others: Sequence[Path] = ()


def passes(given: Given) -> dict[str, list[Pass]]:
    """The passes of each chosen stage, in order. A stage that is not chosen is not imported: some need much."""
    return {stage: _PASSES[stage](given) for stage in get_args(StageName) if stage in given.config.stages}


def _exact(given: Given) -> list[Pass]:
    from jemb.prepare.exact import duplicates, judge

    return [Each("exact", judge), Whole("exact", partial(duplicates, others=given.others))]


def _near_duplicates(given: Given) -> list[Pass]:
    from jemb.prepare.near_duplicates import near_duplicates

    config = given.config
    return [
        Whole("near duplicates", lambda table, job: [near_duplicates(table, job, config.near_duplicates, config.seed)])
    ]


def _decontaminate(given: Given) -> list[Pass]:
    from jemb.prepare.decontaminate import decontaminate

    config, texts = given.config, given.evaluation_texts
    return [
        Whole("decontaminate", lambda table, job: decontaminate(table, job, texts, config.decontaminate, config.seed))
    ]


def _language(given: Given) -> list[Pass]:
    from jemb.prepare.language import by_language, identifier

    options = given.config.language
    judge = partial(
        by_language,
        identify=identifier(options.allowed, options.model),
        threshold=options.threshold,
        sides=options.sides,
        keep_unsure=options.unsure == "keep",
    )
    return [Each("language", judge, ("query", "positive"))]


def _overlap(given: Given) -> list[Pass]:
    from jemb.prepare.overlap import drop_overlapping

    return [Each("overlap", partial(drop_overlapping, config=given.config.overlap), ("query", "positive"))]


def _consistency(given: Given) -> list[Pass]:
    from jemb.prepare.consistency import consistency

    config, encoder = given.config, given.tools.encoder
    return [
        Whole("consistency", lambda table, job: [consistency(table, job, config.consistency, config.seed, encoder)])
    ]


def _negation(given: Given) -> list[Pass]:
    from jemb.prepare.negation import add_negations

    return [Each("negation", partial(add_negations, config=given.config.negation))]


def _mine(given: Given) -> list[Pass]:
    from jemb.prepare.mine import mine

    config, encoder = given.config, given.tools.mining_encoder
    return [Whole("mine", lambda table, job: [mine(table, job, config.mine, config.seed, encoder)])]


def _cross_encoder(given: Given) -> list[Pass]:
    from jemb.prepare.cross_encoder import cross_encoder

    options, make = given.config.cross_encoder, given.tools.cross_encoder
    return [Each("cross-encoder", partial(cross_encoder, config=options, make_score=make), gpu=True)]


_PASSES: dict[str, Callable[[Given], list[Pass]]] = {
    "exact": _exact,
    "near_duplicates": _near_duplicates,
    "decontaminate": _decontaminate,
    "language": _language,
    "overlap": _overlap,
    "consistency": _consistency,
    "negation": _negation,
    "mine": _mine,
    "cross_encoder": _cross_encoder,
}


def run_pass(step: Pass, table: Table, job: Job) -> dict[str, Any]:
    """Leave the verdicts in the job's folder; {"dropped": {reason: rows}, "statistics": {…}}. Once done, only read."""
    marker = job.folder / VERDICT
    if marker.exists():
        return dict(read_json(marker))
    if isinstance(step, Each):
        judge = partial(_judge, table, job.folder, step)
        results = job.map(step.name, judge, range(table.num_pieces), sizes=table.counts(), gpu=step.gpu)
        result = {name: add_up(result[name] for result in results) for name in ("dropped", "statistics")}
    else:
        result = write_dropped(job.folder, table, step.function(table, job))
    write_json(marker, result)
    for path in job.folder.iterdir():  # signatures and vectors have done their service, and are many times the verdicts
        if path != marker and not is_verdict(path):
            path.unlink()
    return result


def _judge(table: Table, folder: Path, step: Each, piece: int) -> dict[str, Any]:
    rows = table.read(piece, step.columns)
    return write_verdict(folder, piece, rows, step.function(rows))
