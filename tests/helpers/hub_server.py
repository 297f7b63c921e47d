"""As much of the Hugging Face Hub as an upload talks to, on this machine: it keeps what is committed."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """repositories: name -> private. commits: {path: content} of each. refuse: end of the path that is answered 403."""

    def __init__(self) -> None:
        self.repositories: dict[str, bool] = {}
        self.commits: list[dict[str, bytes]] = []
        self.large: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.refuse = "nothing"
        self.address = ""

    def answer(self, method: str, path: str, body: bytes) -> Any:
        if self.refuse in path:
            return 403, {"error": "You have no space left"}
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": "me", "orgs": [], "auth": {"type": "access_token"}}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization', 'me')}/{wanted['name']}"
            self.repositories[name] = wanted.get("private") or wanted.get("visibility") == "private"
            return 200, {"url": f"{self.address}/{name}"}
        if "/preupload/" in path:  # as the Hub does: text as it is, everything else as a large file
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "regular" if file["path"].endswith((".json", ".md")) else "lfs",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{self.address}/large/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if method == "PUT" and path.startswith("/large/"):
            self.large[path.rpartition("/")[2]] = body
            return 200, {}
        if "/commit/" in path:
            self.commits.append(dict(self._files(body)))
            return 200, {"commitUrl": f"{self.address}/me/model/commit/0", "commitOid": "0" * 40, "hookOutput": ""}
        return 404, {"error": f"{method} {path}"}

    def _files(self, body: bytes) -> Iterator[tuple[str, bytes]]:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                yield line["value"]["path"], base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                yield line["value"]["path"], self.large[line["value"]["oid"]]


@contextmanager
def serving(hub: Hub) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.tokens.add(self.headers.get("Authorization", ""))
            status, value = hub.answer(self.command, self.path, body)
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_HEAD = respond

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
