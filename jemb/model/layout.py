"""The sentence-transformers folder layout: a transformer, a pooling and a normalisation module, told in JSON.

Written in the form that versions 3 to 6 read (the names of 6 would lock out the older ones); read in both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import transformers

from jemb.errors import InputError
from jemb.files import read_json
from jemb.model.pooling import Pooling

POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What a folder says about the model in it. None: it does not say."""

    transformer: Path
    """Folder with config.json, weights and tokenizer."""
    pooling: Pooling | None = None
    max_length: int | None = None
    lower_case: bool = False
    """Texts are lower-cased before the tokenizer sees them."""
    default_prompt: str | None = None
    """Name of the text that sentence-transformers puts before every input unless told otherwise."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Texts that sentence-transformers puts before inputs of a kind (`query`, `document`, …), by name."""
    truncate_dim: int | None = None
    """Only the first so many numbers of a vector are used (Matryoshka)."""


def write_layout(
    folder: Path,
    *,
    pooling: Pooling,
    dim: int,
    max_length: int,
    prompts: Mapping[str, str] | None = None,
    default_prompt: str | None = None,
    truncate_dim: int | None = None,
) -> None:
    """The JSON files beside the weights, configuration and tokenizer. dim: width of the token vectors."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    _write(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (path, name) in enumerate(modules)
        ],
    )
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    flags = {flag: mode == pooling for flag, mode in POOLING_FLAGS.items()}
    _write(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": dim, **flags, "include_prompt": True},
    )
    _write(folder / "2_Normalize" / "config.json", {})
    _write(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            # The oldest version that reads this layout: a reader older than the number here warns.
            "__version__": {
                "sentence_transformers": "3.0.0",
                "transformers": transformers.__version__,
                "pytorch": torch.__version__,
            },
            "prompts": dict(prompts or {}),
            "default_prompt_name": default_prompt,
            "similarity_fn_name": "cosine",
            **({} if truncate_dim is None else {"truncate_dim": truncate_dim}),
        },
    )


def read_layout(folder: Path) -> Layout:
    """What modules.json and its companions in `folder` say; a plain Hugging Face folder says nothing.

    Raises `InputError` for modules other than transformer, mean or cls pooling and normalisation.
    """
    if not (folder / "modules.json").is_file():
        return Layout(folder)
    modules = read_json(folder / "modules.json")
    names = [str(module["type"]).rpartition(".")[2] for module in modules]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise InputError(
            f"{folder / 'modules.json'}: the model is made of {' + '.join(names)}; "
            "jemb loads Transformer + Pooling (mean or cls), with or without Normalize. Choose another model."
        )
    transformer = folder / modules[0]["path"]
    settings = _read_optional(transformer / "sentence_bert_config.json")
    max_length = settings.get("max_seq_length")
    whole = _read_optional(folder / "config_sentence_transformers.json")
    return Layout(
        transformer,
        _read_pooling(folder / modules[1]["path"] / "config.json"),
        int(max_length) if max_length is not None else None,
        bool(settings.get("do_lower_case", False)),
        whole.get("default_prompt_name"),
        {name: text for name, text in (whole.get("prompts") or {}).items() if text},
        whole.get("truncate_dim"),
    )


def _read_pooling(path: Path) -> Pooling:
    settings = read_json(path)
    modes = settings.get("pooling_mode")  # sentence-transformers 6: a name or a list of names; before: flags
    if modes is None:
        modes = [mode for flag, mode in POOLING_FLAGS.items() if settings.get(flag)] or ["mean"]
    elif isinstance(modes, str):
        modes = [modes]
    if modes not in (["mean"], ["cls"]):
        raise InputError(f"{path}: pooling {' + '.join(modes)}; jemb has mean and cls. Choose another model.")
    return cast(Pooling, modes[0])


def _read_optional(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
