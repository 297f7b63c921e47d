"""The commands as functions: configs alone, rows in memory, and a package that loads nothing before it is used."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import lightning
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from lightning.pytorch.loggers import CSVLogger

import jemb
from jemb.shards import open_datasets

ROWS = [
    {"query": f"query {n} ä", "positive": f"the answer to {n}", "negatives": [f"wrong {n}", f"off {n}"], "source": n}
    for n in range(40)
]
MODEL = jemb.ModelConfig(hidden_size=32, num_layers=1, vocab_size=400)


def from_numpy() -> Iterator[dict[str, Any]]:
    for row in ROWS:
        yield {**row, "negatives": np.array(row["negatives"]), "source": np.int64(row["source"])}


KINDS: dict[str, Callable[[], Any]] = {
    "dictionaries": lambda: ROWS,
    "generator": from_numpy,
    "datasets": lambda: datasets.Dataset.from_list(ROWS),
    "pandas": lambda: pd.DataFrame(ROWS, index=range(3, 43)),
    "arrow": lambda: pa.Table.from_pylist(ROWS),
    "batches": lambda: pa.RecordBatchReader.from_batches(
        pa.Table.from_pylist(ROWS).schema, pa.Table.from_pylist(ROWS).to_batches(7)
    ),
}


def test_import_loads_nothing() -> None:
    check = "import jemb, sys; dir(jemb); print([m for m in ('torch', 'pydantic', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_public_names() -> None:
    for name in dir(jemb):
        assert getattr(jemb, name) is not None
    assert isinstance(jemb.train, ModuleType), "the package and the command"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        jemb.trian  # noqa: B018


@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_memory_are_prepared_as_those_of_a_file(kind: str, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options: dict[str, Any] = {"stages": ["exact"], "workers": 1}
    (file,) = jemb.prepare(jemb.PrepareConfig(input=tmp_path / "data.jsonl", output=tmp_path / "file", **options))
    (memory,) = jemb.prepare(jemb.PrepareConfig(output=tmp_path / "memory", **options), KINDS[kind]())
    assert memory.kind == "triplets"
    assert memory.fingerprint == file.fingerprint
    left = {path.name for path in (tmp_path / "memory").iterdir()}
    assert left == {"data", "report.html", ".lock"}


def test_data_sets_by_name_with_options_of_their_own(tmp_path: Path) -> None:
    renamed = [{"title": row["query"], "positive": row["positive"]} for row in ROWS]
    config = jemb.PrepareConfig(
        output=tmp_path / "shards",
        stages=[],
        workers=1,
        sources={"b": {"fields": {"query": "title"}, "license": "mit"}},
    )
    jemb.prepare(config, {"a": ROWS, "b": renamed})
    readers = open_datasets(tmp_path / "shards")
    assert {name: len(reader) for name, reader in readers.items()} == {"a": 40, "b": 40}
    assert readers["b"].manifest.source["license"] == "mit"
    manifests = jemb.prepare(config, {"a": ROWS, "b": renamed})
    assert [manifest.name for manifest in manifests] == ["a", "b"], "finished ones are found again"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["a", "b"], "data set data, row 0: is a str; wanted a dictionary"),
        ({"query": ["a"], "positive": ["b"]}, "data set query, row 0: is a str"),
        (3, "data set data: got int; wanted rows"),
        ("rows.jsonl", "data set data: got str; wanted rows"),
        ({"../x": ROWS}, r"\.\./x"),
        ({"org/name": ROWS}, "data set .org/name.: its name becomes that of a folder"),
        ([{"query": "a"}], "positive"),
    ],
)
def test_what_is_no_data(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(jemb.InputError, match=message):
        jemb.prepare(jemb.PrepareConfig(output=tmp_path / "out", stages=[], workers=1), data)


class StopAt(lightning.Callback):
    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.facts.step == 4:
            trainer.should_stop = True


def test_callbacks_and_loggers_of_the_caller(tmp_path: Path) -> None:
    """They are used: the losses of the log are in the logger's table, and the callback's stop is a checkpoint."""
    config = jemb.TrainConfig(
        shards=tmp_path / "shards", output=tmp_path / "run", model=MODEL, max_steps=6, global_batch_size=8, workers=0,
        device="cpu", trackers=[],
    )  # fmt: skip
    run = jemb.train(config, ROWS, callbacks=[StopAt()], loggers=[CSVLogger(tmp_path / "csv", version=0)])
    assert run.status() == "stopped"
    assert [step for step, _ in run.checkpoints()] == [4]
    with (tmp_path / "csv" / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        found = [float(line["loss"]) for line in csv.DictReader(file)]
    assert found == pytest.approx([line["loss"] for line in run.read_metrics()], rel=1e-6)
    assert len(found) == 4
    assert jemb.train(config).status() == "finished"


def test_from_rows_to_a_model(tmp_path: Path) -> None:
    """The whole way in Python: each command takes its config alone, and evaluation in the loop has what it needs."""
    sts = tmp_path / "sts.jsonl"
    rows = [{"sentence1": row["query"], "sentence2": row["positive"], "score": row["source"] % 5} for row in ROWS]
    sts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = jemb.TrainConfig(
        shards=tmp_path / "shards", output=tmp_path / "run", model=MODEL, max_steps=2, global_batch_size=8, workers=0,
        device="cpu", evaluation={"tasks": [f"sts:{sts}"]}, trackers=[],
    )  # fmt: skip
    run = jemb.train(config, ROWS)
    assert [line["step"] for line in run.read_metrics()] == [1, 2]
    said = jemb.tokenize(
        jemb.TokenizeConfig(shards=config.shards, model=config.output, output=tmp_path / "tokens", workers=1)
    )
    assert "tokens of 40 samples" in said
    scores = jemb.evaluate(
        jemb.EvaluateConfig(model=[run.path], tasks=[f"sts:{sts}"], output=tmp_path / "scores.json", device="cpu")
    )
    assert scores is not None
    folder = jemb.export(jemb.ExportConfig(run=run.path, output=tmp_path / "model"))
    assert jemb.encode(jemb.load_encoder(str(folder)), ["query"]).shape == (1, 32)
    with pytest.raises(jemb.InputError, match="other options"):
        jemb.train(jemb.TrainConfig(**{**vars(config), "seed": 3}))
