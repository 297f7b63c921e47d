"""The probe: before anything is made of an encoder, its vectors are compared with those sentence-transformers gives.

Before: `load.py`. After: training, evaluation, mining, tokenising, export. It ends a whole kind of faults, for models
that nobody has thought of: whatever would be read, cut, padded or pooled in another way here than there is refused.
"""

from __future__ import annotations

import numpy as np
import torch

from jemb.core.errors import InputError
from jemb.model.encode import encode
from jemb.model.encoder import Encoder
from jemb.model.folder import quiet

ALLOWED = 1e-4
"""Largest difference of any number of two unit vectors in fp32 that are to be the same."""
LONG = 40
"""Tokens of the texts whose vectors are compared; all limits are tried on the token ids, which cost little."""
WIDE = 600
"""Tokens of the longest text on which packing is compared."""
WORDS = "The film wasn't bad at all: 27 people SAW it, in Köln, 図書館 and Москва. "


def probe(encoder: Encoder, name: str) -> None:
    """Raises `InputError`, with `name` for the model, where a text's ids or vector are not those that
    sentence-transformers gives it as a query, as a document and with each of the encoder's prompts, or change with the
    texts beside it."""
    was_training = encoder.training
    encoder.eval()
    try:
        with quiet():
            if encoder.packed:
                _compare_packed(encoder, name)
            ways: list[tuple[str, str | None]] = [(encoder.prompt(role), role) for role in ("query", "document")]
            told = {prompt for prompt, _ in ways}
            for prompt, role in [*ways, *((text, None) for text in sorted({"", *encoder.prompts.values()} - told))]:
                _compare_ids(encoder, name, prompt, role)
                _compare_vectors(encoder, name, prompt, role)
    finally:
        encoder.train(was_training)


def _compare_ids(encoder: Encoder, name: str, prompt: str, role: str | None) -> None:
    texts = ["", "a", WORDS, WORDS * (1 + min(encoder.max_length or 0, 100_000) // 8)]
    ours = [encoder.tokenize.flat([prompt + text])[0].tolist() for text in texts]
    if prompt and encoder.max_length and ours[1] == ours[2]:
        raise InputError(f"{name}: the prompt {prompt[:60]!r} alone fills the {encoder.max_length} tokens of a text")
    for text, ids in zip(texts, ours, strict=True):
        found = encoder.model.preprocess([text], prompt=prompt or None, task=role)
        if ids and ids != (theirs := found["input_ids"].reshape(-1).tolist()):
            _refuse(name, f"the tokens of {prompt[:30] + text[:40]!r} are not", f"{ids[:8]} against {theirs[:8]}")


def _compare_vectors(encoder: Encoder, name: str, prompt: str, role: str | None) -> None:
    """Alone, and beside longer texts, which is what neither padding nor their tokens may reach."""
    texts = ["a", "It was not bad.", WORDS, WORDS * (1 + LONG // 20)]
    texts = [text for text in texts if len(encoder.tokenize.flat([prompt + text])[0])]
    call = getattr(encoder.model, f"encode_{role}" if role else "encode")
    theirs = call(texts, prompt=prompt, batch_size=1, show_progress_bar=False)[:, : encoder.dim]
    theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    alone = np.concatenate([encode(encoder, [prompt + text], exact=True) for text in texts])
    with torch.no_grad():
        together = encoder(encoder.tokenize([prompt + text for text in texts])).float().numpy()
    for vectors, words in ((alone, "the"), (together, "beside longer texts the")):
        apart = np.abs(vectors - theirs).max(axis=1)
        if not (apart <= ALLOWED).all():  # so that NaN fails
            worst = int(np.argmax(np.nan_to_num(apart, nan=np.inf)))
            of = f"{words} vector of {(prompt + texts[worst])[:40]!r} is not"
            _refuse(name, of, f"{apart[worst]:.1e} apart")


def _compare_packed(encoder: Encoder, name: str) -> None:
    """With padding and without, more tokens at once than the model has positions, and than a window of its is wide."""
    tokens = encoder.tokenize(["a", WORDS, *[WORDS * (1 + WIDE // 8)] * 2]).rows(slice(None), WIDE)
    try:
        with torch.no_grad():
            packed = encoder(tokens)
            encoder.packed = False
            apart = float((packed - encoder(tokens)).abs().max())
        seen = "" if apart <= ALLOWED else f"vectors without padding are {apart:.1e} apart from those with it"
    except Exception as error:  # whatever a model raises that is given other arguments
        seen = str(error) or type(error).__name__
    finally:
        encoder.packed = True
    if seen or encoder.static:
        kind = type(encoder.backbone or encoder.first).__name__
        raise InputError(f"{name}: model.packing=on: {kind} cannot be packed ({seen}); use model.packing=off")


def _refuse(name: str, what: str, seen: str) -> None:
    raise InputError(
        f"{name}: {what} the one that sentence-transformers gives ({seen}), so training and use would differ. Such a "
        "model cannot be used here; where its folder is your own, look at its pooling, prompts and tokenizer"
    )
