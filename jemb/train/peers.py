"""What the processes of a run tell each other besides gradients: at the start that they hold the same data and options,
at the end why one has stopped or does not answer.

Before: `processes.py` has joined them. After: `run.py` trains; `module.py` compares the check sums of each batch.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import torch.distributed as dist

import jemb
from jemb.config import TrainConfig
from jemb.data import BatchPlan
from jemb.distributed import rank, world_size
from jemb.errors import Failure, InputError
from jemb.shards import ShardReader

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")

log = logging.getLogger(__name__)

OWN = {"shards", "tokens", "output", "workers", "cache_dir", "cache_gb", "read_ahead"}
"""Options that each process may have its own of: paths on its machine, loader processes, and the cache of shards."""
CONTINUES = "The same command continues from the last checkpoint"
LOOKED_AT = 64
"""Samples of each data set that are compared at the start, evenly spaced."""
GRACE = 3.0
"""Seconds that a process which lost the others gives them to say that they live, or why they stopped."""
UNANSWERED = re.compile(r"timed? ?out|closed by|reset by peer|broken pipe|connection|nccl|gloo", re.IGNORECASE)
"""In the messages of collectives that got no answer."""


def agreed(work: Callable[[], T], facts: Callable[[T], Mapping[str, str]]) -> T:
    """The result of `work`, done by every process, once it has ended well in all and all found the same `facts` of it.

    Raises on all of them: what `work` raised on one, or InputError with the facts in which they differ.
    """
    if world_size() == 1:
        return work()
    found: Mapping[str, str] = {}
    problem: Exception | None = None
    try:
        result = work()
        found = facts(result)
    except Exception as error:
        problem = error
    told: list[Any] = [None] * world_size()
    dist.all_gather_object(told, (_address(), dict(found), problem and (type(problem), str(problem))))
    if problem:
        raise problem
    for number, (address, _, other) in enumerate(told):
        if other:
            kind = InputError if issubclass(other[0], InputError) else Failure
            raise kind(f"process {number} ({address}): {other[1]}")
    for number, (address, theirs, _) in enumerate(told):
        if different := differences(told[0][1], theirs):
            places = f"process 0 ({told[0][0]}) and process {number} ({address})"
            raise InputError(
                f"{places} differ in what follows; give all processes the same shards and options:\n"
                + "\n".join(f"  {name}: {one}, {another}" for name, one, another in different[:8])
            )
    return result


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(name, value, value) of all facts in which the two differ; `none` for one that is not there."""
    names = [*one, *(name for name in other if name not in one)]
    pairs = [(name, one.get(name, "none"), other.get(name, "none")) for name in names]
    return [(name, here, there) for name, here, there in pairs if here != there]


def facts_of(config: TrainConfig, readers: Mapping[str, ShardReader], plan: BatchPlan) -> dict[str, str]:
    """All on which the course of a run depends, in words, the data sets first."""
    facts = {}
    for name, reader in readers.items():
        facts[f"data set {name}"] = f"{len(reader)} samples with fingerprint {reader.manifest.fingerprint[:16]}"
        facts[f"texts of data set {name}"] = look_at(reader)
    for name, value in asdict(config).items():
        if name not in OWN:
            facts[name] = str(value)
    return {**facts, "batch plan": plan.fingerprint[:16], "version of jemb": jemb.__version__}


def look_at(reader: ShardReader, count: int = LOOKED_AT) -> str:
    """16 hex digits of `count` evenly spaced samples as they are on disk: the fingerprint is only what the manifest
    says."""
    digest = hashlib.blake2b(digest_size=8)
    for sample in reader.spread(min(count, len(reader))):
        if isinstance(sample, InputError):
            digest.update(b"damaged")  # reported at the step that needs it
            continue
        for text in (sample.key, sample.query, sample.positive, *sample.negatives):
            digest.update(len(text).to_bytes(8, "little") + text.encode(errors="surrogatepass"))
    return digest.hexdigest()


@contextmanager
def answering(timeout_minutes: float, hint: str = CONTINUES) -> Iterator[None]:
    """A collective inside the block that gets no answer raises Failure, with which process is to blame and why, and
    the hint.

    A process that leaves the block by an error says so to the others, which wait for it in vain; one that lives says
    that, by a thread of its own, when it is asked.
    """
    if world_size() == 1:
        yield
        return
    # The one way to talk that does not need the others to listen. Not public, and the same in all versions we support.
    words = Words(dist.distributed_c10d._get_default_store())
    try:
        yield
    except (InputError, Failure) as error:
        words.say("stopped", str(error))
        raise
    except RuntimeError as error:
        if not UNANSWERED.search(str(error)):
            words.say("stopped", f"{type(error).__name__}: {error}")
            raise
        raise _lost(words, str(error), timeout_minutes, hint) from error
    except Exception as error:
        words.say("stopped", f"{type(error).__name__}: {error}")
        raise
    finally:
        words.close()


class Words:
    """What each process has left in the job's key-value store: where it is, that it lives, why it stopped."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.ended = threading.Event()
        self.say("place", _address())
        self.thread = threading.Thread(target=self._answer, daemon=True)
        self.thread.start()

    def say(self, what: str, word: str) -> None:
        briefly(lambda: self.store.set(f"jemb/{what}/{rank()}", word), GRACE)

    def of(self, what: str, number: int) -> str | None:
        key = f"jemb/{what}/{number}"
        return self.store.get(key).decode() if self.store.check([key]) else None

    def ask(self) -> None:
        """Let those that live say so; they have `GRACE` seconds."""
        self.store.set("jemb/question", "")
        time.sleep(GRACE)

    def close(self) -> None:
        self.ended.set()
        self.thread.join(GRACE)

    def _answer(self) -> None:
        with suppress(RuntimeError):
            while not self.ended.wait(GRACE / 6):
                if self.store.check(["jemb/question"]):
                    self.say("alive", "")
                    return


def _lost(words: Words, error: str, timeout_minutes: float, hint: str) -> Failure:
    """What the process says whose collective ended with `error`."""
    timed_out = bool(re.search(r"timed? ?out", error, re.IGNORECASE))
    words.say("stopped", "")
    found: list[str] = []

    def find() -> None:
        words.ask()
        if any(words.of("alive", number) is not None for number in range(rank())):
            found.append("")  # the first that lives speaks for all
        else:
            found.append(_blame(words, timed_out, timeout_minutes))

    briefly(find, 3 * GRACE)
    where = f"process 0 at {os.environ.get('MASTER_ADDR')}"
    why = found[0] if found else f"{where} cannot be reached: it, its machine or the network to it has failed"
    message = f"{why or 'the processes lost each other'}. {hint} ({' '.join(error.split())[:200]})"
    if why and rank():
        log.error("jemb train: process %d: %s", rank(), message)
    return Failure(message)


def briefly(ask: Callable[[], object], seconds: float) -> None:
    """Ask the store something in a thread, and go on without an answer after so long: where the machine of process 0 is
    cut off, a question waits for a quarter of an hour, and all later ones with it."""

    def try_it() -> None:
        with suppress(RuntimeError):  # the store's own process may be gone
            ask()

    thread = threading.Thread(target=try_it, daemon=True)
    thread.start()
    thread.join(seconds)


def _blame(words: Words, timed_out: bool, timeout_minutes: float) -> str:
    numbers = range(world_size())
    places = {number: f"process {number} ({words.of('place', number)})" for number in numbers}
    stopped = {number: words.of("stopped", number) for number in numbers}
    if reasons := [f"{places[number]} stopped: {why}" for number, why in stopped.items() if why]:
        return "; ".join(reasons)
    silent = [number for number in numbers if stopped[number] is None and words.of("alive", number) is None]
    names = ", ".join(places[number] for number in silent)
    look = "look there for lack of memory (dmesg), a full or hanging disk, a lost GPU, and the network"
    if timed_out and silent:
        return (
            f"no answer for {timeout_minutes:g} minutes (timeout_minutes) from {names}: stopped or out of reach; {look}"
        )
    if timed_out:
        late = ", ".join(places[number] for number in numbers if stopped[number] is None) or "one of the processes"
        return (
            f"no answer for {timeout_minutes:g} minutes (timeout_minutes) from {late}, which lives but hangs: "
            "py-spy dump --pid PID shows where; or it needs longer than that"
        )
    return f"lost {names or 'a connection, though all processes live'}: killed, or out of reach; {look}"


def _address() -> str:
    return f"{socket.gethostname()}, pid {os.getpid()}"
