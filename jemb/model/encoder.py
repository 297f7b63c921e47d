"""The encoder: a `SentenceTransformer`, whose modules it calls. It knows neither pairs nor loss nor ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding
from torch import Tensor, nn
from torch.nn.functional import normalize

from jemb.core.records import Tokens
from jemb.model.folder import make_readable
from jemb.model.lora import merge_lora
from jemb.model.quiet import quiet
from jemb.model.tokenize import Tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAIN_CARD = """---
tags: [sentence-transformers, feature-extraction, sentence-similarity]
library_name: sentence-transformers
pipeline_tag: sentence-similarity
---

A text encoder: unit vectors of {dim} numbers, {pooling} pooling, texts cut at {max_length} tokens.
"""


class Encoder(nn.Module):
    """Tokens of N texts -> N unit vectors of `dim` numbers.

    model: its first module makes token vectors (or, of static embeddings, the text's vector), its last one normalises.
    max_length: tokens at which a text is cut; None: it is not. truncate_dim: use the first so many of the model's
    numbers, as a unit vector of their own (Matryoshka, arXiv 2205.13147); None: all. own_dropout: the model's own
    values of the configuration fields that training changed; `save` writes them.
    prompts, default_prompt: texts that belong before inputs of a kind (`query`, `document`), by name, and the name of
    the one before all others. Training and evaluation put them there; nothing here does.
    """

    def __init__(
        self, model: SentenceTransformer, *, max_length: int | None, own_dropout: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.max_length = max_length
        self.truncate_dim: int | None = model.truncate_dim
        model.truncate_dim = None  # it cuts vectors without giving them length 1 again
        self.default_prompt: str | None = model.default_prompt_name
        self.own_dropout = dict(own_dropout or {})
        self.lora = False  # whether adapters stand beside frozen weights
        self.tokenizer: Any = self.first.tokenizer
        if self.static:
            if max_length is not None:
                self.tokenizer.enable_truncation(max_length)
        else:
            self.tokenizer.padding_side = "right"  # as ours: absolute positions count from the left
            self.tokenizer.model_max_length = max_length
        self.tokenize = Tokenize(self.tokenizer, max_length)
        self.prompts = {name: text for name, text in model.prompts.items() if text}

    @property
    def prompts(self) -> dict[str, str]:
        return self._prompts

    @prompts.setter
    def prompts(self, texts: Mapping[str, str]) -> None:
        self._prompts = dict(texts)
        lengths = {text: self.prompt_length(text) for text in texts.values()}
        self.tokenize.prompt_lengths = {text: length for text, length in lengths.items() if length}

    @property
    def first(self) -> Any:
        """The module that takes token ids."""
        return self.model[0]

    @property
    def static(self) -> bool:
        """Whether a text's vector is the mean of its tokens' embeddings, and no more."""
        return isinstance(self.first, StaticEmbedding)

    @property
    def backbone(self) -> PreTrainedModel | None:
        """The model of transformers in it; None where there is none."""
        return self.model.transformers_model

    @property
    def embeddings(self) -> Tensor:
        """A row for each token id."""
        table: Any = self.first.embedding if self.backbone is None else self.backbone.get_input_embeddings()
        weights: Tensor = table.weight
        return weights

    @property
    def pooling(self) -> str:
        """How token vectors become one, in sentence-transformers' words."""
        found = self._pooling
        if found is None:
            return "mean" if self.static else "none"
        return found.pooling_mode if isinstance(found.pooling_mode, str) else "+".join(found.pooling_mode)

    @property
    def _pooling(self) -> Pooling | None:
        return next((module for module in self.model if isinstance(module, Pooling)), None)

    @property
    def plain(self) -> bool:
        """Whether the backbone, pooling and normalisation are all there is."""
        pooling = self._pooling
        return bool(
            pooling
            and pooling.include_prompt
            and not self.lora
            and [type(m) for m in self.heads] == [Pooling, Normalize]
        )

    @property
    def heads(self) -> list[nn.Module]:
        """The modules after the first."""
        return list(self.model)[1:]

    @property
    def dim(self) -> int:
        """Numbers in a vector, D."""
        return self.truncate_dim or self.full_dim

    @property
    def full_dim(self) -> int:
        """Numbers in a vector of the model."""
        dim = self.model.get_embedding_dimension()
        assert dim is not None
        return int(dim)

    def prompt(self, role: Literal["query", "document"], dataset: str = "") -> str:
        """What belongs before a query or before a passage, of that data set; "" where the model has no such prompt.

        A data set's own is that by the name `DATASET-ROLE`, as mteb calls the prompts of its tasks.
        """
        if dataset and (own := self.prompts.get(f"{dataset}-{role}")) is not None:
            return own
        return choose_prompt(self.prompts, role)

    def prompt_length(self, prompt: str) -> int:
        """The first tokens of a text with this prompt that pooling leaves out; 0: it takes all of them."""
        pooling = self._pooling
        if not prompt or pooling is None or pooling.include_prompt:
            return 0
        return int(self.model.preprocess(["."], prompt=prompt)["prompt_length"])

    def forward(self, tokens: Tokens) -> Tensor:
        """[N, L] -> [N, D], fp32 unit rows; the zero vector for a text without any token."""
        mask = tokens.attention_mask
        empty_N1 = mask.sum(1, keepdim=True) == 0
        first = self.first
        if self.static:
            counts = mask.sum(1)
            features = first({"input_ids": tokens.input_ids[mask.bool()], "offsets": counts.cumsum(0) - counts})
        else:
            # Attention over nothing is NaN in some kernels: a row without tokens attends to its first padding.
            seen = torch.cat([mask[:, :1] | empty_N1.to(mask.dtype), mask[:, 1:]], 1)
            features = first({"input_ids": tokens.input_ids, "attention_mask": seen})
        # What comes after the backbone is small and decides the last digits: at least fp32, under autocast too.
        with torch.autocast(mask.device.type, enabled=False):
            features = {name: _at_least_fp32(value) for name, value in features.items()}
            vectors = self._after(self.heads, features, tokens.prompt_lengths).masked_fill(empty_N1, 0)
            return normalize(vectors[:, : self.truncate_dim], dim=-1) if self.truncate_dim else vectors

    @staticmethod
    def _after(modules: list[nn.Module], features: dict[str, Any], prompt_lengths: Tensor | None) -> Tensor:
        def run(**more: Any) -> Tensor:
            values = {**features, **more}
            for module in modules:
                values = module(values)
            return values["sentence_embedding"]

        if prompt_lengths is None:
            return run()
        different = prompt_lengths.unique().tolist()  # one for each kind of text: pooling takes one number at a time
        vectors = run(prompt_length=different[0])
        for length in different[1:]:
            vectors = torch.where(prompt_lengths[:, None] == length, run(prompt_length=length), vectors)
        return vectors

    def save(self, folder: Path, card: str | None = None, *, adapter: bool = False) -> None:
        """Write a folder that sentence-transformers and plain transformers load; `card` becomes README.md.

        Adapters are added to the weights they stand beside, here too; with `adapter` they alone are written, which only
        sentence-transformers loads, where the model they belong to is at hand.
        """
        if self.lora and not adapter:
            merge_lora(self.model)
            self.lora = False
        folder.mkdir(parents=True, exist_ok=True)
        self.model.prompts, self.model.default_prompt_name = dict(self.prompts), self.default_prompt
        self.model.similarity_fn_name = "cosine"
        with quiet(), self.model.truncate_embeddings(self.truncate_dim):
            self.model.save(str(folder), create_model_card=False)
        make_readable(folder, self.max_length, self.own_dropout)
        text = card or PLAIN_CARD.format(dim=self.dim, pooling=self.pooling, max_length=self.max_length)
        (folder / "README.md").write_text(text, encoding="utf-8")


def choose_prompt(prompts: Mapping[str, str], role: Literal["query", "document"]) -> str:
    """That of the role, by any of the names that models give it; "" where there is none."""
    names = ["query"] if role == "query" else ["document", "passage", "corpus"]
    return next((prompts[name] for name in names if name in prompts), "")


def device_of(module: nn.Module) -> torch.device:
    """Where the module's parameters are."""
    return next(module.parameters()).device


def _at_least_fp32(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.to(torch.promote_types(value.dtype, torch.float32))
