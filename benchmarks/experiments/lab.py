"""Where the experiments run: prepare, train and score with jemb's commands, each done once, everything noted.

OUTPUT/commands.jsonl has a line for each finished command with its seconds, OUTPUT/results.jsonl one for each scored
model. Both are read at the start, so the same call goes on where an earlier one was stopped or killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiments.material import SHARED, Material, Row
from jemb.app.cli import main
from jemb.core.files import read_json
from jemb.core.folders import whole_folder
from jemb.run_folder import RunFolder
from jemb.shards import open_datasets

METRICS = {
    "sts": {"spearman": ""},
    "retrieval": {"ndcg_at_10": "", "recall_at_10": " recall", "mrr_at_10": " MRR"},
    "negation": {"easy_negation": " easy", "hard_negation": " hard"},
}
"""What is kept of each kind of task, and what its name gets added."""
VOCABULARY_ROWS = 3000
MAX_LENGTH = 32
"""Tokens of a text, in the recipe small_pairs and in its scores."""


class Lab:
    """folder: for everything that is made. overrides: options of `jemb train` after all others."""

    def __init__(self, folder: Path, material: Material, overrides: Sequence[str] = ()) -> None:
        self.folder = folder
        self.material = material
        self.overrides = list(overrides)
        folder.mkdir(parents=True, exist_ok=True)
        self.done = {tuple(line["command"]) for line in read_lines(folder / "commands.jsonl")}
        self.results = read_lines(folder / "results.jsonl")

    def raw(self, name: str, make: Callable[[], Mapping[str, Iterable[Row]]]) -> Path:
        """The folder raw/NAME with a file for each data set that `make` gives."""
        folder = self.folder / "raw" / name
        if not folder.exists():
            with whole_folder(folder) as new:
                for dataset, rows in make().items():
                    with (new / f"{dataset}.jsonl").open("w", encoding="utf-8") as file:
                        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return folder

    def prepare(self, name: str, source: Path, stages: Sequence[str], *options: str) -> Path:
        """`jemb prepare`, with all evaluation texts kept out whatever the stages."""
        output = self.folder / "shards" / name
        stages = [*stages, "decontaminate"]
        against = [str(self.material.folder / place) for place in self._evaluated()]
        self.jemb(
            "prepare", f"input={source}", f"output={output}", f"stages=[{','.join(stages)}]",
            f"decontaminate.against=[{','.join(against)}]", "workers=1", *options,
        )  # fmt: skip
        return output

    def _evaluated(self) -> list[str]:
        places = ["sts/stsb_en_dev*", "sts/sick_dev*", "retrieval/*/", "retrieval/quora/dev/", "negation/*_dev*"]
        places += ["triplets_dev/*", "triplets/sick*", "negation/docstrings*"]
        found = [path for place in places for path in sorted(self.material.folder.glob(place))]
        return [str(path.relative_to(self.material.folder)) for path in found if path.name != "quora"]

    def start_model(self, seed: int) -> Path:
        """The untrained model that all arms of a seed share: `model=tiny` with one vocabulary, of clean pairs."""
        from jemb.config import ModelConfig
        from jemb.model.tiny import make_tiny

        folder = self.folder / "models" / f"start-{seed}"
        if not folder.exists():
            rows = [row for name in self.material.names("pairs/*") for row in self.material.rows(name, VOCABULARY_ROWS)]
            texts = [row[side] for row in rows for side in ("query", "positive")]
            with whole_folder(folder) as new:
                make_tiny(texts, ModelConfig(), seed=seed, max_length=MAX_LENGTH).save(new)
        return folder

    def train(
        self, experiment: str, arm: str, seed: int, shards: Path, *options: str, processes: int = 1, local: bool = False
    ) -> Path:
        """`jemb train` by the recipe small_pairs from the seed's start model, unless the options say otherwise."""
        run = self.folder / "runs" / experiment / arm / f"seed-{seed}"
        given = {"experiment": "small_pairs", "init": str(self.start_model(seed))}
        given |= dict(option.split("=", 1) for option in [*options, *self.overrides])
        fixed = [f"shards={shards}", f"output={run}", f"seed={seed}", "workers=0", "trackers=[]"]
        self.jemb(
            "train", *(f"{key}={value}" for key, value in given.items()), *fixed, processes=processes, local=local
        )
        return run

    def jemb(self, command: str, *options: str, processes: int = 1, local: bool = False) -> None:
        """One command of jemb, unless it was done before. local: each process with negatives of its own."""
        module = "benchmarks.experiments.local_negatives" if local else f"jemb.app.{command}"
        many = ["torchrun", str(processes), module] if processes > 1 or local else []
        line = (*many, command, *options)
        if line in self.done:
            return
        print("jemb", *line, flush=True)
        began = time.monotonic()
        if many:
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            torchrun += ["--nproc-per-node", str(processes), "-m", module, *options]
            code = subprocess.run(torchrun, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
        else:
            code = main([command, *options])
        if code:
            raise SystemExit(f"jemb {' '.join(line)}: exit code {code}")
        given = dict(option.split("=", 1) for option in options)
        if command == "train" and not (Path(given["output"]) / "model").exists():
            raise SystemExit(f"{given['output']}: was asked to stop; the same command goes on with it")
        self.done.add(line)
        append_line(self.folder / "commands.jsonl", {"command": line, "seconds": round(time.monotonic() - began, 1)})

    def scored(self, experiment: str, arm: str, seed: int | None) -> bool:
        """Whether that is in the results; with any seed for None."""
        found = [r["seed"] for r in self.results if (r["experiment"], r["arm"]) == (experiment, arm)]
        return bool(found) if seed is None else seed in found

    def score(
        self,
        experiment: str,
        arm: str,
        seed: int,
        model: Path,
        tasks: Sequence[str] = SHARED,
        max_length: int = MAX_LENGTH,
    ) -> None:
        """`jemb evaluate`, and a line in results.jsonl."""
        if self.scored(experiment, arm, seed):
            return
        output = self.folder / "scores" / experiment / f"{arm}-{seed}.json"
        found = self.material.tasks(tasks)
        options = [f"tasks=[{','.join(found.values())}]", f"max_length={max_length}"]
        self.jemb("evaluate", f"model={model}", *options, f"output={output}")
        scores = read_json(output)
        line: dict[str, Any] = {"experiment": experiment, "arm": arm, "seed": seed, "scores": {}}
        for name, task in found.items():
            for metric, suffix in METRICS[task.partition(":")[0]].items():
                line["scores"][name + suffix] = round(scores[task][metric], 3)
        if (model / "metrics.jsonl").exists():
            steps = RunFolder(model).read_metrics()
            line["steps"] = len(steps)
            counts = [step["negatives_per_query"] for step in steps]
            if None not in counts:  # of a loss without negatives
                line["negatives_per_query"] = round(sum(counts) / len(counts), 1)
        self.note(line)

    def note(self, line: dict[str, Any]) -> None:
        """A line of results.jsonl."""
        self.results.append(line)
        append_line(self.folder / "results.jsonl", line)


def sizes(shards: Path) -> dict[str, int]:
    """Samples of each data set."""
    return {name: len(reader) for name, reader in open_datasets(shards).items()}


def rows_of(shards: Path) -> dict[str, list[Row]]:
    """What a user of another tool would be given: the pairs of each data set as plain rows."""
    return {
        name: [{"query": sample.query, "positive": sample.positive} for sample in reader]
        for name, reader in open_datasets(shards).items()
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")
