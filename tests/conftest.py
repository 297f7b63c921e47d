"""What several areas share: small data sets, written as shards."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported, here and in every process a test starts: small sums gain nothing from threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["JEMB_TESTS"] = str(os.getpid())  # by which all processes that tests start are known, orphans too

from tests.helpers.made_shards import WORDS, make_samples, write_shards

if TYPE_CHECKING:
    from tests.helpers.object_store import FaultyProxy

QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("busy", deadline=None, suppress_health_check=QUIET)
settings.load_profile("busy")  # no time decides a test: the machine may do other things

HELPERS = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
"""In the command lines of Python's own processes, of which this one has one each for all tests."""
CLUSTER = ("slurm", "munge", "unshare", "ray::")
"""The same of clusters that serve several tests, whose nodes and workers may be started anew by one of them."""
PATIENCE = 20
"""Seconds that processes have to end after their test; the machine may be busy."""


def pytest_collection_finish() -> None:
    if "tests.helpers.ranks" in sys.modules:
        sys.modules["tests.helpers.ranks"].start_server()


def processes_of_tests() -> dict[tuple[int, str], str]:
    """{(process id, time of its start): command line} of all living processes that tests have started."""
    found: dict[tuple[int, str], str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, *_ = facts = (folder / "stat").read_text().rpartition(")")[2].split()
            if state == "Z" or f"JEMB_TESTS={os.getpid()}".encode() not in (folder / "environ").read_bytes().split(
                b"\0"
            ):
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            lasting = (*CLUSTER, *(HELPERS if int(parent) == os.getpid() else ()))
            if int(folder.name) != os.getpid() and not any(name in command for name in lasting):
                found[int(folder.name), facts[19]] = command
    return found


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """What a test starts has ended soon after it; what wider fixtures started stays."""
    before = processes_of_tests()
    yield
    deadline = time.monotonic() + PATIENCE
    while left := {process: command for process, command in processes_of_tests().items() if process not in before}:
        assert time.monotonic() < deadline, f"processes left by this test: {left}"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    """make_dataset(parent, "name", 40, negatives=0, shard_samples=16): a data set of 40 samples in parent/name."""

    def make(parent: Path, name: str, size: int, negatives: int = 0, shard_samples: int = 16) -> Path:
        return write_shards(parent / name, name, make_samples(name, size, negatives), shard_samples)

    return make


@pytest.fixture(scope="session")
def pair_shards(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """Two data sets of pairs: `answers` with 50 and `all-titles.v2` with 27 samples. Not to be written to."""
    folder = tmp_path_factory.mktemp("pairs")
    make_dataset(folder, "answers", 50)
    make_dataset(folder, "all-titles.v2", 27)
    return folder


@pytest.fixture(scope="session")
def triplet_shards(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """One data set of 40 triplets with three negatives each. Not to be written to."""
    return make_dataset(tmp_path_factory.mktemp("triplets"), "nli", 40, negatives=3)


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole T5 (encoder, decoder, head) with random weights and a Unigram tokenizer, as the Hub has them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    unigram.train_from_iterator([" ".join(WORDS), " ".join(reversed(WORDS)), "abcdefghijklmnopqrstuvwxyz"] * 9, trainer)
    unigram.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=unigram, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )
    config = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """Port of an S3 server on loopback with an empty bucket."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    from tests.helpers.object_store import s3_server

    with s3_server() as port:
        yield port


@pytest.fixture
def proxy(s3_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultyProxy]:
    """A proxy before it, to which s3:// leads from here on, also for processes that are started; and a new cache."""
    import fsspec

    from tests.helpers.object_store import CREDENTIALS, FaultyProxy

    fsspec.get_filesystem_class("s3").clear_instance_cache()  # it would know the address of another test's
    faulty = FaultyProxy(s3_port)
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": faulty.url, "JEMB_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    yield faulty
    faulty.shutdown()
    faulty.server_close()
