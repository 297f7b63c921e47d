"""What is kept and shown: no credentials anywhere, no places in what is published, no code in tables and pages."""

from __future__ import annotations

import http.server
import json
import logging
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from jemb.app.cli import main
from jemb.public import csv_cell, for_terminal, last_name, markdown, without_places, without_secrets
from jemb.run_folder import RunFolder
from jemb.train.logs.trackers import Table
from tests.helpers.made_shards import make_samples, write_shards


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pass@host:1/a", "http://***@host:1/a"),
        ("cannot read 'https://token@h/x?sig=a%2Fb&y=1': 403", "cannot read 'https://***@h/x?***': 403"),
        ("simplecache::http://u:p@w@h/a and s3://KEY:SECRET@b/c", "simplecache::http://***@h/a and s3://***@b/c"),
        ("hf://datasets/org/set@main/x.parquet", "hf://datasets/org/set@main/x.parquet"),
        ("why? me@home.org, a://b", "why? me@home.org, a://b"),
    ],
)
def test_secrets_are_cut(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://private-bucket/team/set.tar?token=1", "set.tar"),
        ("s3://private-bucket", "s3://***"),
        ("/home/me/my files/dev.jsonl", "dev.jsonl"),
        ("sts:~/dev.jsonl", "sts:dev.jsonl"),
        ("retrieval:/data/beir/", "retrieval:beir"),
        ("read from /data/a.jsonl, then ../b/c.tsv", "read from a.jsonl, then c.tsv"),
        ("google-t5/t5-small", "google-t5/t5-small"),
        ("12 km/h and/or 1/2 ~ 0.5", "12 km/h and/or 1/2 ~ 0.5"),
    ],
)
def test_places_are_cut(text: str, shown: str) -> None:
    assert without_places(text) == shown


def test_a_terminal_is_not_commanded() -> None:
    wild = "\x1b]0;title\x07\x1b[2Jname\x9b31m at s3://key:secret@b/c\nnext\tline"
    assert for_terminal(wild) == r"\x1b]0;title\x07\x1b[2Jname\x9b31m at s3://***@b/c" + "\nnext\tline"


def test_last_names() -> None:
    assert [last_name(place) for place in ("a/b/", "/", "http://h/x/y?z", "http://h")] == [
        "b",
        "***",
        "y",
        "http://***",
    ]


def test_markdown_shows_and_does_nothing() -> None:
    wild = "<script>x</script> [a](javascript:b) ![i](j) `c` | *d*\n# e"
    assert markdown(wild) == (
        r"&lt;script&gt;x&lt;/script&gt; \[a\](javascript:b) !\[i\](j) \`c\` | \*d\* # e"
    )  # fmt: skip


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_is_no_formula(start: str, tmp_path: Path) -> None:
    assert csv_cell(f"{start}cmd|' /C calc'!A0") == f"'{start}cmd|' /C calc'!A0"
    table = Table(RunFolder(tmp_path), 0)
    table.log({"step": 1, "dataset": f"{start}cmd|x", "loss": -1.5, "loss_terms": {}}, {})
    table.close(False)
    written = (tmp_path / "metrics.csv").read_bytes().decode()
    assert f"'{start}cmd|x" in written.replace('"', "")
    assert "-1.5" in written
    assert csv_cell("plain-name") == "plain-name"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server with a data set whose name is hostile, at an address with a password."""
    write_shards(tmp_path / "web" / "private-folder" / "set", "<img src=x onerror=alert(1)>", make_samples("set", 24))
    handler = partial(_Quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://user:hunter2@127.0.0.1:{found.server_port}/private-folder/set"
        found.shutdown()


def holding(folder: Path, word: str) -> list[str]:
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file() and word.encode() in path.read_bytes()]


def test_no_password_is_kept_and_no_place_published(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JEMB_CACHE", str(tmp_path / "cache"))
    sts = tmp_path / "private-folder" / "my dev.jsonl"
    sts.parent.mkdir()
    sts.write_text("".join(json.dumps({"sentence1": a, "sentence2": b, "score": i}) + "\n" for i, (a, b) in enumerate(
        [("amber", "birch cedar"), ("delta", "delta"), ("iris jade", "koala"), ("lotus", "lotus maple")])))  # fmt: skip
    options = [
        f"shards={server}", f"output={tmp_path / 'run'}", "model=tiny", "model.hidden_size=16", "model.num_layers=1",
        "model.num_heads=2", "model.vocab_size=300", "max_steps=2", "global_batch_size=8", "max_length=8", "workers=0",
        "trackers=[csv,tensorboard]", f'evaluation.tasks=["sts:{sts}"]', "evaluation.every=1",
    ]  # fmt: skip
    assert main(["train", *options]) == 0
    run = RunFolder(tmp_path / "run")
    assert run.read_config()["shards"] == server.replace("user:hunter2", "***")
    assert run.read_record()["model_chosen"]
    assert main(["train", *options]) == 0, "what was cut is no change of an option"
    assert main(["train", f"shards={server}/nowhere", f"output={tmp_path / 'other'}"]) == 2
    assert main(["export", f"run={tmp_path / 'run'}", f"output={tmp_path / 'out'}"]) == 0
    logging.getLogger("jemb").warning("by hand: %s", server)
    said = capfd.readouterr()
    assert "hunter2" not in said.out + said.err
    assert "/nowhere" in said.err
    assert not holding(tmp_path / "run", "hunter2")
    for private in ("hunter2", "127.0.0.1", "private-folder", str(tmp_path), str(Path.home())):
        assert not holding(tmp_path / "out", private), private
    card = (tmp_path / "out" / "README.md").read_text()
    assert "<img" not in card
    assert "&lt;img src=x onerror=alert(1)&gt;" in card
    settings = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert settings["evaluation"]["tasks"] == ["sts:my dev.jsonl"]
    assert "sts:my dev.jsonl/spearman" in card
