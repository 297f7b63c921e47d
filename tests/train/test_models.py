"""Models of other kinds, trained by the command: adapters under every strategy, heads, decoders, static embeddings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from benchmarks import zoo
from jemb.app.cli import run_command
from jemb.model import encode, load_encoder
from jemb.run_folder import RunFolder
from jemb.train.strategies.choice import FSDP_ON_CPU
from tests.helpers.training_runs import Training

TEXTS = ["a dog", "the end of it"]
OPTIONS = [
    "global_batch_size=16",
    "workers=0",
    "trackers=[]",
    "schedule=constant",
    "warmup_steps=1",
    "learning_rate=0.01",
]
STRATEGIES = ["ddp", "deepspeed_1", "deepspeed_2", "deepspeed_3", *(["fsdp"] if FSDP_ON_CPU else [])]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, pair_shards: Path) -> tuple[list[str], RunFolder]:
    """(options, run) of 4 undisturbed steps of LoRA in one process."""
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("lora")
    base = zoo.plain(folder / "base", "Qwen3")
    options = [*OPTIONS, f"shards={pair_shards}", f"model.path={base}", "model.lora.rank=4", "micro_batch_size=5"]
    assert run_command("train", [*options, f"output={folder / 'run'}", "max_steps=4"]) == 0
    return options, RunFolder(folder / "run")


def losses(run: RunFolder) -> list[float]:
    return [line["loss"] for line in run.read_metrics()]


def test_only_adapters_are_kept_and_the_model_has_them(adapted: tuple[list[str], RunFolder]) -> None:
    _, run = adapted
    (checkpoint,) = [folder for step, folder in run.checkpoints() if step == 4]
    assert all("lora_" in name for name in load_file(checkpoint / "weights.safetensors"))
    assert all("lora_" in name for name in load_file(checkpoint / "optimizer.safetensors"))
    assert not [path for path in run.model.iterdir() if "adapter" in path.name]
    start, model = load_encoder(str(run.start)), load_encoder(str(run.model))
    assert np.abs(encode(start, TEXTS) - encode(model, TEXTS)).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_adapters_under_every_strategy_and_on_from_another(
    strategy: str, adapted: tuple[list[str], RunFolder], start: Callable[..., Training], tmp_path: Path
) -> None:
    options, undisturbed = adapted
    run = start(tmp_path / "run", [*options, f"strategy={strategy}", "max_steps=2"], 2).succeed()
    assert run_command("train", [*options, f"output={run.path}", "strategy=single", "max_steps=4"]) == 0
    np.testing.assert_allclose(losses(run), losses(undisturbed), rtol=1e-4)


def test_the_adapter_alone_is_exported(adapted: tuple[list[str], RunFolder], tmp_path: Path) -> None:
    _, run = adapted
    assert run_command("export", [f"run={run.path}", f"output={tmp_path / 'adapter'}", "adapter=true"]) == 0
    vectors = SentenceTransformer(str(tmp_path / "adapter"), device="cpu").encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(vectors, encode(load_encoder(str(run.model)), TEXTS), atol=1e-5)


def test_what_an_adapter_belongs_to(
    adapted: tuple[list[str], RunFolder], pair_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, first = adapted
    exported = tmp_path / "first"
    assert run_command("export", [f"run={first.path}", f"output={exported}", "adapter=true"]) == 0
    options = [*OPTIONS, f"shards={pair_shards}", "model.lora.rank=4", "max_steps=1"]
    tiny = ["model.hidden_size=32", "model.num_layers=1", "model.vocab_size=300"]
    refusals = {f"model.path={exported}": "has an adapter itself", "model.dropout=0": "was made on the spot"}
    for given, refusal in refusals.items():
        run, output = tmp_path / f"run {refusal}", tmp_path / f"second {refusal}"
        assert run_command("train", [*options, *tiny, given, f"output={run}"]) == 0
        assert run_command("export", [f"run={run}", f"output={output}", "adapter=true"]) == 2
        assert refusal in capsys.readouterr().err
        assert run_command("export", [f"run={run}", f"output={output}"]) == 0
    assert run_command("train", [*options, f"init={first.path}", f"output={tmp_path / 'on'}"]) == 0
    assert run_command("export", [f"run={tmp_path / 'on'}", f"output={tmp_path / 'third'}", "adapter=true"]) == 0


MODELS: dict[str, Callable[[Path], Path]] = {
    "Dense head": lambda folder: zoo.with_head(folder / "m", zoo.plain(folder / "b", "BERT"), "cls, Dense (tanh)"),
    "prompt left out": lambda folder: zoo.with_head(
        folder / "m", zoo.plain(folder / "b", "BERT"), "mean, prompt left out", prompts={"query": "search for: "}
    ),
    "decoder": lambda folder: zoo.plain(folder / "m", "Llama"),
    "unused parameters": lambda folder: zoo.plain(folder / "m", "Longformer"),
    "static": lambda folder: zoo.static(folder / "m"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(MODELS))
def test_other_models_train_on_texts_and_tokens_resume_and_export(kind: str, pair_shards: Path, tmp_path: Path) -> None:
    model = MODELS[kind](tmp_path)
    options = [*OPTIONS, f"shards={pair_shards}", f"model.path={model}"]
    tokens = [f"shards={pair_shards}", f"model={model}", f"output={tmp_path / 'tokens'}", "workers=1"]
    assert run_command("tokenize", tokens) == 0
    runs = {name: RunFolder(tmp_path / name) for name in ("texts", "tokens_run")}
    assert run_command("train", [*options, f"output={runs['texts'].path}", "max_steps=4"]) == 0
    for steps in (2, 4):
        more = [f"tokens={tmp_path / 'tokens'}", f"output={runs['tokens_run'].path}", f"max_steps={steps}"]
        assert run_command("train", [*options, *more]) == 0
    assert losses(runs["texts"]) == losses(runs["tokens_run"])
    assert run_command("export", [f"run={runs['texts'].path}", f"output={tmp_path / 'out'}"]) == 0
    expected = encode(load_encoder(str(runs["texts"].model)), TEXTS)
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS, prompt="", show_progress_bar=False)
    np.testing.assert_allclose(theirs, expected, atol=1e-5)
    assert np.abs(expected - encode(load_encoder(str(model)), TEXTS)).max() > 1e-3


def test_prompts_of_single_data_sets(pair_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["prompts.query=q: ", "prompts.datasets.answers.query=ask: ", "prompts.datasets.answers.document=answer: "]
    model = zoo.plain(tmp_path / "m", "BERT")
    options = [*OPTIONS, f"shards={pair_shards}", f"model.path={model}", "max_steps=6"]
    tokens = [f"shards={pair_shards}", f"model={model}", f"output={tmp_path / 'tokens'}", "workers=1"]
    assert run_command("tokenize", [*tokens, *own]) == 0
    runs = {name: RunFolder(tmp_path / name) for name in ("none", "texts", "from_tokens")}
    assert run_command("train", [*options, f"output={runs['none'].path}"]) == 0
    assert run_command("train", [*options, *own, f"output={runs['texts'].path}"]) == 0
    stored = [f"tokens={tmp_path / 'tokens'}", f"output={runs['from_tokens'].path}"]
    assert run_command("train", [*options, *own, *stored]) == 0
    assert losses(runs["texts"]) == losses(runs["from_tokens"]) != losses(runs["none"])
    encoder = load_encoder(str(runs["texts"].model))
    assert encoder.prompt("query") == encoder.prompt("query", "titles") == "q: "
    assert (encoder.prompt("query", "answers"), encoder.prompt("document", "answers")) == ("ask: ", "answer: ")
    assert run_command("train", [*options, "prompts.datasets.nosuch.query=x", f"output={tmp_path / 'no'}"]) == 2
    assert "prompts.datasets.nosuch: no such data set; there are: " in capsys.readouterr().err
