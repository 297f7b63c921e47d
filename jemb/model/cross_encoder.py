"""Cross-encoders: query and passage in one input, one number out. For checking triplets (arXiv 2307.11224, section 2).

Before: `app/models.py` hands its scores to `prepare/stages/cross_encoder.py`, which knows no models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sentence_transformers
import torch

from jemb.core.errors import InputError
from jemb.model.encode import BATCH_TOKENS, BLOCK, batches
from jemb.model.folder import quiet
from jemb.model.load import check_tokens, choose_max_length, opened


class CrossEncoder(sentence_transformers.CrossEncoder):
    """That of sentence-transformers, with one output, which says how well a passage answers a query."""

    def score(self, pairs: Sequence[tuple[str, str]], *, batch_tokens: int | None = None) -> np.ndarray:
        """Raw outputs (logits) of N pairs of query and passage: float32 [N], in their order.

        batch_tokens: tokens scored at once, padding included, though never less than one pair; None: what suits the
        device. Pairs of like length are scored together. Always in float32, as differences of 0.2 are to be told.
        """
        limit = batch_tokens or BATCH_TOKENS.get(self.device.type, BATCH_TOKENS["cuda"])
        scores = np.empty(len(pairs), np.float32)
        for start in range(0, len(pairs), BLOCK):
            block = list(pairs[start : start + BLOCK])
            with quiet():
                ids = self.tokenizer(*map(list, zip(*block, strict=True)), truncation=True)["input_ids"]
            for chosen in batches(np.array([len(row) for row in ids]), limit, len(block)):
                scores[start + chosen] = self.predict(
                    [block[at] for at in chosen],
                    batch_size=len(chosen),
                    activation_fn=torch.nn.Identity(),
                    show_progress_bar=False,
                )
        return scores


def load_cross_encoder(name_or_path: str, *, max_length: int | None = None) -> CrossEncoder:
    """An fp32 cross-encoder on the CPU, in evaluation mode, from a folder that sentence-transformers or transformers
    wrote, or a Hub name.

    max_length: tokens of query and passage together at which the longer of them is cut; None takes the longest the
    model allows (512 where it sets no bound). Raises `InputError` when there is no such model, when it cannot be
    loaded, or when it is no classifier with one output.
    """
    with opened(name_or_path, kind="CrossEncoder") as (folder, place, _):
        model = CrossEncoder(str(place), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})
        if model.num_labels != 1:
            raise InputError(f"{folder}: gives {model.num_labels} numbers for a pair; wanted a model with 1")
        if model.tokenizer.pad_token_id is None:
            raise InputError(f"{folder}: the tokenizer has no padding token")
        check_tokens(folder, model.tokenizer, len(model.transformers_model.get_input_embeddings().weight))
        model.max_seq_length = choose_max_length(folder, model, max_length)
    return model.eval()
