"""Small encoders, and run folders as `jemb train` leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel

from jemb.config import ExportConfig, ModelConfig
from jemb.export import export
from jemb.model import Encoder, make_tiny
from jemb.model.tiny import encoder_of
from jemb.run_folder import OPTIMIZER, POSITION, WEIGHTS, RunFolder, describe_file

TEXTS = ["how to read a file", "Open file and return a stream.", "", "Ünïcode ∑ 図書館 🙂", "long " * 100]
SETTINGS = "objective: pairs\nmodel:\n  path: null\n  dropout: 0.0\n"
RECORD = {
    "jemb": "0.1.0",
    "versions": {"torch": "2.9.1"},
    "git_commit": "0123abc",
    "objective": "pairs",
    "plan_fingerprint": "f" * 64,
    "datasets": {
        "python|docs": {
            "num_samples": 12345,
            "kind": "pairs",
            "weight": 2.5,
            "fingerprint": "9" * 64,
            "stages": [{"name": "exact", "kept": 12345, "dropped": {"duplicate": 30, "empty": 12}}],
        }
    },
    "starts": [{"step": 0, "world_size": 4, "strategy": "ddp", "precision": "bf16", "device": "cuda", "time": 1.0}],
    "steps": 7,
}


def bert(seed: int = 0, pooling: str = "mean") -> Encoder:
    config = ModelConfig(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2, pooling=pooling)  # type: ignore[arg-type]
    return make_tiny(TEXTS, config, seed=seed, max_length=20)


def t5() -> Encoder:
    tokenizer = bert().tokenizer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        return encoder_of(T5EncoderModel(config), tokenizer, max_length=20)


def make_run(folder: Path, *, status: str = "finished", model: Encoder | None = None, **record: object) -> RunFolder:
    """A run folder; `record` goes into run.json."""
    run = RunFolder(folder)
    bert(seed=1).save(run.start)
    run.config.write_text(SETTINGS)
    run.record.write_text(json.dumps({**RECORD, "status": status, **record}))
    if model is not None:
        model.save(run.model)
    return run


def add_checkpoint(run: RunFolder, step: int, encoder: Encoder) -> Path:
    folder = run.checkpoint_folder / f"step-{step:08d}"
    folder.mkdir(parents=True)
    save_file(encoder.state_dict(), folder / WEIGHTS)
    save_file({}, folder / OPTIMIZER)
    files = {name: describe_file(folder / name) for name in (WEIGHTS, OPTIMIZER)}
    (folder / POSITION).write_text(json.dumps({"step": step, "plan": "f" * 64, "files": files}))
    return folder


def run_export(run: RunFolder, output: Path, **options: object) -> Path:
    return export(ExportConfig(run=str(run.path), output=str(output), **options))  # type: ignore[arg-type]
