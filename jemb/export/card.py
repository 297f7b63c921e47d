"""The model card: what the model is, how to use it, and the data, settings, cost and scores behind it.

The words are in `card.md.j2`; here are the facts, all of them from the run's records or the options of the export.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

import jinja2
import yaml
from huggingface_hub import ModelCardData
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from jemb import __version__
from jemb.config import ExportConfig
from jemb.lineage import Stage
from jemb.model import Encoder
from jemb.public import markdown

POOLING = {
    "mean": 'mask = tokens["attention_mask"].unsqueeze(-1)\npooled = (hidden * mask).sum(1) / mask.sum(1)',
    "cls": "pooled = hidden[:, 0]",
    "lasttoken": 'pooled = hidden[torch.arange(len(hidden)), tokens["attention_mask"].sum(1) - 1]',
}
"""What plain transformers need besides the model, where that is all that comes after it."""


def write_card(
    name: str,
    encoder: Encoder,
    stages: Sequence[Stage],
    config: ExportConfig,
    *,
    source: str,
    scores: Mapping[str, Mapping[str, float]],
) -> str:
    """README.md of an exported model. source: which weights of the run these are, in words. scores: of this very
    model, {task: {metric: percent}}."""
    kind = type(encoder.backbone or encoder.first).__name__
    heads = [type(module).__name__ for module in encoder.heads if not isinstance(module, Normalize | Pooling)]
    length = ", length 1"
    if encoder.truncate_dim is not None:
        length = f", the first of {encoder.full_dim}; compare by cosine, or give them length 1"
    facts = [
        ("vector", f"{encoder.dim} numbers{length}"),
        ("longest text", f"{encoder.max_length} tokens; the rest is cut off" if encoder.max_length else "no limit"),
        ("encoder", ", then ".join([f"{kind}, {encoder.pooling} pooling", *([", ".join(heads)] if heads else [])])),
        ("parameters", f"{sum(p.numel() for p in encoder.parameters()):,}"),
        ("started from", stages[0].get("started_from") or "random weights"),
        ("trained on", " → ".join(str(stage.get("objective")) for stage in stages)),
        ("weights", source + (f" ({chosen})" if (chosen := stages[-1].get("model_chosen")) else "")),
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jemb.export", ""),
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = lambda value: markdown(str(value))
    template = environment.get_template("card.md.j2")
    card = template.render(
        front=_front(stages, config),
        name=name,
        jemb=stages[-1].get("jemb", __version__),
        table=_table,
        facts=facts,
        encoder=encoder,
        config=config,
        place=config.push_to_hub or "PATH/OF/THIS/FOLDER",
        prompts=[json.dumps(encoder.prompt(side), ensure_ascii=False) for side in ("query", "document")],
        cls=kind if kind.endswith("EncoderModel") else "AutoModel",
        pooling=POOLING.get(encoder.pooling, "") if encoder.plain else "",
        stages=[_stage(stage, encoder if stage is stages[-1] else None) for stage in stages],
        cost=_cost(stages),
        scores=_scores(scores),
        languages=", ".join(_languages(stages)),
        kept="end" if getattr(encoder.tokenizer, "truncation_side", "right") == "left" else "beginning",
        started_from=stages[0].get("started_from"),
        licenses={name: entry.get("license") for stage in stages for name, entry in stage.get("datasets", {}).items()},
        versions=_versions(stages[-1]),
    )
    return re.sub(r"\n{3,}", "\n\n", card)


def _front(stages: Sequence[Stage], config: ExportConfig) -> str:
    """The YAML that the Hub reads."""
    base = stages[0].get("started_from") or ""
    data = ModelCardData(
        # Of a Hub name only: a folder's means nothing to others.
        base_model=base if "/" in base else None,
        language=_languages(stages) or None,
        library_name="sentence-transformers",
        license=config.license,
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "sentence-similarity", *(["onnx"] if config.onnx else [])],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _cost(stages: Sequence[Stage]) -> list[tuple[str, str]]:
    """What the training took, from the run's own records: (what, how much)."""
    found = [
        f"{start.get('world_size', '?')} × {start.get('hardware') or start.get('device', '?')}"
        for stage in stages
        for start in stage.get("starts", [])
    ]
    hardware = "; ".join(dict.fromkeys(found)) or "not recorded"
    seconds: list[Any] = [stage.get("seconds") for stage in stages]
    time = "not recorded" if None in seconds else f"{sum(seconds) / 3600:.3g} h"
    return [("hardware (processes × device)", hardware), ("wall time of training", time)]


def _stage(stage: Stage, encoder: Encoder | None) -> Mapping[str, Any]:
    """One stage of training as the card shows it; `encoder` is the last one's, and settles what its settings left
    open."""
    settings = dict(stage.get("settings", {}))
    if encoder:
        settings["max_length"] = encoder.max_length
        settings["model"] = {**settings.get("model", {}), "pooling": encoder.pooling}
    columns = ["step", "world_size", "strategy", "precision"]
    return {
        "name": stage.get("name", "?"),
        "merged": [(name, f"{weight:.4g}") for name, weight in stage.get("merged", {}).items()],
        "objective": stage.get("objective", "?"),
        "steps": stage.get("steps", "?"),
        "started_from": stage.get("started_from"),
        "data": [_data(name, entry) for name, entry in stage.get("datasets", {}).items()],
        "starts": [
            [*(start.get(column, "") for column in columns), start.get("hardware") or start.get("device", "")]
            for start in stage.get("starts", [])
        ],
        "settings": (shown := yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).strip()),
        # Longer than any row of backticks inside, which would end the block.
        "fence": "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0)),
    }


def _data(name: str, entry: Mapping[str, Any]) -> tuple[Any, ...]:
    filters = [
        f"{stage.get('name', '?')}: {stage.get('kept', 0):,}, {sum(stage.get('dropped', {}).values()):,}"
        for stage in entry.get("stages", [])
    ]
    return (
        name,
        entry.get("kind", "?"),
        f"{entry['num_samples']:,}" if "num_samples" in entry else "?",
        entry.get("weight", 1.0),
        entry.get("license") or "not stated",
        "; ".join(filters) or "none",
        str(entry.get("fingerprint", "?"))[:12],
    )


def _scores(scores: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str, str]]:
    rows = []
    for task, metrics in scores.items():
        kind, _, path = task.partition(":")
        name = f"{kind}: {PurePath(path).name}" if path else task
        rows += [(name, metric, f"{value:.2f}") for metric, value in metrics.items()]
    return rows


def _languages(stages: Sequence[Stage]) -> list[str]:
    """Those that the data were filtered for; none where one data set was not."""
    found: list[list[str] | None] = [
        next((done.get("settings", {}).get("allowed") for done in entry["stages"] if done["name"] == "language"), None)
        for stage in stages
        for entry in stage.get("datasets", {}).values()
    ]
    return sorted({language for languages in found for language in languages or []}) if all(found) else []


def _versions(stage: Stage) -> list[tuple[str, str]]:
    trained = [(f"{name} (training)", str(value)) for name, value in stage.get("versions", {}).items()]
    commit = [("git commit (training)", str(stage["git_commit"]))] if stage.get("git_commit") else []
    now = [(f"{name} (export)", version(name)) for name in ("sentence-transformers", "transformers", "torch")]
    return [*trained, *commit, *now]


def _table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; nothing in a cell can end it."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "".join("| " + " | ".join(_cell(value) for value in line) + " |\n" for line in lines)


def _cell(value: Any) -> str:
    return markdown(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).replace("|", "\\|")
