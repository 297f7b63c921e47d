"""The model card: what the model is, how to use it, and the data, settings and scores behind it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

from jemb.files import read_json
from jemb.model import Encoder
from jemb.model.load import ENCODER_OF
from jemb.run_folder import RunFolder

FRONT = """---
tags:
- sentence-transformers
- feature-extraction
- sentence-similarity
library_name: sentence-transformers
pipeline_tag: sentence-similarity
---
"""

USE = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH/OF/THIS/FOLDER")
vectors = model.encode(["how to read a file", "Open file and return a stream."])  # [2, {dim}], unit length
print(vectors @ vectors.T)  # cosine similarities
```

With transformers alone:

```python
import torch
from transformers import AutoTokenizer, {cls}

tokenizer = AutoTokenizer.from_pretrained("PATH/OF/THIS/FOLDER")
model = {cls}.from_pretrained("PATH/OF/THIS/FOLDER").eval()
tokens = tokenizer(texts, padding=True, truncation=True, max_length={max_length}, return_tensors="pt")
with torch.inference_mode():
    hidden = model(**tokens).last_hidden_state
{pooling}
vectors = torch.nn.functional.normalize(pooled, dim=1)
```
"""

POOLING = {
    "mean": 'mask = tokens["attention_mask"].unsqueeze(-1)\npooled = (hidden * mask).sum(1) / mask.sum(1)',
    "cls": "pooled = hidden[:, 0]",
}


def write_card(run: RunFolder, encoder: Encoder, source: str) -> str:
    """README.md of an exported model. source: which weights of the run these are, in words."""
    record = run.read_record()
    scores = read_json(run.scores) if run.scores.is_file() else {}
    config = encoder.backbone.config
    use = USE.format(
        dim=encoder.dim,
        cls=ENCODER_OF.get(config.model_type, "AutoModel"),
        max_length=encoder.max_length,
        pooling=POOLING[encoder.pooling],
    )
    facts = [
        ("vector", f"{encoder.dim} numbers, length 1"),
        ("longest text", f"{encoder.max_length} tokens"),
        ("encoder", f"{type(encoder.backbone).__name__}, {encoder.pooling} pooling"),
        ("parameters", f"{sum(p.numel() for p in encoder.parameters()):,}"),
        ("trained on", str(record.get("objective", "?"))),
        ("weights", source),
    ]
    parts = [
        FRONT,
        f"# {run.path.resolve().name}\n",
        f"A text-embedding model trained with jemb {record.get('jemb', '')}.\n",
        _table(["", ""], facts),
        "## Use\n",
        use,
        "## Data\n",
        _data(record.get("datasets", {})),
        "## Settings\n",
        _starts(record.get("starts", [])),
        f"```yaml\n{run.config.read_text(encoding='utf-8').strip()}\n```\n",
        "## Scores\n",
        _scores(scores),
        "## Versions\n",
        _table(["software", "version"], _versions(record)),
    ]
    return "\n".join(parts)


def _data(datasets: Mapping[str, Mapping[str, Any]]) -> str:
    if not datasets:
        return "Not recorded.\n"
    rows = [
        (
            name,
            entry.get("kind", "?"),
            f"{entry['num_samples']:,}" if "num_samples" in entry else "?",
            entry.get("weight", 1.0),
            _dropped(entry.get("stages", [])),
            str(entry.get("fingerprint", "?"))[:12],
        )
        for name, entry in datasets.items()
    ]
    return _table(["data set", "kind", "samples", "weight", "filters: kept, dropped", "fingerprint"], rows)


def _dropped(stages: Iterable[Mapping[str, Any]]) -> str:
    words = []
    for stage in stages:
        dropped = sum(stage.get("dropped", {}).values())
        words.append(f"{stage.get('name', '?')}: {stage.get('kept', 0):,}, {dropped:,}")
    return "; ".join(words) or "none"


def _starts(starts: Sequence[Mapping[str, Any]]) -> str:
    columns = ["step", "world_size", "strategy", "precision", "device"]
    rows = [[start.get(column, "") for column in columns] for start in starts]
    return _table(["started at step", *columns[1:]], rows) if rows else ""


def _scores(scores: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for task, metrics in scores.items():
        kind, _, path = task.partition(":")
        name = f"{kind}: {PurePath(path).name}" if path else task
        rows += [(name, metric, f"{value:.2f}") for metric, value in metrics.items()]
    return _table(["task", "metric", "percent"], rows) if rows else "Not evaluated.\n"


def _versions(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    trained = [(f"{name} (training)", str(value)) for name, value in record.get("versions", {}).items()]
    commit = [("git commit (training)", str(record["git_commit"]))] if record.get("git_commit") else []
    now = [(f"{name} (export)", version(name)) for name in ("sentence-transformers", "transformers", "torch")]
    return [*trained, *commit, *now]


def _table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; nothing in a cell can end it."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "".join("| " + " | ".join(_cell(value) for value in line) + " |\n" for line in lines)


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split()).replace("|", "\\|")
