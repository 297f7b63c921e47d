"""Our models as mteb wants them: an encode function, and BM25.

Before: `mteb_names.py` imports mteb. After: `mteb_tasks.py` gives these to `mteb.evaluate`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.types import PromptType

from jemb.evaluate.bm25 import rank_bm25
from jemb.evaluate.vectors import Encode, Prompts, Role, check_finite, unit_rows


def model_meta(name: str) -> ModelMeta:
    """What mteb wants to know of a model that is not in its list."""
    return ModelMeta.create_empty({"name": f"jemb/{name}", "revision": "local"})


class MtebEncoder(AbsEncoder):
    """An mteb encoder whose vectors are those of `encode`, with its prompts as sentence-transformers would put them."""

    def __init__(self, encode: Encode, name: str = "model") -> None:
        self.encode_texts = encode
        self.prompts: Prompts = getattr(encode, "prompts", None) or Prompts()
        self.mteb_model_meta = model_meta(name)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **options: Any,
    ) -> np.ndarray:
        """float32 [N, D], unit rows. inputs: batches with a column `text`."""
        role: Role | None = prompt_type.value if prompt_type else None
        prompt = self.prompts.choose(role, task_metadata.name, task_metadata.type)
        texts = [prompt + text for batch in inputs for text in batch["text"]]
        vectors = np.asarray(self.encode_texts(texts), np.float32)
        check_finite(vectors, texts)
        return unit_rows(vectors)


class MtebBm25:
    """An mteb search model: `bm25.rank_bm25`."""

    mteb_model_meta = model_meta("bm25")

    def index(self, corpus: Any, **options: Any) -> None:
        self.passages = {row["id"]: f"{row.get('title') or ''} {row['text']}" for row in corpus}

    def search(
        self, queries: Any, *, top_k: int, top_ranked: Any = None, **options: Any
    ) -> dict[str, dict[str, float]]:
        texts = {row["id"]: f"{row['text']} {row.get('instruction') or ''}" for row in queries}
        return rank_bm25(texts, self.passages, top_k, top_ranked)
