"""The demo from top to bottom: corpus -> prepare -> pairs -> triplets -> evaluate -> export -> table and report.

Each part is the same code as its own command, and skips what an earlier, interrupted demo in the same folder has done.
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

from jemb.config import DemoConfig, EvaluateConfig, ExportConfig, ModelConfig, TrainConfig
from jemb.core.errors import Failure
from jemb.core.files import write_json
from jemb.core.folders import check_free
from jemb.demo.corpus import build_corpus
from jemb.evaluate import add_scores, evaluate
from jemb.export import export
from jemb.prepare import Tools, prepare, summary_table
from jemb.prepare.options import PrepareConfig
from jemb.prepare.stages.consistency import ConsistencyConfig
from jemb.report import Report, line_figure, text_table
from jemb.run_folder import RunFolder
from jemb.shards import Manifest
from jemb.train import train

log = logging.getLogger(__name__)

MARK = ".jemb-demo"
STAGES = ["exact", "near_duplicates", "language", "consistency"]
MODEL = ModelConfig(hidden_size=256, num_layers=1, num_heads=4, vocab_size=16_000)


def demo(config: DemoConfig, tools: Tools) -> None:
    """Run the whole journey in `config.output`; prints its table and writes report.html, model/ and results.json:
    {`untrained`, `pairs`, `triplets`, `bm25`: {score: percent}}.

    tools: the models that `prepare` takes.
    Raises InputError when the folder holds something else, or a demo with other settings.
    """
    folder, begin = Path(config.output), time.monotonic()
    # It replaces what it made before, so it takes only an empty folder or one that it has marked.
    if not (folder / MARK).exists():
        check_free(folder, f"output={folder}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    log.info("1/6 corpus: docstrings of the installed packages")
    corpus = build_corpus(folder / "corpus", max_pairs=config.max_pairs, seed=config.seed)

    log.info("2/6 prepare: from %s to shards", ", ".join(f"{rows} rows of {name}" for name, rows in corpus.items()))
    prepared: dict[str, list[Manifest]] = {}
    for name, raw, stages in (("pairs", "raw", STAGES), ("triplets", "raw_triplets", STAGES[:2])):
        options = PrepareConfig(
            input=str(folder / "corpus" / raw),
            output=str(folder / "shards" / name),
            stages=stages,
            consistency=ConsistencyConfig(max_length=64),
            seed=config.seed,
            overwrite=True,
        )
        prepared[name] = prepare(options, tools)

    runs = {name: RunFolder(folder / "runs" / name) for name in prepared}
    for number, (name, run) in enumerate(runs.items()):
        log.info("%d/6 train on %s", 3 + number, name)
        first = name == "pairs"
        # The largest power of two that the largest data set fills; smaller ones have batches of their own.
        largest = max(manifest.num_samples for manifest in prepared[name])
        training = TrainConfig(
            shards=str(folder / "shards" / name),
            output=str(run.path),
            objective="pairs" if first else "triplets",
            model=MODEL if first else ModelConfig(),
            init=None if first else str(runs["pairs"].path),
            max_length=96,
            global_batch_size=min(256 if first else 64, 1 << (largest.bit_length() - 1)),
            max_steps=config.pair_steps if first else config.triplet_steps,
            learning_rate=5e-4,
            checkpoint_every=100,
            seed=config.seed,
        )
        if train(training).read_record("status")["status"] != "finished":
            raise Failure(f"{run.path}: training was asked to stop; the same command continues there")

    log.info("5/6 evaluate on held-out objects")
    models = {
        "untrained": str(runs["pairs"].start),
        **{f"after {name}": str(run.path) for name, run in runs.items()},
        "BM25": "bm25",
    }
    retrieval, negation = f"retrieval:{folder}/corpus/retrieval", f"negation:{folder}/corpus/negation.jsonl"
    output = str(folder / "scores" / "scores.json")
    comparison = evaluate(EvaluateConfig(model=list(models.values()), tasks=[retrieval, negation], output=output))
    columns = [(retrieval, "ndcg_at_10"), (negation, "easy_negation"), (negation, "hard_negation")]
    names = ["retrieval_ndcg_at_10", "easy_negation", "hard_negation"]
    results = {
        key: {
            name: cell.value
            for name, (task, metric) in zip(names, columns, strict=True)
            if (cell := comparison.cell(model, task, metric))
        }
        for key, model in zip(("untrained", *runs, "bm25"), models.values(), strict=True)
    }
    write_json(folder / "results.json", results)
    table = [["percent", "retrieval nDCG@10", "EasyNegation", "HardNegation"]]
    for name, model in models.items():
        cells = [comparison.cell(model, task, metric) for task, metric in columns]
        table.append([name, *(f"{cell.value:.1f}" if cell else "–" for cell in cells)])

    log.info("6/6 export")
    shutil.rmtree(folder / "model", ignore_errors=True)
    export(ExportConfig(run=str(runs["triplets"].path), output=str(folder / "model")))

    report = Report("jemb demo", "From the docstrings of the installed Python packages to an exported embedding model")
    add_scores(report, comparison)
    report.heading("Training")
    for name, run in runs.items():
        lines: dict[str, list[tuple[float, float]]] = {}
        for step in run.read_metrics():
            lines.setdefault(step["dataset"], []).append((step["step"], step["loss"]))
        alt = f"Loss of the {name} phase"
        report.figure(line_figure(dict(sorted(lines.items())), "step", "loss"), alt, f"{alt} by data set.")
    report.write(folder / "report.html")
    print(summary_table([manifest for manifests in prepared.values() for manifest in manifests]), end="\n\n")
    print(text_table(table, right=True))
    print(f"\n{time.monotonic() - begin:.0f} s; report: {folder / 'report.html'}, model: {folder / 'model'}")
