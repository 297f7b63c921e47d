"""The demo from top to bottom: corpus -> prepare -> pairs -> triplets -> evaluate -> export -> table and report.

Each part is the same code as its own command, and skips what an earlier, interrupted demo in the same folder has done.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jemb.config import (
    ConsistencyConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    ModelConfig,
    PrepareConfig,
    StageName,
    TrainConfig,
)
from jemb.demo.corpus import CorpusCounts, build_corpus
from jemb.demo.summary import scores_table, write_report
from jemb.errors import Failure, InputError
from jemb.evaluate import evaluate
from jemb.export import export
from jemb.files import write_atomic, write_json
from jemb.prepare import Tools, prepare, summary_table
from jemb.run_folder import RunFolder
from jemb.shards import Manifest
from jemb.train import train

log = logging.getLogger(__name__)

MARK = ".jemb-demo"
MODEL = ModelConfig(hidden_size=256, num_layers=1, num_heads=4, vocab_size=16_000)
MAX_LENGTH = 96
CONSISTENCY = ConsistencyConfig(max_length=64)

MakeTools = Callable[[PrepareConfig], Tools]


@dataclass(slots=True)
class Journey:
    """What the demo has found so far; everything in the table and the report comes from here."""

    folder: Path
    corpus: CorpusCounts
    pairs: list[Manifest] = field(default_factory=list)
    triplets: list[Manifest] = field(default_factory=list)
    results: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def runs(self) -> dict[str, RunFolder]:
        return {name: RunFolder(self.folder / "runs" / name) for name in ("pairs", "triplets")}


def demo(config: DemoConfig, make_tools: MakeTools) -> Journey:
    """Run the whole journey in `config.output`; prints its table and writes report.html, model/ and results.json.

    make_tools: settings -> the models that `prepare` takes.
    Raises InputError when the folder holds something else.
    """
    folder = Path(config.output)
    _claim(folder)
    began = time.monotonic()
    clock = _Clock()
    log.info("1/6 corpus: docstrings of the installed packages")
    corpus = build_corpus(folder / "corpus", max_pairs=config.max_pairs, seed=config.seed)
    journey = Journey(folder, corpus, seconds=clock.seconds)
    clock.lap("corpus")

    log.info("2/6 prepare: from %d raw pairs to shards", sum(corpus.pairs.values()))
    stages = _stages(journey, make_tools)
    for_pairs = _prepare_config(journey, config, "raw", "pairs", stages)
    journey.pairs = prepare(for_pairs, make_tools(for_pairs))
    for_triplets = _prepare_config(journey, config, "raw_triplets", "triplets", ["exact", "near_duplicates"])
    journey.triplets = prepare(for_triplets, make_tools(for_triplets))
    _forget_other_runs(journey, config)
    clock.lap("prepare")

    log.info("3/6 train on pairs")
    runs = journey.runs
    _train(
        TrainConfig(
            shards=str(folder / "shards" / "pairs"),
            output=str(runs["pairs"].path),
            objective="pairs",
            model=MODEL,
            max_length=MAX_LENGTH,
            global_batch_size=_batch_size(256, journey.pairs),
            max_steps=config.pair_steps,
            learning_rate=5e-4,
            checkpoint_every=100,
            seed=config.seed,
        )
    )
    clock.lap("train on pairs")

    log.info("4/6 train on triplets")
    _train(
        TrainConfig(
            shards=str(folder / "shards" / "triplets"),
            output=str(runs["triplets"].path),
            objective="triplets",
            init=str(runs["pairs"].path),
            max_length=MAX_LENGTH,
            global_batch_size=_batch_size(64, journey.triplets),
            max_steps=config.triplet_steps,
            learning_rate=5e-4,
            checkpoint_every=100,
            seed=config.seed,
        )
    )
    clock.lap("train on triplets")

    log.info("5/6 evaluate on held-out objects")
    models = {"untrained": runs["pairs"].start, "pairs": runs["pairs"].path, "triplets": runs["triplets"].path}
    for name, model in models.items():
        journey.results[name] = _evaluate(journey, str(model), name)
    journey.results["bm25"] = _evaluate(journey, "bm25", "bm25")
    clock.lap("evaluate")

    log.info("6/6 export")
    shutil.rmtree(folder / "model", ignore_errors=True)
    export(ExportConfig(run=str(runs["triplets"].path), output=str(folder / "model")))
    clock.lap("export")

    write_json(folder / "results.json", journey.results)
    write_report(journey, folder / "report.html")
    print(summary_table(journey.pairs + journey.triplets), end="\n\n")
    print(scores_table(journey.results))
    for note in journey.notes:
        print(f"note: {note}")
    print(f"\n{time.monotonic() - began:.0f} s; report: {folder / 'report.html'}, model: {folder / 'model'}")
    return journey


def _claim(folder: Path) -> None:
    """The demo replaces what it made before, so it takes only an empty folder or one that it has marked."""
    if folder.exists() and not (folder / MARK).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"output={folder}: there is something that is not a demo; use an empty or a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


def _forget_other_runs(journey: Journey, config: DemoConfig) -> None:
    """Runs on other data or settings than these are begun anew: other packages make another corpus."""
    facts = {
        "data": {m.name: m.fingerprint for m in [*journey.pairs, *journey.triplets]},
        "config": {name: value for name, value in asdict(config).items() if name != "output"},
        "model": asdict(MODEL),
    }
    mark, made = journey.folder / MARK, json.dumps(facts, sort_keys=True)
    if mark.read_text() != made:
        shutil.rmtree(journey.folder / "runs", ignore_errors=True)
        write_atomic(mark, made)


def _stages(journey: Journey, make_tools: MakeTools) -> list[StageName]:
    """All stages; without the consistency filter, and with a note in the table, where its model is missing."""
    try:
        config = PrepareConfig(input="none", output="none", consistency=CONSISTENCY)
        make_tools(config).encoder(CONSISTENCY.encoder)(["a test"])
    except InputError as error:
        journey.notes.append(f"the consistency filter did not run: {error}")
        return ["exact", "near_duplicates", "language"]
    return ["exact", "near_duplicates", "language", "consistency"]


def _prepare_config(
    journey: Journey, config: DemoConfig, raw: str, shards: str, stages: list[StageName]
) -> PrepareConfig:
    return PrepareConfig(
        input=str(journey.folder / "corpus" / raw),
        output=str(journey.folder / "shards" / shards),
        stages=stages,
        consistency=CONSISTENCY,
        seed=config.seed,
        overwrite=True,
    )


def _batch_size(wanted: int, manifests: list[Manifest]) -> int:
    """`wanted`, or the largest power of two that the smallest data set fills."""
    smallest = min(manifest.num_samples for manifest in manifests if manifest.num_samples)
    return min(wanted, 1 << (smallest.bit_length() - 1))


def _train(config: TrainConfig) -> None:
    run = train(config)
    if run.read_record()["status"] != "finished":
        raise Failure(f"{run.path}: training was asked to stop; the same command continues there")


def _evaluate(journey: Journey, model: str, name: str) -> dict[str, float]:
    """results.json's entry of one model."""
    retrieval = f"retrieval:{journey.folder / 'corpus' / 'retrieval'}"
    negation = f"negation:{journey.folder / 'corpus' / 'negation.jsonl'}"
    tasks = [retrieval] if model == "bm25" else [retrieval, negation]
    output = journey.folder / "scores" / f"{name}.json"
    scores = evaluate(EvaluateConfig(model=[model], tasks=tasks, output=str(output))).scores[model]
    return {"retrieval_ndcg_at_10": scores[retrieval]["ndcg_at_10"], **scores.get(negation, {})}


class _Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = now - self._last
        self._last = now
