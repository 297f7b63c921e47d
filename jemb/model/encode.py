"""Many texts to vectors, outside training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from jemb.model.encoder import Encoder, device_of
from jemb.records import Tokens


@torch.inference_mode()
def encode(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    progress: str | None = None,
) -> np.ndarray:
    """Unit vectors of the texts, float32 [N, D], in the order of the texts.

    device: the encoder is moved there and stays; None: where it is. progress: the name of a bar on stderr.
    Texts of like length are encoded together, the longest first: memory runs out at once or not at all.
    """
    if device is not None:
        encoder.to(device)
    target = device_of(encoder)
    vectors = np.empty((len(texts), encoder.dim), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    was_training = encoder.training
    encoder.eval()
    try:
        with tqdm(total=len(texts), desc=progress, unit="text", disable=progress is None) as bar:
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                tokens = encoder.tokenize([texts[i] for i in chosen])
                tokens = Tokens(tokens.input_ids.to(target), tokens.attention_mask.to(target))
                vectors[chosen] = encoder(tokens).float().cpu().numpy()
                bar.update(len(chosen))
    finally:
        encoder.train(was_training)
    return vectors
