"""Numbers of texts against a dictionary, vectors against the encoder, and what is done again after a kill."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jemb.core.errors import Failure
from jemb.prepare import equal
from jemb.prepare.engine.verdicts import write_drops
from jemb.prepare.vectors import embeddings
from jemb.prepare.vectors.embeddings import StoredVectors, embed


@pytest.fixture(autouse=True)
def forget_encoders():
    embeddings._encoder.cache_clear()


@pytest.fixture
def small(monkeypatch):
    """Blocks of 8 texts, digests sorted 20 at once."""
    monkeypatch.setattr(embeddings, "BLOCK", 8)
    monkeypatch.setattr(equal, "RANGE_ROWS", 20)
    monkeypatch.setattr(embeddings, "COPIED", 5)


class Watched:
    """Makes an encoder that writes down the texts it is given. identity: as `embed` looks for it."""

    def __init__(self, encode, identity=None):
        self.encode, self.calls = encode, []
        if identity is not None:
            self.identity = identity

    def __call__(self, texts):
        self.calls.append(list(texts))
        return self.encode(texts)

    def make(self, name):
        assert name == "some encoder"
        return self


def pairs(count, seed=0):
    """Texts of which many are equal, on both sides and within a row."""
    draw = random.Random(seed)
    return [(f"t{draw.randrange(count)} é", f"t{draw.randrange(count)} é") for _ in range(count)]


@pytest.mark.usefixtures("small")
def test_how_long_it_will_take_is_said_before_it_begins(table, job, encode, monkeypatch, caplog):
    monkeypatch.setattr(embeddings, "SERIAL_BELOW", 10)
    monkeypatch.setattr(embeddings, "TRIED", 4)
    made, work = table(pairs(60)), job()
    with caplog.at_level("INFO"):
        found = embed(made, work, "some encoder", Watched(encode).make)
    assert f"{found.texts} distinct texts to encode with some encoder, about " in caplog.text
    assert "texts a second" in caplog.text
    caplog.clear()
    embed(made, work, "some encoder", Watched(encode).make)  # what is done is not promised again
    assert "distinct texts to encode" not in caplog.text


@pytest.mark.usefixtures("small")
def test_each_text_is_numbered_by_first_appearance_and_encoded_once(table, job, encode):
    rows = pairs(60)
    made, work = table(rows, piece_rows=13), job()
    dropped = {3, 13, 14, 40, 59, *range(26, 39)}  # of the third piece all
    folder = work.folder.parent / "earlier"
    for piece in range(made.num_pieces):
        ids = [row for row in sorted(dropped) if row // 13 == piece]
        write_drops(folder, piece, [(row, "bad", "") for row in ids])
    watched = Watched(encode)
    found = embed(made.judged(folder), work, "some encoder", watched.make)

    alive = [row for number, row in enumerate(rows) if number not in dropped]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(text for row in alive for text in row))}
    assert (found.texts, found.dim) == (len(numbers), 64)
    assert [n.tolist() for n in found.numbers()] == [[numbers[row[side]] for row in alive] for side in (0, 1)]
    assert [n.tolist() for n in found.numbers(7, 20)] == [
        [numbers[row[side]] for row in alive[7:20]] for side in (0, 1)
    ]
    assert [text for call in watched.calls for text in call] == list(numbers)
    assert {len(call) for call in watched.calls[:-1]} == {8}
    wanted = np.random.default_rng(0).integers(0, found.texts, 100)
    expected = encode(list(numbers))[wanted]
    assert np.array_equal(found.take(wanted), expected)
    found.write(wanted, work.folder / "some.npy")
    assert np.array_equal(StoredVectors(work.folder / "some.npy")[:], expected)
    assert np.array_equal(StoredVectors(work.folder / "some.npy")[17:23], expected[17:23])


@pytest.mark.usefixtures("small")
def test_more_texts_make_larger_blocks_not_more(table, job, encode, monkeypatch):
    monkeypatch.setattr(embeddings, "MOST_BLOCKS", 3)
    watched = Watched(encode)
    found = embed(table([(f"q{n}", f"p{n}") for n in range(20)]), job(), "some encoder", watched.make)
    assert found.block == 16
    assert list(map(len, watched.calls)) == [16, 16, 8]


def test_nothing_needs_no_encoder(table, job):
    found = embed(table([]), job(), "some encoder", lambda name: 1 / 0)
    assert (found.texts, found.numbers()[0].tolist()) == (0, [])


@pytest.mark.parametrize(
    ("bad", "message"),
    [(lambda n: np.zeros((n + 1, 4)), "wanted a row for each"), (lambda n: np.full((n, 4), np.nan), "not finite")],
)
def test_a_broken_encoder_is_a_failure(table, job, bad, message):
    with pytest.raises(Failure, match=message):
        embed(table([("a", "b")]), job(), "some encoder", lambda name: lambda texts: bad(len(texts)))


# The cache.


@pytest.mark.usefixtures("small")
def test_the_cache_gives_vectors_back(table, job, encode, tmp_path):
    rows, cache = table(pairs(40)), tmp_path / "cache"
    first, second, other = Watched(encode, "one"), Watched(encode, "one"), Watched(encode, "two")
    made = embed(rows, job("a"), "some encoder", first.make, str(cache))
    everything = np.arange(made.texts)
    expected = made.take(everything)
    again = embed(rows, job("b"), "some encoder", second.make, str(cache))
    assert (len(first.calls), second.calls) == (-(-made.texts // 8), [])
    assert np.array_equal(again.take(everything), expected)
    assert again.dim == 64
    # Not for another encoder or other texts, nor where a file is damaged.
    embed(rows, job("c"), "some encoder", other.make, str(cache))
    assert other.calls == first.calls
    third = Watched(encode, "one")
    embed(table([("new text", pairs(40)[0][1]), *pairs(40)[1:]]), job("d"), "some encoder", third.make, str(cache))
    assert third.calls[0][0] == "new text"
    assert len(third.calls) < len(first.calls)
    kept = sorted(cache.glob("*.npy"), key=lambda path: path.stat().st_mtime_ns)
    os.truncate(kept[1], 300)
    kept[2].write_bytes(b"")
    fourth = Watched(encode, "one")
    repaired = embed(rows, job("e"), "some encoder", fourth.make, str(cache))
    assert fourth.calls == first.calls[1:3]
    # A job does not need the cache any more once its vectors are there.
    for path in cache.iterdir():
        path.unlink()
    assert np.array_equal(repaired.take(everything), encode([text for call in first.calls for text in call]))
    assert np.array_equal(repaired.take(everything), expected)


def test_an_encoder_without_identity_is_not_cached(table, job, encode, tmp_path):
    embed(table(pairs(10)), job(), "some encoder", Watched(encode).make, str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


# Kills, workers, and the real encoder.


@dataclasses.dataclass(frozen=True)
class Slow:
    """Writes a line for each block into `log`; kills its process at the third."""

    log: str
    kill: bool

    def __call__(self, name):
        from tests.helpers.prepare_tools import bag_of_words

        def encode(texts):
            with Path(self.log).open("a") as file:
                file.write(f"{texts[0]}\n")
            if self.kill and len(Path(self.log).read_text().splitlines()) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return bag_of_words(texts)

        return encode


SCRIPT = """
import sys
from pathlib import Path, PosixPath
sys.path.insert(0, {tests!r})
from tests.prepare import test_embeddings as tests
from jemb.prepare.vectors import embeddings
from jemb.prepare.engine.executor import LocalExecutor
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Piece, Table
embeddings.BLOCK = 8
table = {table!r}
embeddings.embed(table, Job(Path({folder!r}), LocalExecutor(1), "x"), "some encoder", tests.Slow({log!r}, True))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_killed_process_leaves_what_it_had_done(table, job, encode, tmp_path):
    rows, work, log = table(pairs(40)), job(), str(tmp_path / "log")
    script = SCRIPT.format(tests=str(Path(__file__).parents[2]), table=rows, folder=str(work.folder), log=log)
    (tmp_path / "script.py").write_text(script)
    ended = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    found = embed(rows, work, "some encoder", Slow(log, False))
    lines = Path(log).read_text().splitlines()
    # Only the block it was killed in was done again.
    assert [lines[2]] == [line for line in lines if lines.count(line) > 1][:1]
    assert len(lines) == -(-found.texts // 8) + 1
    texts = list(dict.fromkeys(text for row in pairs(40) for text in row))
    assert np.array_equal(found.take(np.arange(found.texts)), encode(texts))


def test_the_threads_of_torch_do_not_show(table, job, tmp_path):
    """The encoder of the application: a machine with more cores gives the same bits. (That processes do not show is
    tested with the consistency filter.)"""
    import torch

    from jemb.app.models import make_encoder
    from jemb.config import ModelConfig
    from jemb.model import make_tiny
    from jemb.prepare.stages.consistency import ConsistencyConfig

    draw = random.Random(0)
    words = [f"word{number}" for number in range(200)]
    rows = [tuple(" ".join(draw.choices(words, k=draw.randint(1, 60))) for _ in range(2)) for _ in range(60)]
    model = ModelConfig(vocab_size=400, hidden_size=96, num_layers=2, num_heads=4)
    make_tiny([text for row in rows for text in row], model, seed=0, max_length=48).save(tmp_path / "model")
    found = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            make = make_encoder(ConsistencyConfig(max_length=48))
            found.append(embed(table(rows), job(f"{threads} threads"), str(tmp_path / "model"), make))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    everything = np.arange(found[0].texts)
    vectors = found[0].take(everything)
    assert np.array_equal(vectors, found[1].take(everything))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


def test_the_identity_of_an_encoder_is_what_its_vectors_depend_on(tmp_path):
    import torch

    from jemb.app.models import make_encoder
    from jemb.config import ModelConfig
    from jemb.model import load_encoder, make_tiny
    from jemb.prepare.stages.consistency import ConsistencyConfig
    from jemb.prepare.stages.mine import MineConfig

    model = ModelConfig(vocab_size=300, hidden_size=32, num_layers=1, num_heads=2)
    made = make_tiny(["some text to learn from"], model, seed=0, max_length=16)
    made.save(tmp_path / "a")
    made.save(tmp_path / "b")

    def identity(name, config=None):
        return make_encoder(config or ConsistencyConfig())(str(tmp_path / name)).identity

    assert (
        identity("a")
        == identity("b")
        == identity("a", MineConfig())
        == identity("a", ConsistencyConfig(batch_tokens=9))
    )
    assert identity("a") != identity("a", ConsistencyConfig(max_length=8))
    with torch.no_grad():
        next(iter(made.parameters()))[0, 0] += 1e-3
    made.save(tmp_path / "c")
    assert identity("c") != identity("a")
    other = load_encoder(str(tmp_path / "a"), pooling="cls")
    other.save(tmp_path / "d")
    assert identity("d") != identity("a")


def test_identity_names_the_precision_where_it_matters():
    from jemb.app.models import _TextEncoder
    from jemb.config import ModelConfig
    from jemb.model import make_tiny

    model = ModelConfig(vocab_size=300, hidden_size=32, num_layers=1, num_heads=2)
    encoder = make_tiny(["some text to learn from"], model, seed=0, max_length=16)
    named = {
        (device, precision): _TextEncoder(encoder, device, None, precision).identity
        for device in ("cpu", "cuda")
        for precision in ("fp32", "bf16")
    }
    assert named["cpu", "fp32"] == named["cpu", "bf16"]
    assert len(set(named.values())) == 3
