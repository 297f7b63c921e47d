"""Queries from a real server on loopback: rows, bad answers, faults and their repetition, what is asked twice and what
never, and where the key is."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from jemb.core.errors import Failure, InputError
from jemb.prepare import chat as chat_module
from jemb.prepare import prepare
from jemb.prepare.chat import Answer, Chat, read_key
from jemb.prepare.options import PrepareConfig
from jemb.prepare.stages.generate import GenerateConfig, queries_in
from jemb.shards import Manifest, ShardReader
from tests.helpers.prepare_tools import TOOLS

KEY = "sk-secret-0123456789"
Reply = tuple[int, dict[str, str], Any]


def said(text: str | list[dict[str, str]] | None, finish: str = "stop") -> Reply:
    return 200, {}, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}


class Server:
    """An OpenAI-compatible endpoint. `reply` makes the answer of a document, which is the last line of the prompt;
    `asked` has each request in order: (time, document, body, headers)."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, str, dict[str, Any], dict[str, str]]] = []
        self.reply: Callable[[str, int], Reply] = lambda document, times: said(f"what is {document}?")
        self.at_once = self.most_at_once = 0
        self.seconds = 0.0
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                document = body["messages"][0]["content"].splitlines()[-1]
                with lock:
                    server.asked.append((time.monotonic(), document, body, dict(self.headers)))
                    times = sum(other == document for _, other, _, _ in server.asked)
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                time.sleep(server.seconds)
                code, headers, value = server.reply(document, times)
                with lock:
                    server.at_once -= 1
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                try:
                    self.send_response(code if self.path == "/v1/chat/completions" else 404)
                    for name, text in {**headers, "Content-Length": str(len(data))}.items():
                        self.send_header(name, text)
                    self.end_headers()
                    self.wfile.write(data)
                except BrokenPipeError:  # the other side was killed, or would not wait
                    pass

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def documents(self) -> list[str]:
        return [document for _, document, _, _ in self.asked]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("JEMB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(chat_module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(chat_module, "TRIES", 4)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def write(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def documents(count: int) -> list[dict[str, Any]]:
    return [{"positive": f"document {n}", "url": f"u{n}"} for n in range(count)]


def make(server: Server, folder: Path, *, stages: tuple[str, ...] = ("generate",), **options: Any) -> Manifest:
    values = {"endpoint": server.url, "model": "tiny-chat", **options}
    config = PrepareConfig(
        input=folder / "docs.jsonl",
        output=folder / "out",
        stages=list(stages),
        workers=1,
        max_unreadable=0.5,
        generate=GenerateConfig(**values),
    )
    (manifest,) = prepare(config, TOOLS)
    return manifest


def rows_of(folder: Path) -> list[dict[str, Any]]:
    reader = ShardReader(folder / "out" / "docs")
    samples = [reader.read(row) for row in range(len(reader))]
    return [{"query": s.query, "positive": s.positive, **s.extra} for s in sorted(samples, key=lambda s: s.key)]


def test_documents_become_rows(server: Server, tmp_path: Path) -> None:
    server.reply = lambda document, times: said(f"1. what is {document}?\n2. where is {document}?\n3. too many")
    given = {"query": "mine", "positive": "document 9"}
    write(tmp_path / "docs.jsonl", [*documents(2), "no JSON", given, {"positive": 7}, {"positive": "document 2"}])
    manifest = make(server, tmp_path, num_queries=2, temperature=0.3, seed=5, max_tokens=99)
    wanted = [(f"{word} is document {n}?", f"document {n}") for n in (0, 1, 2) for word in ("what", "where")]
    wanted.insert(4, ("mine", "document 9"))
    assert [(row["query"], row["positive"]) for row in rows_of(tmp_path)] == wanted
    assert [row.get("url") for row in rows_of(tmp_path)][:4] == ["u0", "u0", "u1", "u1"], "other fields stay"
    _, _, body, headers = server.asked[0]
    asked = {"model": "tiny-chat", "temperature": 0.3, "seed": 5, "max_tokens": 99}
    assert body == asked | {"messages": body["messages"]}
    assert body["messages"][0]["content"].startswith("Write 2 search queries")
    assert "Authorization" not in headers
    assert sorted(server.documents) == ["document 0", "document 1", "document 2"]
    read, generate = manifest.stages
    assert (read.dropped["unreadable"], generate.kept) == (2, 7)
    assert generate.statistics["queries"] == {"made": 6, "given": 1}
    settings = manifest.source["settings"]
    assert settings["generate.prompt"] == GenerateConfig().prompt
    assert (settings["generate.model"], settings["generate.seed"]) == ("tiny-chat", 5)
    assert not {name for name in settings if name in ("generate.endpoint", "generate.key_variable", "generate.cache")}
    (tmp_path / "out" / "docs" / "unreadable.jsonl").read_text().index('"line": 3')


def test_bad_answers_are_counted_and_said(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers: dict[str, Reply] = {
        "document 0": said("<think>I shall ask\nsomething</think>\n- “what is it?”"),
        "document 1": said(None),
        "document 2": said(""),
        "document 3": said("Document 3"),
        "document 4": said([{"type": "thinking"}, {"type": "text", "text": "what is it?\nwhere does it st"}], "length"),
        "document 5": (400, {}, {"error": {"message": f"not wanted, {KEY}"}}),
    }
    server.reply = lambda document, times: answers[document]
    os.environ["TEST_KEY"] = KEY
    write(tmp_path / "docs.jsonl", [*documents(6), {"positive": " "}])
    manifest = make(server, tmp_path, num_queries=2, key_variable="TEST_KEY")
    assert [row["query"] for row in rows_of(tmp_path)] == ["what is it?"] * 2
    (_, generate) = manifest.stages
    assert generate.dropped == {"no_query": 4, "refused": 1}
    assert generate.statistics["documents"] == {"short": 2, "cut": 0}
    assert "no query for 5 documents: 4 answers without one, 1 refused" in caplog.text
    assert KEY not in caplog.text
    write(tmp_path / "none" / "docs.jsonl", [{"positive": "document 1"}])
    with pytest.raises(InputError, match=r"docs\.jsonl: generate leaves no row; dropped are {'no_query': 1}"):
        make(server, tmp_path / "none", key_variable="TEST_KEY")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a b\n\n  c   d \na B", ["a b", "c d"]),
        ("Here are the queries:\n1) one\n(2) two\n• three\n- four", ["one", "two", "three", "four"]),
        ("what is 3. in it:", ["what is 3. in it:"]),
        ('"quoted"\n«so»\nit\'s "half"', ["quoted", "so", 'it\'s "half"']),
        ("  The  DOCUMENT ", []),
        ("<think>shall I ask?\nwhat is\nthe", []),
        ("shall I ask?</think>what is it", ["what is it"]),
        ('Of course:\n\n```json\n[\n  "one",\n  "two"\n]\n```\nShall I go on?', ["one", "two"]),
        ('["one", "two"]', ["one", "two"]),
        ('[\n"one",\n"two",\n', ["one", "two"]),
        ("```\none\n---\n2\n```", ["one", "2"]),
        ("3.5 mm jack\n2001 a space odyssey", ["3.5 mm jack", "2001 a space odyssey"]),
    ],
)
def test_lines_of_an_answer(text: str, found: list[str]) -> None:
    assert queries_in(Answer(text, True), "the document", 9) == found
    assert queries_in(Answer(text, True), "the document", 1) == found[:1]


def test_nothing_is_asked_twice(server: Server, tmp_path: Path) -> None:
    write(tmp_path / "a" / "docs.jsonl", [*documents(3), *documents(3), {"positive": "document 0"}])
    server.seconds = 0.05
    make(server, tmp_path / "a")
    assert sorted(server.documents) == ["document 0", "document 1", "document 2"], "nor at the same time"
    write(tmp_path / "b" / "docs.jsonl", documents(4))
    make(server, tmp_path / "b")
    assert server.documents[3:] == ["document 3"], "nor by another job"
    for option in ({"seed": 1}, {"temperature": 0.1}, {"model": "other"}, {"prompt": "Ask about\n{document}"}):
        make(server, write_again(tmp_path, str(option)), **option)
    assert len(server.documents) == 8, "but for what the answer depends on"
    make(server, tmp_path / "b", concurrency=1, requests_per_minute=5)
    assert len(server.documents) == 8, "a finished data set is left as it is, however fast it is asked"


def write_again(folder: Path, name: str) -> Path:
    place = folder / re.sub(r"\W", "", name)
    write(place / "docs.jsonl", documents(1))
    return place


def test_faults_are_waited_out(server: Server, tmp_path: Path) -> None:
    faults: list[Reply] = [
        (429, {"Retry-After": "0.4"}, {}),
        (503, {}, b"busy"),
        (200, {}, b"<html>no JSON"),
        said("why?"),
    ]
    server.reply = lambda document, times: faults[times - 1]
    write(tmp_path / "docs.jsonl", documents(1))
    make(server, tmp_path)
    assert len(server.asked) == 4
    assert server.asked[1][0] - server.asked[0][0] >= 0.4
    assert [row["query"] for row in rows_of(tmp_path)] == ["why?"]


def test_a_time_out_is_a_fault(server: Server, tmp_path: Path) -> None:
    def slow_at_first(document: str, times: int) -> Reply:
        time.sleep(0.6 if times == 1 else 0)
        return said(f"answer {times}")

    server.reply = slow_at_first
    write(tmp_path / "docs.jsonl", documents(1))
    make(server, tmp_path, timeout=0.2)
    assert [row["query"] for row in rows_of(tmp_path)] == ["answer 2"]


def test_what_was_answered_before_the_last_try_is_kept(server: Server, tmp_path: Path) -> None:
    broken = True
    server.reply = lambda document, times: (500, {}, b"") if broken and document == "document 5" else said("why?")
    write(tmp_path / "docs.jsonl", documents(9))
    with pytest.raises(Failure, match=r"no answer in 4 tries; the last: 500 .* the same command goes on"):
        make(server, tmp_path, concurrency=2)
    before = {document for document in server.documents if document != "document 5"}
    assert server.documents.count("document 5") == 4
    broken = False
    server.asked.clear()
    make(server, tmp_path, concurrency=2)
    assert len(rows_of(tmp_path)) == 9
    assert before
    assert not before & set(server.documents)


@pytest.mark.parametrize(("code", "where"), [(401, ""), (404, ""), (302, "http://127.0.0.1:1/elsewhere")])
def test_a_wrong_key_model_or_place_ends_the_job_at_once(
    code: int, where: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    server.reply = lambda document, times: (code, {"Location": where} if where else {}, {"error": f"bad key {KEY}"})
    write(tmp_path / "docs.jsonl", documents(30))
    with pytest.raises(InputError, match=rf"generate.endpoint: http://\S+ says {code} .*bad key \*\*\*"):
        make(server, tmp_path, key_variable="TEST_KEY", concurrency=1)
    assert len(server.asked) == 1, "no other is asked, nor this one again"


def test_the_rate_and_the_number_at_once_are_kept(server: Server, tmp_path: Path) -> None:
    server.seconds = 0.1
    write(tmp_path / "a" / "docs.jsonl", documents(12))
    make(server, tmp_path / "a", concurrency=3)
    assert server.most_at_once == 3
    server.asked.clear()
    server.seconds = 0
    write(tmp_path / "b" / "docs.jsonl", [{"positive": f"other {n}"} for n in range(6)])
    make(server, tmp_path / "b", concurrency=3, requests_per_minute=600)
    times = [at for at, _, _, _ in server.asked]
    assert times[-1] - times[0] >= 0.45, "six requests, a tenth of a second apart"


JOB = """
import sys
from jemb.app.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_it_goes_on_and_the_key_is_nowhere(server: Server, tmp_path: Path) -> None:
    server.seconds = 0.05
    write(tmp_path / "docs.jsonl", documents(60))
    command = [
        sys.executable, "-c", JOB, "prepare", f"input={tmp_path}/docs.jsonl", f"output={tmp_path}/out", "workers=1",
        "stages=[generate,exact]", f"generate.endpoint={server.url}", "generate.model=tiny-chat",
        "generate.key_variable=TEST_KEY", "generate.concurrency=2", "--debug",
    ]  # fmt: skip
    environment = {**os.environ, "TEST_KEY": KEY, "JEMB_CACHE": str(tmp_path / "cache")}
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        end = time.monotonic() + 120
        while len(server.asked) < 20:
            assert job.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        job.send_signal(signal.SIGKILL)
        job.wait()
        assert not (tmp_path / "out" / "docs").exists()
        before = len(server.asked)
        assert subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=300).returncode == 0
    assert len(rows_of(tmp_path)) == 60
    assert before < len(server.asked) <= 60 + 2, "only what was on its way as it died is asked again"
    assert {headers["Authorization"] for _, _, _, headers in server.asked} == {f"Bearer {KEY}"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"manifest.json", "report.html", "answers.sqlite", "log"} <= {path.name for path in files}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert "generate asked" in (tmp_path / "log").read_text()


def test_a_key_in_the_wrong_place_is_not_shown(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="wanted the name of an environment variable") as error:
        GenerateConfig(key_variable=KEY)
    assert KEY not in str(error.value)
    monkeypatch.setenv("TEST_KEY", f"{KEY}\nX-Injected: 1")
    with pytest.raises(InputError, match="TEST_KEY: its value is no key") as error:
        read_key("TEST_KEY")
    assert KEY not in str(error.value)
    with pytest.raises(InputError, match=r"TEST_KEY2: there is no such environment variable"):
        read_key("TEST_KEY2")
    for url in (f"http://user:{KEY}@127.0.0.1/v1", f"http://127.0.0.1/v1?key={KEY}", f"127.0.0.1:{KEY}"):
        with pytest.raises(InputError, match=r"generate\.endpoint") as error:
            Chat(url, key=None, timeout=1, per_minute=None)
        assert KEY not in str(error.value)


def test_options(server: Server, tmp_path: Path) -> None:
    write(tmp_path / "docs.jsonl", documents(1))
    with pytest.raises(InputError, match=r"wanted \{document\} in it"):
        GenerateConfig(prompt="Ask something")
    with pytest.raises(InputError, match=r"generate\.model: missing"):
        make(server, tmp_path, model=None)
    with pytest.raises(InputError, match=r"generate.endpoint is given, but generate is not among the stages"):
        make(server, tmp_path, stages=("exact",))
    with pytest.raises(InputError, match=r"there is no column|has the field 'query'"):
        prepare(PrepareConfig(input=tmp_path / "docs.jsonl", output=tmp_path / "out", stages=[]), TOOLS)
    config = PrepareConfig(
        input=tmp_path / "docs.jsonl",
        output=tmp_path / "o",
        stages=["generate"],
        generate=GenerateConfig(endpoint=server.url, model="m"),
        fields={"positive": "body"},
    )
    with pytest.raises(InputError, match=r"has the field 'body'"):
        prepare(config, TOOLS)
    assert not server.asked


def test_consistency_then_filters(server: Server, tmp_path: Path) -> None:
    """Queries about another document go; the encoder counts words."""
    texts = [f"{word} {word} lives in {word} land" for word in ("ape", "bee", "cat", "dog", "elk", "fox")]
    server.reply = lambda document, times: said("fox fox elk elk" if document.startswith("ape") else document[:7])
    write(tmp_path / "docs.jsonl", [{"positive": text} for text in texts])
    manifest = make(server, tmp_path, stages=("generate", "consistency"))
    assert [count.name for count in manifest.stages] == ["read", "generate", "consistency"]
    assert "fox fox elk elk" not in [row["query"] for row in rows_of(tmp_path)]
    assert manifest.num_samples == 5
