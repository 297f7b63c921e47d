"""The encoder: a Hugging Face backbone, pooling, unit vectors. It knows neither pairs nor loss nor ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from jemb.model.layout import write_layout
from jemb.model.pooling import Pooling, pool
from jemb.model.quiet import quiet
from jemb.model.tokenize import Tokenize
from jemb.records import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PLAIN_CARD = """---
tags: [sentence-transformers, feature-extraction, sentence-similarity]
library_name: sentence-transformers
pipeline_tag: sentence-similarity
---

A text encoder: unit vectors of {dim} numbers, {pooling} pooling, texts cut at {max_length} tokens.
"""

TOKENIZER_CONFIG = {
    # The class that takes tokenizer.json as it is: those named after a model build some parts anew, in transformers 5.
    "tokenizer_class": "PreTrainedTokenizerFast",
    # What the model is given here; the class would add token types, which T5 refuses.
    "model_input_names": ["input_ids", "attention_mask"],
}


class Encoder(nn.Module):
    """Tokens of N texts -> N unit vectors of `dim` numbers.

    truncate_dim: use the first so many of the backbone's numbers, as a unit vector of their own (Matryoshka, arXiv
    2205.13147); None: all. prompts, default_prompt: texts that belong before inputs of a kind (`query`, `document`), by
    name, and the name of the one before all others. Training and evaluation put them there; nothing here does.
    own_dropout: the model's own values of the configuration fields that training changed; `save` writes them.
    """

    normalize = True

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: Pooling,
        max_length: int,
        truncate_dim: int | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt: str | None = None,
        own_dropout: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.tokenizer.padding_side = "right"  # as ours: absolute positions count from the left
        self.pooling: Pooling = pooling
        self.max_length = max_length
        self.truncate_dim = truncate_dim
        self.prompts = dict(prompts or {})
        self.default_prompt = default_prompt
        self.own_dropout = dict(own_dropout or {})
        self.tokenize = Tokenize(tokenizer, max_length)
        # Some backbones carry a head on the first token that never reaches our vectors. It is saved, not
        # trained: a parameter without gradient would stop DistributedDataParallel.
        head = getattr(backbone, "pooler", None)
        if isinstance(head, nn.Module):
            head.requires_grad_(False)

    @property
    def dim(self) -> int:
        """Numbers in a vector, D."""
        return self.truncate_dim or self.full_dim

    @property
    def full_dim(self) -> int:
        """Numbers in a token vector of the backbone."""
        return int(self.backbone.config.hidden_size)

    def prompt(self, role: Literal["query", "document"]) -> str:
        """What belongs before a query or before a passage; "" where the model has no such prompt."""
        names = ["query"] if role == "query" else ["document", "passage", "corpus"]
        return next((self.prompts[name] for name in names if name in self.prompts), "")

    def forward(self, tokens: Tokens) -> Tensor:
        """[N, L] -> [N, D], fp32 unit rows; the zero vector for a text without any token."""
        mask = tokens.attention_mask
        # Attention over nothing is NaN in some kernels: a row without tokens attends to its first padding.
        seen = mask.clone()
        seen[:, 0] |= mask.sum(1) == 0
        hidden = self.backbone(input_ids=tokens.input_ids, attention_mask=seen).last_hidden_state
        return self.pool(hidden, mask)

    def pool(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        """The backbone's token vectors [N, L, full_dim] -> unit vectors [N, dim]."""
        return pool(hidden_NLD, mask_NL, self.pooling, self.truncate_dim)

    def save(self, folder: Path, card: str | None = None) -> None:
        """Write a folder that sentence-transformers and plain transformers load; `card` becomes README.md."""
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            self.backbone.save_pretrained(folder)
            self.tokenizer.model_max_length = self.max_length
            self.tokenizer.save_pretrained(folder)
        _patch_json(folder / "config.json", self.own_dropout, remove=["_name_or_path"])
        # How the tokenizer was last called, and where it was loaded from, is not part of the model.
        _patch_json(folder / "tokenizer.json", {"padding": None, "truncation": None})
        _patch_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG, remove=["is_local", "local_files_only"])
        write_layout(
            folder,
            pooling=self.pooling,
            dim=self.full_dim,
            max_length=self.max_length,
            prompts=self.prompts,
            default_prompt=self.default_prompt,
            truncate_dim=self.truncate_dim,
        )
        text = card or PLAIN_CARD.format(dim=self.dim, pooling=self.pooling, max_length=self.max_length)
        (folder / "README.md").write_text(text, encoding="utf-8")
        # safetensors writes files that only their owner may read.
        mask = os.umask(0)
        os.umask(mask)
        for path in folder.glob("*.safetensors"):
            path.chmod(0o666 & ~mask)


def device_of(module: nn.Module) -> torch.device:
    """Where the module's parameters are."""
    return next(module.parameters()).device


def _patch_json(path: Path, values: Mapping[str, Any], *, remove: Sequence[str] = ()) -> None:
    content = {**json.loads(path.read_text(encoding="utf-8")), **values}
    kept = {key: value for key, value in content.items() if key not in remove}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
