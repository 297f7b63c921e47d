"""What the processes of a run tell each other when one stops or does not answer.

Before: `processes.py` has joined them. After: each ends with a message that names the one to blame, and why.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import torch.distributed as dist

from jemb.core.errors import Failure, InputError
from jemb.distributed.ranks import address, rank, world_size

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

log = logging.getLogger(__name__)

CONTINUES = "The same command continues from the last checkpoint"
GRACE = 3.0
"""Seconds that a process which lost the others gives them to say that they live, or why they stopped."""
UNANSWERED = re.compile(r"timed? ?out|closed by|reset by peer|broken pipe|connection|nccl|gloo|abort", re.IGNORECASE)
"""In the messages of collectives that got no answer."""


@contextmanager
def report_lost_peers(
    timeout_minutes: float, hint: str = CONTINUES, before_end: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """A collective inside the block that gets no answer raises Failure, with which process is to blame and why, and
    the hint.

    A process that leaves the block by an error says so to the others, which wait for it in vain; one that lives says
    that, by a thread of its own, when it is asked. Where another has stopped and this one hangs nevertheless, as it may
    with NCCL, the thread calls `before_end`, says why, and ends the process with 1.
    """
    if world_size() == 1:
        yield
        return
    # The one way to talk that does not need the others to listen. Not public, and the same in all versions we support.
    board = StatusBoard(dist.distributed_c10d._get_default_store(), hint, before_end)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, Failure) or not UNANSWERED.search(str(error)):
            board.post("stopped", _said(error))
            raise
        raise explain_lost_peers(board, str(error), timeout_minutes) from error
    except Exception as error:
        board.post("stopped", _said(error))
        raise
    finally:
        board.leave()


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, InputError | Failure) else f"{type(error).__name__}: {error}"


class StatusBoard:
    """What each process has left in the job's key-value store: where it is, that it lives, why it stopped."""

    def __init__(self, store: Store, hint: str, before_end: Callable[[], None]) -> None:
        self.store, self.hint, self.before_end = store, hint, before_end
        self.left = threading.Event()
        self.post("place", address())
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def post(self, what: str, word: str) -> None:
        def post() -> None:
            self.store.set(f"jemb/{what}/{rank()}", word)
            if what == "stopped" and word:
                self.store.set("jemb/ended", "")

        call_with_timeout(post, GRACE)

    def read(self, what: str, number: int) -> str | None:
        key = f"jemb/{what}/{number}"
        return self.store.get(key).decode() if self.store.check([key]) else None

    def reasons(self) -> list[str]:
        """Why processes stopped, where they said so."""
        found = [(number, self.read("stopped", number)) for number in range(world_size())]
        return [f"process {number} ({self.read('place', number)}) stopped: {why}" for number, why in found if why]

    def ping(self) -> None:
        """Let those that live say so; they have `GRACE` seconds."""
        self.store.set("jemb/question", "")
        time.sleep(GRACE)

    def leave(self) -> None:
        self.left.set()
        self.thread.join(GRACE)

    def _watch(self) -> None:
        answered = False
        with suppress(RuntimeError):
            while not self.left.wait(GRACE / 6):
                if not answered and self.store.check(["jemb/question"]):
                    self.post("alive", "")
                    answered = True
                # Most notice by themselves, and say it better; they have time for it.
                if self.store.check(["jemb/ended"]) and not self.left.wait(5 * GRACE):
                    self._end("; ".join(self.reasons()))

    def _end(self, why: str) -> None:
        if rank() == 0:
            log.error("jemb train: %s. %s", why, self.hint)
            call_with_timeout(self.before_end, GRACE)
        sys.stderr.flush()
        os._exit(1)


def explain_lost_peers(board: StatusBoard, error: str, timeout_minutes: float) -> Failure:
    """What the process says whose collective ended with `error`."""
    timed_out = bool(re.search(r"timed? ?out", error, re.IGNORECASE))
    board.post("stopped", "")
    found: list[str] = []

    def find() -> None:
        board.ping()
        if any(board.read("alive", number) is not None for number in range(rank())):
            found.append("")  # the first that lives speaks for all
        else:
            found.append(_blame(board, timed_out, timeout_minutes))

    call_with_timeout(find, 3 * GRACE)
    where = f"process 0 at {os.environ.get('MASTER_ADDR')}"
    why = found[0] if found else f"{where} cannot be reached: it, its machine or the network to it has failed"
    message = f"{why or 'the processes lost each other'}. {board.hint} ({' '.join(error.split())[:200]})"
    if why and rank():
        log.error("jemb train: process %d: %s", rank(), message)
    return Failure(message)


def call_with_timeout(ask: Callable[[], object], seconds: float) -> None:
    """Ask the store something in a thread, and go on without an answer after so long: where the machine of process 0 is
    cut off, a question waits for a quarter of an hour, and all later ones with it."""

    def try_it() -> None:
        with suppress(RuntimeError):  # the store's own process may be gone
            ask()

    thread = threading.Thread(target=try_it, daemon=True)
    thread.start()
    thread.join(seconds)


def _blame(board: StatusBoard, timed_out: bool, timeout_minutes: float) -> str:
    if reasons := board.reasons():
        return "; ".join(reasons)
    numbers = range(world_size())
    places = {number: f"process {number} ({board.read('place', number)})" for number in numbers}
    living = [number for number in numbers if board.read("stopped", number) is None]
    silent = [number for number in living if board.read("alive", number) is None]
    names = ", ".join(places[number] for number in silent)
    look = "look there for lack of memory (dmesg), a full or hanging disk, a lost GPU, and the network"
    waited = f"no answer for {timeout_minutes:g} minutes (timeout_minutes) from"
    if timed_out and silent:
        return f"{waited} {names}: stopped or out of reach; {look}"
    if timed_out:
        late = ", ".join(places[number] for number in living) or "one of the processes"
        return (
            f"{waited} {late}, which lives but hangs: py-spy dump --pid PID shows where; or it needs longer than that"
        )
    return f"lost {names or 'a connection, though all processes live'}: killed, or out of reach; {look}"
