"""Answers of a chat model behind an OpenAI-compatible endpoint: asked for at a rate, again after faults, paid for once.

Before: `stages/generate.py` has the requests. A request is the bytes of its JSON; `Answers` keeps what came back under
their digest, so that a killed job asks nothing again. The key comes from an environment variable and goes into the
header of a request and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
import threading
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from jemb.core.errors import Failure, InputError
from jemb.public import CUT

REFUSED = (400, 413, 422)
"""Codes that are about one request: its text is too long, or not wanted."""
AGAIN = (408, 409, 425, 429)
"""Codes beside 500 and more after which the same request may be answered."""
TRIES = 7
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the first repetition, doubled with each one, and most."""
MOST_BYTES = 8 << 20
"""Of an answer."""


class RefusedError(Exception):
    """The endpoint answers others, but not this request."""


class Answer(NamedTuple):
    """text: what the model said. whole: it came to its end, and was not cut at the limit of tokens."""

    text: str
    whole: bool


class Answers:
    """Answers by the digest of their request, in the file `answers.sqlite` of a folder; several processes and threads
    may use it. What was put there outlives whatever kills the process. known: how many were found."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.known = 0
        self._lock = threading.Lock()
        self._file = sqlite3.connect(folder / "answers.sqlite", timeout=60, check_same_thread=False)
        self._file.execute("CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, text TEXT, whole INTEGER)")

    def get(self, request: bytes) -> Answer | None:
        with self._lock:
            found = self._file.execute("SELECT text, whole FROM answers WHERE request = ?", (_digest(request),))
            row = found.fetchone()
            self.known += row is not None
        return Answer(row[0], bool(row[1])) if row else None

    def put(self, request: bytes, answer: Answer) -> None:
        with self._lock, self._file:
            self._file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (_digest(request), *answer))

    def close(self) -> None:
        self._file.close()


class Chat:
    """Asks one endpoint, from any number of threads.

    url: its base, as `http://127.0.0.1:8000/v1`. key: sent as a bearer token; None: none is sent. timeout: seconds for
    one try, of which there are `TRIES` after a time-out, a lost connection, or a code of `AGAIN` or from 500 on.
    per_minute: tries that may begin in a minute, evenly spread; None: any number.
    """

    def __init__(self, url: str, *, key: str | None, timeout: float, per_minute: float | None) -> None:
        self.url = check_endpoint(url).rstrip("/") + "/chat/completions"
        self.timeout = timeout
        self._key = key
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._open = build_opener(_NoRedirect).open

    def stop(self, failure: BaseException) -> None:
        """No thread sends a further request: all that would raise `failure`. What is being answered is still waited
        for."""
        self._failure = failure
        self._stopped.set()

    def ask(self, request: bytes) -> Answer:
        """The answer to a request, the JSON of `model`, `messages` and so on.

        Raises `RefusedError` for a code of `REFUSED`, `InputError` for other codes below 500, such as those of a wrong
        key or model, `Failure` where all tries are used up. After either no thread asks further, and all raise it.
        """
        try:
            return self._ask(request)
        except (InputError, Failure) as error:
            self.stop(error)
            raise

    def _ask(self, request: bytes) -> Answer:
        said = ""
        for attempt in range(TRIES):
            self._take_turn()
            wait = 0.0
            try:
                return self._once(request)
            except HTTPError as error:
                said = self._said(error)
                if error.code in REFUSED:
                    raise RefusedError(said) from None
                if error.code < 500 and error.code not in AGAIN:
                    raise InputError(f"generate.endpoint: {self.url} says {said}") from None
                asked_for = error.headers.get("Retry-After", "")
                if asked_for.replace(".", "", 1).isdecimal():  # else a date
                    wait = min(LONGEST_WAIT, float(asked_for))
            except (OSError, HTTPException, ValueError) as error:  # URLError and time-outs are OSErrors
                said = self._without_key(f"{type(error).__name__}: {error}")
            if attempt < TRIES - 1:
                longest = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
                self._stopped.wait(max(wait, longest * random.uniform(0.5, 1)))
        raise Failure(
            f"{self.url} gave no answer in {TRIES} tries; the last: {said}. What was answered is kept: the same "
            "command goes on, perhaps with fewer requests at once (generate.concurrency, "
            "generate.requests_per_minute) or a longer generate.timeout"
        )

    def _once(self, request: bytes) -> Answer:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        with self._open(Request(self.url, request, headers), timeout=self.timeout) as response:
            body = response.read(MOST_BYTES)
        try:
            choice = json.loads(body)["choices"][0]
            text = choice["message"].get("content") or ""
            if isinstance(text, list):  # parts: thoughts and pictures have no text of that name
                text = "\n".join(part["text"] for part in text if "text" in part)
            return Answer(text.encode(errors="replace").decode(), choice.get("finish_reason") != "length")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ValueError(f"no answer of a chat model: {body[:200]!r}") from None

    def _take_turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap
        self._stopped.wait(turn - now)
        if self._failure is not None:
            raise self._failure

    def _said(self, error: HTTPError) -> str:
        try:
            body = error.read(1000).decode(errors="replace")
        except (OSError, HTTPException):
            body = ""
        return self._without_key(f"{error.code} {error.reason}: {' '.join(body.split())[:300]}")

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, CUT) if self._key else text


class _NoRedirect(HTTPRedirectHandler):
    """A key is for the host it was given for."""

    def redirect_request(self, *arguments: Any, **more: Any) -> None:
        return None


def check_endpoint(url: str) -> str:
    """The URL; `InputError`, which does not show it, for one that is none or has a place where a key might stand."""
    parts = urlsplit(url)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or "@" in parts.netloc
        or parts.query
        or parts.fragment
    ):
        raise InputError(
            "generate.endpoint: wanted the base of an OpenAI-compatible API, as http://127.0.0.1:8000/v1, without "
            "user, password and query; the key comes from the environment variable that generate.key_variable names"
        )
    return url


def read_key(variable: str | None) -> str | None:
    """The key in an environment variable; None without one to look into. `InputError` where it is empty or no key; it
    never shows it."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"generate.key_variable={variable}: there is no such environment variable, or it is empty")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(f"generate.key_variable={variable}: its value is no key: it has blanks or other signs in it")
    return key


def _digest(request: bytes) -> str:
    return hashlib.sha256(request).hexdigest()
