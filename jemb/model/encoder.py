"""The encoder: a `SentenceTransformer`, whose modules it calls. It knows neither pairs nor loss nor ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding
from torch import Tensor, nn
from torch.nn.functional import normalize

from jemb.core.records import Tokens, to_device
from jemb.model.folder import make_readable, quiet
from jemb.model.packed.packing import Pack, run_packed
from jemb.model.tokenize import Tokenize, side_cut

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Encoder(nn.Module):
    """Tokens of N texts -> N unit vectors of `dim` numbers.

    model: its first module makes token vectors (or, of static embeddings, the text's vector), its last one normalises.
    max_length: tokens at which a text is cut; None: it is not. truncate_dim: use the first so many of the model's
    numbers, as a unit vector of their own (Matryoshka, arXiv 2205.13147); None: all. own_dropout: the model's own
    values of the configuration fields that training changed; `save` writes them.
    prompts, default_prompt: texts that belong before inputs of a kind (`query`, `document`), by name, and the name of
    the one before all others. Training and evaluation put them there; nothing here does.
    packed: leave padding out of the backbone's layers; off at first. `probe` tells whether the model can do so.
    compiled: `encode_together` has torch compile the packed backbone; off at first.
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
        # Where there are adapters, PEFT's model around the backbone; in a tuple it is no module of this one.
        self.adapted: tuple[Any, ...] = ()
        self.packed = False
        self.compiled = False
        self.tokenizer: Any = self.first.tokenizer
        if self.static:
            if max_length is not None:
                self.tokenizer.enable_truncation(max_length, direction=side_cut(self.tokenizer))
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
        out = [] if self._pooling is None or self._pooling.include_prompt else filter(None, texts.values())
        found = {prompt: self.model.preprocess(["."], prompt=prompt)["prompt_length"] for prompt in out}
        self.tokenize.prompt_lengths = {prompt: int(length) for prompt, length in found.items() if length}

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
    def lora(self) -> bool:
        """Whether adapters stand beside frozen weights."""
        return bool(self.adapted)

    def merge_lora(self) -> None:
        """Add each product to the matrix it stands beside, where there are any; what is left has no adapters."""
        for adapted in self.adapted:
            self.first.model = adapted.merge_and_unload().requires_grad_(True)
        self.adapted = ()

    @property
    def embeddings(self) -> Tensor:
        """A row for each token id."""
        table: Any = self.first.embedding if self.backbone is None else self.backbone.get_input_embeddings()
        weights: Tensor = table.weight
        return weights

    @property
    def pooling(self) -> str:
        """How token vectors become one, in sentence-transformers' words."""
        if self._pooling is None:
            return "mean" if self.static else "none"
        mode = self._pooling.pooling_mode
        return mode if isinstance(mode, str) else "+".join(mode)

    @property
    def _pooling(self) -> Pooling | None:
        return next((module for module in self.model if isinstance(module, Pooling)), None)

    @property
    def plain(self) -> bool:
        """Whether the backbone, pooling and normalisation are all there is."""
        kinds = [type(module) for module in self.heads]
        return kinds == [Pooling, Normalize] and bool(self.heads[0].include_prompt) and not self.lora

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

    def forward(self, tokens: Tokens, compiled_for: int | None = None) -> Tensor:
        """[N, L] -> [N, D], fp32 unit rows; the zero vector for a text without any token.

        compiled_for: of a packed encoder, run what torch compiles of the backbone for rows of multiples of so many
        tokens.
        """
        first, device = self.first, tokens.input_ids.device
        if self.static:
            pack = Pack(tokens)
            features = first({"input_ids": pack.id_T, "offsets": pack.start_N})
        else:
            # Attention over nothing is NaN in some kernels: a row without tokens attends to its first padding.
            seen = replace(tokens, lengths=tokens.lengths.clip(min=1))
            given = {"input_ids": tokens.input_ids.long(), "attention_mask": seen.attention_mask}
            features = {**given, **run_packed(first, seen, compiled_for)} if self.packed else first(given)
        # What comes after the backbone is small and decides the last digits: at least fp32, under autocast too.
        with torch.autocast(device.type, enabled=False):
            features = {name: at_least_fp32(value) for name, value in features.items()}
            prompts = tokens.prompt_lengths
            if prompts is None:
                vectors = self._pool(features)
            else:  # pooling takes one length at a time
                each = {n: self._pool({**features, "prompt_length": n}) for n in np.unique(prompts).tolist()}
                vectors = next(iter(each.values()))
                for n, found in each.items():
                    vectors = torch.where(to_device(torch.from_numpy(prompts == n), device)[:, None], found, vectors)
            if not tokens.lengths.all():
                vectors = vectors.masked_fill(to_device(torch.from_numpy(tokens.lengths == 0), device)[:, None], 0)
            return normalize(vectors[:, : self.truncate_dim], dim=-1) if self.truncate_dim else vectors

    def _pool(self, features: Mapping[str, Any]) -> Tensor:
        values: Any = dict(features)
        for module in self.heads:
            values = module(values)
        vectors: Tensor = values["sentence_embedding"]
        return vectors

    def save(self, folder: Path, card: str | None = None, *, adapter: bool = False) -> None:
        """Write a folder that sentence-transformers and plain transformers load; `card` becomes README.md, or that
        library's own.

        Adapters are added to the weights they stand beside, here too; with `adapter` they alone are written, which only
        sentence-transformers loads, where the model they belong to is at hand.
        """
        if not adapter:
            self.merge_lora()
        folder.mkdir(parents=True, exist_ok=True)
        self.model.prompts, self.model.default_prompt_name = dict(self.prompts), self.default_prompt
        if before_documents := choose_prompt(self.prompts, "document"):  # by this name mteb finds it, too
            self.model.prompts["document"] = before_documents
        self.model.similarity_fn_name = "cosine"
        if backbone := self.backbone:
            self.first.model = next(iter(self.adapted), backbone)
        with quiet(), self.model.truncate_embeddings(self.truncate_dim):
            self.model.save(str(folder), create_model_card=not card)
        if backbone:
            self.first.model = backbone
        make_readable(folder, self.max_length, self.own_dropout)
        if card:
            (folder / "README.md").write_text(card, encoding="utf-8")


def choose_prompt(prompts: Mapping[str, str], role: Literal["query", "document"]) -> str:
    """That of the role, by any of the names that models give it; "" where there is none."""
    names = ["query"] if role == "query" else ["document", "passage", "corpus"]
    return next((prompts[name] for name in names if name in prompts), "")


def at_least_fp32(value: Any) -> Any:
    """The same, but a tensor of 16 bit numbers in 32 bits."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.to(torch.promote_types(value.dtype, torch.float32))
