"""The demo from top to bottom: corpus -> prepare -> pairs -> triplets -> evaluate -> export -> table and report.

Each part is the same code as its own command, and skips what an earlier, interrupted demo in the same folder has done.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jemb.config import DemoConfig, EvaluateConfig, ExportConfig, ModelConfig, TrainConfig
from jemb.core.errors import Failure, InputError
from jemb.core.files import write_atomic, write_json
from jemb.demo.corpus import build_corpus
from jemb.demo.summary import scores_table, write_report
from jemb.evaluate import evaluate
from jemb.export import export
from jemb.prepare import Tools, prepare, summary_table
from jemb.prepare.options import PrepareConfig
from jemb.prepare.stages.consistency import ConsistencyConfig
from jemb.run_folder import RunFolder
from jemb.shards import Manifest
from jemb.train import train

log = logging.getLogger(__name__)

MARK = ".jemb-demo"
MODEL = ModelConfig(hidden_size=256, num_layers=1, num_heads=4, vocab_size=16_000)
MAX_LENGTH = 96
CONSISTENCY = ConsistencyConfig(max_length=64)

Results = dict[str, dict[str, float]]
"""Of results.json: {`untrained`, `pairs`, `triplets`, `bm25`: {score: percent}}."""


def demo(config: DemoConfig, tools: Tools) -> Results:
    """Run the whole journey in `config.output`; prints its table and writes report.html, model/ and results.json.

    tools: the models that `prepare` takes.
    Raises InputError when the folder holds something else.
    """
    folder = Path(config.output)
    _claim(folder)
    times = {"": time.monotonic()}
    log.info("1/6 corpus: docstrings of the installed packages")
    corpus = build_corpus(folder / "corpus", max_pairs=config.max_pairs, seed=config.seed)
    times["corpus"] = time.monotonic()

    log.info("2/6 prepare: from %d raw pairs to shards", sum(corpus.pairs.values()))
    stages, notes = _stages(tools)
    prepared: dict[str, list[Manifest]] = {}
    for name, raw, chosen in (("pairs", "raw", stages), ("triplets", "raw_triplets", stages[:2])):
        options = PrepareConfig(
            input=str(folder / "corpus" / raw),
            output=str(folder / "shards" / name),
            stages=chosen,
            consistency=CONSISTENCY,
            seed=config.seed,
            overwrite=True,
        )
        prepared[name] = prepare(options, tools)
    manifests = [manifest for found in prepared.values() for manifest in found]
    forget_other_runs(folder, manifests, config)
    times["prepare"] = time.monotonic()

    runs = {name: RunFolder(folder / "runs" / name) for name in prepared}
    for number, (name, run) in enumerate(runs.items()):
        log.info("%d/6 train on %s", 3 + number, name)
        first = name == "pairs"
        training = TrainConfig(
            shards=str(folder / "shards" / name),
            output=str(run.path),
            objective="pairs" if first else "triplets",
            model=MODEL if first else ModelConfig(),
            init=None if first else str(runs["pairs"].path),
            max_length=MAX_LENGTH,
            global_batch_size=_batch_size(256 if first else 64, prepared[name]),
            max_steps=config.pair_steps if first else config.triplet_steps,
            learning_rate=5e-4,
            checkpoint_every=100,
            seed=config.seed,
        )
        if train(training).read_record("status")["status"] != "finished":
            raise Failure(f"{run.path}: training was asked to stop; the same command continues there")
        times[f"train on {name}"] = time.monotonic()

    log.info("5/6 evaluate on held-out objects")
    models = {"untrained": runs["pairs"].start, **{name: run.path for name, run in runs.items()}, "bm25": "bm25"}
    retrieval, negation = f"retrieval:{folder}/corpus/retrieval", f"negation:{folder}/corpus/negation.jsonl"
    output = str(folder / "scores" / "scores.json")
    comparison = evaluate(
        EvaluateConfig(model=list(map(str, models.values())), tasks=[retrieval, negation], output=output)
    )
    results = {}
    for name, model in models.items():
        scores = comparison.scores[str(model)]
        results[name] = {"retrieval_ndcg_at_10": scores[retrieval]["ndcg_at_10"], **scores.get(negation, {})}
    times["evaluate"] = time.monotonic()

    log.info("6/6 export")
    shutil.rmtree(folder / "model", ignore_errors=True)
    export(ExportConfig(run=str(runs["triplets"].path), output=str(folder / "model")))
    times["export"] = time.monotonic()

    write_json(folder / "results.json", results)
    seconds = {name: end - begin for begin, (name, end) in zip(times.values(), list(times.items())[1:], strict=False)}
    write_report(folder / "report.html", comparison, corpus, manifests, runs, notes, seconds)
    print(summary_table(manifests), end="\n\n")
    print(scores_table(results))
    print(*(f"note: {note}\n" for note in notes), sep="", end="")
    print(f"\n{sum(seconds.values()):.0f} s; report: {folder / 'report.html'}, model: {folder / 'model'}")
    return results


def _claim(folder: Path) -> None:
    """The demo replaces what it made before, so it takes only an empty folder or one that it has marked."""
    if folder.exists() and not (folder / MARK).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"output={folder}: there is something that is not a demo; use an empty or a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


def forget_other_runs(folder: Path, manifests: Sequence[Manifest], config: DemoConfig) -> None:
    """Runs on other data or settings than these are begun anew: other packages make another corpus."""
    facts = {
        "data": {manifest.name: manifest.fingerprint for manifest in manifests},
        "config": {name: value for name, value in asdict(config).items() if name != "output"},
        "model": asdict(MODEL),
    }
    mark, made = folder / MARK, json.dumps(facts, sort_keys=True)
    if mark.read_text() != made:
        shutil.rmtree(folder / "runs", ignore_errors=True)
        write_atomic(mark, made)


def _stages(tools: Tools) -> tuple[list[str], list[str]]:
    """(stages, notes): all of them; without the consistency filter, and with a note, where its model is missing."""
    stages: list[str] = ["exact", "near_duplicates", "language", "consistency"]
    try:
        tools.encoder(CONSISTENCY)(CONSISTENCY.encoder)(["a test"])
    except InputError as error:
        return stages[:-1], [f"the consistency filter did not run: {error}"]
    return stages, []


def _batch_size(wanted: int, manifests: Sequence[Manifest]) -> int:
    """`wanted`, or the largest power of two that the largest data set fills; smaller ones have their own."""
    largest = max(manifest.num_samples for manifest in manifests)
    return min(wanted, 1 << (largest.bit_length() - 1))
