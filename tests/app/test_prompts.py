"""`consistency` and `mine` put their encoder's own prompts before the texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jemb.app.cli import main
from jemb.config import ModelConfig
from jemb.model import make_tiny

WORDS = [f"{tree} {number}" for tree in ("amber", "birch", "cedar", "delta") for number in ("one", "two", "six", "ten")]
ROWS = [(f"{WORDS[i % 16]} {WORDS[i * 7 % 16]}", f"{WORDS[i * 3 % 16]} and {WORDS[i % 16]} {i}") for i in range(40)]
PROMPTS = {"query": "amber amber fjord: ", "document": "ocean: "}


@pytest.mark.parametrize("stage", ["consistency", "mine"])
def test_vectors_are_those_of_texts_with_the_prompts(tmp_path: Path, stage: str) -> None:
    """Rows as they are, with an encoder that has prompts, have the statistics that rows with the prompts written before
    their texts have with the same encoder without any."""
    shape = ModelConfig(vocab_size=300, hidden_size=32, num_layers=1, num_heads=2)
    encoder = make_tiny([text for row in ROWS for text in row], shape, seed=0, max_length=32)
    encoder.save(tmp_path / "plain")
    encoder.prompts = PROMPTS
    encoder.save(tmp_path / "prompted")

    def statistics(model: str, query: str = "", document: str = "") -> Any:
        name = f"{model}{len(query)}"
        rows = tmp_path / f"{name}.jsonl"
        lines = [{"query": query + one, "positive": document + other} for one, other in ROWS]
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
        options = [f"stages=[{stage}]", f"{stage}.encoder={tmp_path / model}", "workers=1"]
        options += ["mine.max_share=null", "mine.num_negatives=2", "fields.query=query", "fields.positive=positive"]
        assert main(["prepare", f"input={rows}", f"output={tmp_path / name}", *options]) == 0
        (manifest,) = (tmp_path / name).rglob("manifest.json")
        return {
            name: counts
            for name, counts in json.loads(manifest.read_text())["stages"][-1]["statistics"].items()
            if name not in ("examples", "shown")  # texts
        }

    found = statistics("prompted")
    assert found == statistics("plain", **PROMPTS)
    assert found != statistics("plain")
