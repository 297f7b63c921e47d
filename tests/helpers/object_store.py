"""A real S3 server on loopback (moto's, as a process of its own), and a proxy before it that fails as networks do."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BUCKET = "bucket"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True)
class Seen:
    """A request as the proxy saw it. start: first byte of its range; sent: bytes of the body that were let through."""

    method: str
    path: str
    start: int | None
    fate: str
    sent: int


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to the server at port `behind`, but for a share `rate` of requests, drawn from `seed`: these are
    answered 500 or 503, or their answer is cut in the middle. What else can go wrong is set from outside."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behind: int, rate: float = 0.0, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.rate, self.draw = behind, rate, random.Random(seed)
        self.seen: list[Seen] = []
        self.down = False
        """Every connection is cut at once."""
        self.fates: list[str] = []
        """What happens to the next requests of a tar: `503`, `403`, `cut`, `corrupt`, `drop`, `pass`."""
        self.forbidden = ""
        """The method of requests that are answered 403."""
        self.delay = 0.0
        """Seconds before an answer."""
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fate(self, path: str) -> str:
        with self._lock:
            if self.down:
                return "drop"
            if self.fates and ".tar" in path:
                return self.fates.pop(0)
            if self.draw.random() < self.rate:
                return self.draw.choice(["500", "503", "cut"])
        return "pass"

    def faults(self) -> int:
        return sum(request.fate != "pass" for request in self.seen)

    def sent(self, name: str = "", method: str = "GET") -> int:
        """Bytes let through of what has `name` in its path."""
        return sum(request.sent for request in self.seen if name in request.path and request.method == method)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that were killed are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _forward(self) -> None:
        body = self._body()
        fate = "403" if self.command == self.server.forbidden else self.server.fate(self.path)
        if self.server.delay:
            time.sleep(self.server.delay)
        try:
            if fate == "drop":
                self._note(fate, 0)
            elif fate in ("500", "503", "403"):
                self._note(fate, 0)
                self._answer(int(fate), {"Content-Type": "application/xml"}, _xml(fate))
            else:
                status, headers, data = self._ask(body)
                if fate == "corrupt" and data:
                    data = bytes([data[0] ^ 1]) + data[1:]
                sent = len(data) // 2 if fate == "cut" else len(data)
                self._note(fate, len(body) if self.command == "PUT" else sent)
                self._answer(status, headers, data[:sent], full=len(data))
            if fate in ("drop", "cut"):
                self.close_connection = True
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

    def _note(self, fate: str, sent: int) -> None:
        """Before the client has the answer: it may ask again at once."""
        found = self.headers.get("Range")
        start = int(found.removeprefix("bytes=").partition("-")[0]) if found else None
        self.server.seen.append(Seen(self.command, self.path, start, fate, sent))

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)
        if "100-continue" in self.headers.get("Expect", ""):
            self.send_response_only(100)
            self.end_headers()
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP | {"content-length", "expect"}:
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
        connection.close()
        return answer.status, headers, data

    def _answer(self, status: int, headers: Mapping[str, str], data: bytes, full: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if self.command == "HEAD" or name.lower() != "content-length":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data) if full is None else full))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def _xml(status: str) -> bytes:
    code = {"500": "InternalError", "503": "ServiceUnavailable", "403": "AccessDenied"}[status]
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>no</Message></Error>'.encode()


@contextmanager
def s3_server() -> Iterator[int]:
    """The port of a moto server, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])"]
    process = subprocess.Popen(
        [*command, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT"))
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, "moto's server ended"
                assert time.monotonic() < deadline, "moto's server does not answer"
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def put_folder(port: int, folder: Path, prefix: str) -> None:
    """The files of `folder` under `prefix` in the bucket."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            put(port, f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def put(port: int, name: str, data: bytes) -> None:
    # Not a form, which would be parsed; and also for requests that nobody signed.
    headers = {"Content-Type": "application/octet-stream", "x-amz-acl": "public-read"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}/{name}", data, headers, method="PUT")
    urllib.request.urlopen(request, timeout=60).close()


def bytes_on_disk(folder: Path) -> int:
    """What the files of a cache take, without its indexes, or 0 where it changes all the time.

    A file that is renamed, or makes room for another, while the folder is listed would count twice: only what two
    listings agree on counts.
    """
    before = None
    for _ in range(50):
        found = _blocks(folder)
        if found == before:
            return 512 * sum(found.values())
        before = found
    return 0


def _blocks(folder: Path) -> dict[str, int]:
    found = {}
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):
            if entry.is_file():
                found[entry.name] = entry.stat().st_blocks
    return found
