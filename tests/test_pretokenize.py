"""`jemb tokenize`: the batches from its token ids are those from the texts, to the bit, and wrong ones are refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import jemb.pretokenize as module
from jemb.app.cli import main
from jemb.config import TokenizeConfig
from jemb.core.errors import InputError
from jemb.core.records import Batch, Sample, Tokens
from jemb.data import BatchPlan, Collate, PlanSource
from jemb.data.small import by_source
from jemb.model import Encoder, find_folder, load_encoder
from jemb.pretokenize import pretokenize
from jemb.shards import ShardReader, TokenReader, open_datasets, write_dataset
from jemb.shards.tokens import ARRAYS, open_tokens, start_tokens
from tests.helpers.step_batches import Steps

AUXILIARY = str(find_folder("all-MiniLM-L6-v2"))


@pytest.fixture
def mixed_shards(tmp_path: Path) -> Path:
    """2 to 5 negatives a sample, in 7 shards; an empty text, long ones, and letters beyond ASCII."""
    samples = []
    for n in range(64):
        negatives = tuple(f"no {n} {k} " + "überlang " * (n % 5) * 4 for k in range(2 + n % 4))
        samples.append(Sample(f"m{n}", f"frage {n}" if n else " ", f"antwort {n} " + "word " * n, negatives))
    write_dataset(tmp_path / "shards" / "mixed", "mixed", samples, 10)
    return tmp_path / "shards"


def batches(
    shards: Path, encoder: Encoder, tokens: Path | None, negatives: int, ranks: int, size: int = 12
) -> list[Batch]:
    readers = open_datasets(shards)
    sources = [PlanSource(name, len(reader), reader.manifest.fingerprint) for name, reader in readers.items()]
    plan = BatchPlan(sources, seed=1, global_batch_size=size, small_datasets="join")
    collate = Collate(
        encoder.tokenize,
        negatives,
        seed=1,
        query_prompt=encoder.prompt("query"),
        passage_prompt=encoder.prompt("document"),
        pad_id=encoder.tokenize.pad_id,
    )
    stored = open_tokens(str(tokens), readers, encoder) if tokens else {}
    readers = by_source(plan.sources, readers, ShardReader.joined)
    stored = by_source(plan.sources, stored, TokenReader.joined)
    found: list[Batch] = []
    for rank in range(ranks):
        data = Steps(plan, readers, collate, rank=rank, world_size=ranks, global_keys=rank == 0, tokens=stored or None)
        for step in range(12):
            batch = data[step]
            if not isinstance(batch, Batch):
                raise batch
            found.append(batch)
    return found


def assert_equal(one: Batch, other: Batch) -> None:
    assert (one.step, one.dataset, one.keys) == (other.step, other.dataset, other.keys)
    for name in ("share_sum", "batch_sum", "negatives_short"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("query", "positive", "negatives", "query_hash", "positive_hash", "negative_hash"):
        mine, wanted = getattr(one, name), getattr(other, name)
        if isinstance(wanted, Tokens):
            assert torch.equal(mine.input_ids, wanted.input_ids)
            assert mine.lengths.tolist() == wanted.lengths.tolist()
            assert mine.input_ids.dtype == wanted.input_ids.dtype
        else:
            assert mine is wanted is None or torch.equal(mine, wanted)


@pytest.mark.parametrize(("negatives", "ranks"), [(0, 1), (2, 3), (1, 1)])
@pytest.mark.parametrize("model", ["minilm", "t5"])
def test_batches_are_those_of_the_texts(
    mixed_shards: Path, t5_folder: Path, tmp_path: Path, model: str, negatives: int, ranks: int
) -> None:
    name = AUXILIARY if model == "minilm" else str(t5_folder)
    arguments = [f"shards={mixed_shards}", f"model={name}", f"output={tmp_path}/tokens", "max_length=32"]
    assert main(["tokenize", *arguments, "prompts.query=ask: ", "workers=1"]) == 0
    encoder = load_encoder(name, max_length=32)
    encoder.prompts["query"] = "ask: "
    from_ids = batches(mixed_shards, encoder, tmp_path / "tokens", negatives, ranks)
    for one, other in zip(from_ids, batches(mixed_shards, encoder, None, negatives, ranks), strict=True):
        assert_equal(one, other)
    assert any(batch.query.input_ids.shape[1] < 32 for batch in from_ids)
    assert any(batch.positive.input_ids.shape[1] == 32 for batch in from_ids)


@pytest.mark.slow
def test_joined_data_sets(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    """Two small ones as one: the rows of both, each once, with the name before their keys; also from stored tokens."""
    for name, size in (("b", 33), ("a", 19)):
        make_dataset(tmp_path / "shards", name, size, negatives=3)
    pretokenize(
        TokenizeConfig(shards=str(tmp_path / "shards"), model=AUXILIARY, output=str(tmp_path / "tokens"), max_length=16)
    )
    encoder = load_encoder(AUXILIARY, max_length=16)
    found = batches(tmp_path / "shards", encoder, None, 2, 2, size=64)
    for one, other in zip(
        found, batches(tmp_path / "shards", encoder, tmp_path / "tokens", 2, 2, size=64), strict=True
    ):
        assert_equal(one, other)
    assert {(batch.dataset, len(batch.query_hash)) for batch in found} == {("joined-pairs", 16)}
    keys = [key for batch in found[:12] for key in batch.keys]  # of rank 0, which has those of all
    assert sorted(keys[:52]) == sorted([f"a/a-{i}" for i in range(19)] + [f"b/b-{i}" for i in range(33)])


def test_a_large_vocabulary_and_a_sample_with_too_few(
    mixed_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Encoder, "embeddings", property(lambda self: range(200_000)))
    encoder = load_encoder(AUXILIARY, max_length=16)
    flat = encoder.tokenize.flat
    encoder.tokenize.flat = lambda texts: (flat(texts)[0] + 70_000, flat(texts)[1])  # type: ignore[method-assign]
    (reader,) = open_datasets(mixed_shards).values()
    (tmp_path / "tokens" / "mixed").mkdir(parents=True)
    recipe = module.recipe_of(reader.manifest, encoder)
    for number in range(7):
        stop = min(64, 10 * number + 10)
        task = module._Task(reader, number, 10 * number, stop, encoder.tokenize, recipe, tmp_path / "tokens" / "mixed")
        module._write(task)
    start_tokens(tmp_path / "tokens" / "mixed", recipe)
    assert np.load(tmp_path / "tokens" / "mixed" / "000000.ids.npy").dtype == np.uint32
    wanted = batches(mixed_shards, encoder, None, 2, 1)
    for one, other in zip(batches(mixed_shards, encoder, tmp_path / "tokens", 2, 1), wanted, strict=True):
        assert_equal(one, other)
    short = batches(mixed_shards, encoder, tmp_path / "tokens", 5, 1)
    for one, other in zip(short, batches(mixed_shards, encoder, None, 5, 1), strict=True):
        assert_equal(one, other)
    assert all(0 < batch.negatives_short <= 12 for batch in short)


def test_any_number_of_shards(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    """Arrays hold no file descriptor while they are mapped; a shard may be empty."""
    shards = make_dataset(tmp_path, "many", 300, shard_samples=2)
    pretokenize(TokenizeConfig(shards=str(shards), model=AUXILIARY, output=str(tmp_path / "tokens"), workers=1))
    (reader,) = open_datasets(shards).values()
    tokens = open_tokens(str(tmp_path / "tokens"), {"many": reader}, load_encoder(AUXILIARY))["many"]
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert (tokens.count(np.arange(len(reader))) == 2).all()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    encoder, recipe = load_encoder(AUXILIARY), module.recipe_of(reader.manifest, load_encoder(AUXILIARY))
    (tmp_path / "empty").mkdir()
    module._write(module._Task(reader, 0, 0, 0, encoder.tokenize, recipe, tmp_path / "empty"))
    assert np.load(tmp_path / "empty" / "000000.starts.npy").tolist() == [0]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_started_again(tmp_path: Path, make_dataset: Callable[..., Path], signum: int) -> None:
    """What was done is kept; the end is that of an undisturbed start; processes and their number change nothing."""
    shards = make_dataset(tmp_path, "many", 4000, shard_samples=100)
    options = {"shards": str(shards), "model": AUXILIARY}
    pretokenize(TokenizeConfig(**options, output=str(tmp_path / "whole"), workers=1))
    again = TokenizeConfig(**options, output=str(tmp_path / "killed"), workers=1)
    killed = tmp_path / "killed" / "many"
    command = [sys.executable, "-m", "jemb.app.cli", "tokenize", *(f"{k}={v}" for k, v in options.items())]
    process = subprocess.Popen(
        [*command, f"output={killed.parent}", "workers=2"],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs inherit "ignored"
    )
    deadline = time.monotonic() + 120
    while len(list(killed.glob("*.hashes.npy"))) < 5:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)  # else it might have finished before the signal that ends it
    with pytest.raises(InputError, match=f"{killed.parent}: another jemb tokenize is at work there"):
        pretokenize(again)
    process.send_signal(signum)
    process.send_signal(signal.SIGCONT)
    code = process.wait(60)
    assert code == (130 if signum == signal.SIGINT else -signal.SIGKILL)
    time.sleep(1)  # workers end when their parent is gone
    kept = {path.name: path.stat().st_mtime_ns for path in killed.glob("*.npy")}
    with pytest.raises(InputError, match=f"{killed}: not finished; run the same `jemb tokenize` command again"):
        open_tokens(str(killed.parent), open_datasets(shards), load_encoder(AUXILIARY))
    pretokenize(again)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    whole = {name for name in kept if all(f"{name[:6]}.{array}.npy" in kept for array in ARRAYS)}
    assert len(whole) >= 5 * len(ARRAYS)
    assert all((killed / name).stat().st_mtime_ns == kept[name] for name in whole)


def test_refused(mixed_shards: Path, tmp_path: Path) -> None:
    config = TokenizeConfig(shards=str(mixed_shards), model=AUXILIARY, output=str(tmp_path / "tokens"), workers=1)
    assert "64 samples tokenised now" in pretokenize(config)
    assert "(0 samples tokenised now)" in pretokenize(config)
    readers, folder = open_datasets(mixed_shards), tmp_path / "tokens" / "mixed"
    encoder = load_encoder(AUXILIARY, max_length=100)
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "tokens"):
        with pytest.raises(InputError, match="there is a file where a folder is wanted"):
            pretokenize(replace(config, output=str(output)))
    with pytest.raises(InputError, match=r"tokens.json: made with tokenizer .*; use another folder, or remove"):
        open_tokens(str(tmp_path / "tokens"), readers, encoder)
    encoder = load_encoder(AUXILIARY)
    encoder.prompts["query"] = "q: "
    with pytest.raises(InputError, match=r"tokens.json: made with query_prompt '', wanted 'q: '"):
        open_tokens(str(tmp_path / "tokens"), readers, encoder)
    with pytest.raises(InputError, match="no tokens of the data set mixed"):
        open_tokens(str(tmp_path), readers, encoder)
    with pytest.raises(InputError, match=r"tokens=s3://bucket/tokens: wanted a folder"):
        open_tokens("s3://bucket/tokens", readers, encoder)
    changed = TokenizeConfig(**{**vars(config), "max_length": 7})
    with pytest.raises(InputError, match=r"made with tokenizer .*; use another folder, or remove"):
        pretokenize(changed)
    (folder / "tokens.json").write_text(json.dumps({"format": 99, "recipe": {}}))
    with pytest.raises(InputError, match=r"tokens\.json: made with format 99, wanted 1"):
        pretokenize(config)


@pytest.mark.slow
@pytest.mark.parametrize("array", ARRAYS)
def test_damaged_arrays_are_named(mixed_shards: Path, tmp_path: Path, array: str) -> None:
    pretokenize(TokenizeConfig(shards=str(mixed_shards), model=AUXILIARY, output=str(tmp_path / "tokens"), workers=1))
    for path in (tmp_path / "tokens" / "mixed").glob(f"*.{array}.npy"):
        os.truncate(path, path.stat().st_size - 2)
    with pytest.raises(InputError, match=rf"00000\d.{array}.npy: damaged, .* run `jemb tokenize` again"):
        batches(mixed_shards, load_encoder(AUXILIARY), tmp_path / "tokens", 0, 1)
