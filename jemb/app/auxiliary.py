"""The auxiliary encoder as the function that `prepare/` asks for; `prepare/` knows no models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jemb.config import ConsistencyConfig
from jemb.prepare import Encode


def make_auxiliary_encoder(config: ConsistencyConfig) -> Callable[[str], Encode]:
    """name or folder -> function from texts to unit vectors, on the GPU where there is one."""

    def make(name: str) -> Encode:
        import torch

        from jemb.model import encode, find_auxiliary, load_encoder

        encoder = load_encoder(find_auxiliary(name), max_length=config.max_length)
        device = "cuda" if torch.cuda.is_available() else "cpu"

        def encode_texts(texts: Sequence[str]) -> np.ndarray:
            return encode(encoder, texts, batch_size=config.batch_size, device=device, progress="encode")

        return encode_texts

    return make
