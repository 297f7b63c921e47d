"""A whole preparation on a real Ray: the bytes of local processes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jemb.prepare import prepare
from jemb.prepare.options import PrepareConfig
from jemb.prepare.stages.decontaminate import DecontaminateConfig
from tests.helpers.prepare_tools import TOOLS, bag_of_words


def noting_encoder(notes: Path, name: str) -> Callable[[Sequence[str]], Any]:
    """Writes down in which Ray task it encodes: an empty line where that is none."""
    import ray

    def encode(texts: Sequence[str]) -> Any:
        with notes.open("a") as file:
            file.write(f"{(ray.is_initialized() and ray.get_runtime_context().get_task_id()) or ''}\n")
        return bag_of_words(texts)

    return encode


@pytest.mark.slow
def test_ray_and_local_processes_write_the_same_bytes(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    words = [hashlib.sha1(f"{number}".encode()).hexdigest()[:6] for number in range(60)]
    with (tmp_path / "a.jsonl").open("w") as file:
        for number in range(300):
            a, b = words[number % 60], words[number * number % 59]
            pair = {"query": f"where is the house called {a} {b}", "positive": f"the {a} stands beside the {b}"}
            file.write(json.dumps(pair) + "\n")
    (tmp_path / "task.txt").write_text(f"the {words[3]} stands beside the {words[9]}\n")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    monkeypatch.setattr("jemb.prepare.engine.read.PIECE_ROWS", 64)
    found = []
    for name in ("local", "ray"):
        config = PrepareConfig(
            input=str(tmp_path / "a.jsonl"), output=str(tmp_path / name), executor=name, workers=2, keep_dropped=True,
            stages=["exact", "near_duplicates", "decontaminate", "language", "consistency"],
            decontaminate=DecontaminateConfig(against=[str(tmp_path / "task.txt")]),
        )  # fmt: skip
        for module in ("engine.job", "vectors.embeddings"):
            monkeypatch.setattr(f"jemb.prepare.{module}.SERIAL_BELOW", 10**9 if name == "local" else 0)
        notes = tmp_path / f"{name} notes"
        prepare(config, replace(TOOLS, encoder=lambda options, notes=notes: partial(noting_encoder, notes)))
        assert [bool(task) for task in set(notes.read_text().splitlines())] == [name == "ray"], "in Ray's tasks"
        files = [path for path in sorted((tmp_path / name).rglob("*")) if path.is_file()]
        found.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert found[0] == found[1]
    assert "a/shard-000000.tar" in found[0]
