"""Command lines and environments that cannot be meant: one message that leads to the right one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trials.fault import Fault, check, refused
from tests.trials.world import EVALUATE, EXPORT, INSPECT, PREPARE, TOKENIZE, TRAIN

SCORE = EVALUATE.format("sts:eval/sts.jsonl")
COMMANDS = {"prepare": PREPARE, "train": TRAIN, "tokenize": TOKENIZE, "evaluate": SCORE, "export": EXPORT, "inspect": INSPECT}  # fmt: skip
"""Good ones."""


def with_recipe(text: str):
    def write(world: Path) -> None:
        (world / "recipes/experiment").mkdir(parents=True)
        (world / "recipes/experiment/mine.yaml").write_text(text)

    return write


RECIPE = f"{TRAIN} --config-dir=recipes experiment=mine"

FAULTS = [
    refused("no such command", "trian", None, "train"),
    *(refused(f"{name}: unknown option", f"{good} sede=1", None, "sede") for name, good in COMMANDS.items()),
    *(refused(f"{name}: a word without a value", f"{good} fast slow", None, "fast") for name, good in COMMANDS.items()),
    *(refused(f"{name}: nothing given", name, None, "=") for name in COMMANDS),
    *(refused(f"{name}: {wrong}", f"{good} {wrong}", None, wrong.partition("=")[0])
      for name, good, wrong in [
        ("train", TRAIN, "max_steps=many"), ("train", TRAIN, "max_steps=0"),
        ("train", TRAIN, "global_batch_size=1"), ("train", TRAIN, "global_batch_size=-8"), ("train", TRAIN, "learning_rate=nan"),
        ("train", TRAIN, "learning_rate=-1"), ("train", TRAIN, "learning_rate=inf"), ("train", TRAIN, "temperature=0"),
        ("train", TRAIN, "model.dropout=1.5"), ("train", TRAIN, "model.num_heads=5"), ("train", TRAIN, "precision=fp8"),
        ("train", TRAIN, "strategy=dpp"), ("train", TRAIN, "device=tpu"), ("train", TRAIN, "workers=-1"),
        ("train", TRAIN, "log_samples=perhaps"), ("train", TRAIN, "matryoshka_widths=[64]"), ("train", TRAIN, "matryoshka_widths=[0]"),
        ("train", TRAIN, "extra_negatives=[all]"), ("train", TRAIN, "trackers=[aim]"),
        ("train", TRAIN, "weights.answers=-1"), ("train", TRAIN, "weights.answers=much"), ("train", TRAIN, "max_length=1"),
        ("train", TRAIN, "mask_margin=9"), ("train", TRAIN, "warmup_steps=-1"), ("train", TRAIN, "seed=-1"), ("train", TRAIN, "model=huge"),
        ("train", TRAIN, "objective=quads"), ("train", TRAIN, "micro_batch_size=0"), ("train", TRAIN, "cache_gb=-1"),
        ("train", TRAIN, "timeout_minutes=0"), ("train", TRAIN, "keep_checkpoints=0"), ("train", TRAIN, "experiment=none"),
        ("prepare", PREPARE, "stages=[exakt]"), ("prepare", PREPARE, "near_duplicates.threshold=2"), ("prepare", PREPARE, "near_duplicates.num_perm=100"),
        ("prepare", PREPARE, "max_unreadable=5"), ("prepare", PREPARE, "shard_samples=0"),
        ("prepare", PREPARE, "workers=-2"), ("prepare", PREPARE, "executor=spark"), ("prepare", PREPARE, "fields.query="),
        ("prepare", PREPARE, "sources.x.limit=0"), ("prepare", PREPARE, "seed=1.5"),
        ("evaluate", SCORE, "widths=[0]"), ("evaluate", SCORE, "bootstrap=-1"), ("evaluate", SCORE, "level=2"), ("evaluate", SCORE, "batch_size=0"),
        ("export", EXPORT, "truncate_dim=0"), ("export", EXPORT, "truncate_dim=64"),
        ("tokenize", TOKENIZE, "max_length=0"), ("inspect", INSPECT, "samples=-1"),
      ]),
    *(refused(f"train: {name} of other trainers", f"{TRAIN} {name}={value}", None, ours)
      for name, value, ours in [
        ("batch_size", 64, "global_batch_size"), ("epochs", 3, "max_"), ("num_epochs", 3, "max_"), ("lr", 1e-3, "learning_rate"),
        ("gradient_accumulation_steps", 4, "micro_batch"), ("loss", "mnrl", "objective"), ("report_to", "wandb", "trackers"),
        ("per_device_train_batch_size", 64, "global_batch_size"), ("bf16", "true", "precision"), ("fp16", "true", "precision"),
        ("scale", 20, "temperature"), ("num_train_epochs", 1, "max_"), ("output_dir", "out", "output"), ("model_name_or_path", "model", "init"),
      ]),
    *(refused(f"{name}: a path of 5000 letters", good.replace(old, old + "x" * 5000, 1), None)
      for name, good, old in [("prepare", PREPARE, "output=out"), ("inspect", INSPECT, "shards"), ("export", EXPORT, "output=out")]),
    refused("a recipe folder that is not there", RECIPE, None, "recipes"),
    refused("a recipe that is not YAML", RECIPE, with_recipe("a: [b"), "mine"),
    refused("a recipe with an unknown option", RECIPE, with_recipe("# @package _global_\nlearning_rat: 1\n"), "learning_rat"),
    refused("a recipe with a wrong value", RECIPE, with_recipe("# @package _global_\nseed: -3\n"), "seed"),
    refused("a recipe that makes objects", RECIPE, with_recipe("# @package _global_\nseed: !!python/object/apply:os.system ['touch ../harmed']\n"), "mine"),
    refused("a value that names another", f"{TRAIN} seed=${{oc.env:HOME}}", None, "seed"),
    refused("evaluate: unknown kind of task", EVALUATE.format("stss:eval/sts.jsonl"), None, "stss"),
    refused("evaluate: no task", EVALUATE.format(""), None, "tasks"),
    refused("evaluate: output a folder", SCORE.replace("out/scores.json", "eval"), None, "eval"),
    refused("prepare: a language by its name", PREPARE.replace("exact", "language") + " language.allowed=[english]", None, "language.allowed"),
    refused("prepare: sources of no file", f"{PREPARE} sources.x.path=raw/none.jsonl", None, "raw/none.jsonl"),
    refused("prepare: an output that is a file", PREPARE.replace("=out", "=eval/sts.jsonl"), None, "eval/sts.jsonl"),
    refused("tokenize: an output that is a file", TOKENIZE.replace("=out", "=raw/pairs.jsonl"), None, "raw/pairs.jsonl"),
    refused("new: a folder with something", "new raw", None, "raw"),
    *(refused(f"RANK={rank} WORLD_SIZE={size}", TRAIN, None, environment={"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"})
      for rank, size in [("x", "2"), ("0", "two"), ("5", "2")]),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_command(fault: Fault, world: Path) -> None:
    check(fault, world)
