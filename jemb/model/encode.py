"""Many texts to vectors, outside training.

Before: an encoder from `load.py`. After: `evaluate/`, `export/`, and `prepare/` by way of `app/models.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch

from jemb.core.progress import Progress
from jemb.model.encoder import Encoder

BLOCK = 4096
"""Texts tokenised at once; their ids are in memory, padded, until they are encoded."""
BATCH_TOKENS = {"cpu": 1024, "cuda": 65_536}
"""Tokens in one call of the encoder, padding included. On a core all-MiniLM-L6 takes 500 µs a token for 16 of them, 200
for 64, 150 from 256 on, and a little more again where its activations have left the cache."""
PADDING = 32
"""One token in so many may be padding: one more call of the encoder costs about as much as that."""


def encode(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    device: str | torch.device | None = None,
    progress: str | None = None,
    exact: bool = False,
    agree: Callable[[int], int] | None = None,
) -> np.ndarray:
    """Unit vectors of the texts, float32 [N, D], in the order of the texts; equal texts are encoded once.

    batch_size: most texts encoded at once; None: as many as batch_tokens allows. batch_tokens: most tokens encoded at
    once, padding included, though never less than one text; None: what suits the device. device: the encoder is moved
    there and stays; None: where it is. progress: the name of a bar on stderr. On a GPU the encoder computes in bfloat16
    (autocast) unless exact, on the CPU as its weights are.
    agree: the largest of a number over all ranks. Where ranks share weights, each must call the encoder equally often:
    one that has fewer batches encodes a text again. All ranks must give texts then, and not more than `BLOCK`.
    Texts of like length are encoded together, the longest first: memory runs out at once or not at all.
    """
    if device is not None:
        encoder.to(device)
    target = encoder.model.device
    numbers: dict[str, int] = {}
    place = [numbers.setdefault(text, len(numbers)) for text in texts]
    distinct = sorted(numbers, key=len, reverse=True)
    vectors = np.empty((len(distinct), encoder.dim), np.float32)
    waiting: list[tuple[np.ndarray, torch.Tensor]] = []

    def take() -> None:
        for rows, found in waiting:
            vectors[rows] = found.cpu().numpy()
        waiting.clear()

    training, packed = encoder.training, encoder.packed
    encoder.eval().packed = False  # in fp32 torch cannot attend without padding on a GPU
    try:
        with (
            Progress(progress, len(distinct), "text") as bar,
            torch.autocast("cuda", torch.bfloat16) if target.type == "cuda" and not exact else nullcontext(),
            # FSDP cannot train on weights put together in inference mode, or fails in it, as the version of torch is.
            torch.no_grad() if agree else torch.inference_mode(),
        ):
            for start in range(0, len(distinct), BLOCK):
                block = distinct[start : start + BLOCK]
                rows = np.array([numbers[text] for text in block], np.intp)
                tokens = encoder.tokenize(block)  # while a GPU computes the block before
                take()
                lengths = tokens.lengths
                limit = batch_tokens or BATCH_TOKENS.get(target.type, BATCH_TOKENS["cuda"])
                planned = list(batches(lengths, limit, batch_size or len(block)))
                lacking = agree(len(planned)) - len(planned) if agree else 0
                for chosen in planned:
                    part = tokens.rows(chosen, max(1, int(lengths[chosen[0]]))).to(target)
                    waiting.append((rows[chosen], encoder(part).float()))
                    bar.update(len(chosen))
                for _ in range(lacking):
                    encoder(part.rows([0]))
            take()
    finally:
        encoder.train(training).packed = packed
    return vectors if len(distinct) == len(texts) else vectors[place]


def batches(
    lengths: np.ndarray, batch_tokens: int | None, batch_size: int, *, padding: int = PADDING
) -> Iterator[np.ndarray]:
    """Numbers of the texts to encode together, the longest first in each batch and over all; each text once.

    lengths: tokens of each text, [N]. A batch of more than one text holds at most batch_tokens tokens, of which at most
    one in `padding` is padding; batch_tokens None: it may hold any.
    """
    order = np.argsort(-lengths, kind="stable")
    # Tokens of the texts before each place in that order: the padding of a batch is a difference of two of them.
    before = np.concatenate([[0], np.cumsum(lengths[order])])
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        most = min(batch_size, len(order) - start)
        if batch_tokens:
            most = min(most, max(1, batch_tokens // longest))
            slots = longest * np.arange(1, most + 1) - (before[start + 1 : start + 1 + most] - before[start])
            most = max(1, int(np.searchsorted(slots, batch_tokens // padding, side="right")))
        yield order[start : start + most]
        start += most


def fingerprint(encoder: Encoder) -> str:
    """Digest of all that decides the vectors of a text: weights, model configuration, tokenizer, limit and pooling."""
    digest = hashlib.blake2b(digest_size=16)
    config = encoder.backbone.config.to_json_string() if encoder.backbone else ""
    settings = [config, encoder.tokenize.fingerprint, *map(repr, encoder.heads), encoder.truncate_dim]
    digest.update(json.dumps(settings).encode())
    for name, weights in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {weights.dtype} {tuple(weights.shape)}".encode())
        digest.update(weights.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
