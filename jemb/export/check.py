"""Does the written folder give the trained encoder's vectors, to those who will load it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jemb.core.errors import Failure
from jemb.core.files import read_json
from jemb.evaluate.vectors import unit_rows
from jemb.export.onnx_file import INPUTS, OUTPUTS, PLACE
from jemb.model import Encoder, Tokenize, encode
from jemb.model.folder import quiet

TOLERANCE = 1e-5
"""Largest difference of any number of any vector, in fp32."""
ONNX_TOLERANCE = 1e-4
"""The same for onnxruntime, whose kernels round in other places, and more so the deeper the model. Seen: 1e-7 (2
layers, 128 wide), 2e-7 (all-MiniLM-L6-v2)."""

TEXTS = [
    "",
    "a",
    "?",
    "A man is playing a guitar.",
    "How do I read a file line by line in Python?",
    "open(file, mode='r'): Open file and return a stream. Raise OSError upon failure.",
    "E = mc²; ∑ᵢ xᵢ ≤ 1; 5 µm ± 0.2",
    "Der Zug nach Köln fährt um 7:45 Uhr ab.",
    "Где находится библиотека?",
    "图书馆在哪里？",
    "أين المكتبة؟",
    "पुस्तकालय कहाँ है?",
    "emoji: 🙂👩‍👩‍👧‍👦🏳️‍🌈",
    "combining: e\u0301 n\u0303 and composed: é ñ",
    "zero\u200bwidth and soft\u00adhyphen and non\u00a0breaking",
    "TABS\tand\nnew lines\r\nand   many    spaces",
    "[CLS] special [SEP] tokens [MASK] </s> <pad> as text",
    "x" * 300,
    "word " * 700 + "end",
]
"""Texts of many scripts and lengths, the empty one and over-long ones included. None begins or ends with
white space, which sentence-transformers before 6 cut off."""

EncodeTexts = Callable[[Sequence[str]], np.ndarray]


def check_same_vectors(
    encoder: Encoder, folder: Path, *, onnx: bool = False, trust_remote_code: bool = False
) -> dict[str, tuple[float, float]]:
    """{who loads `folder`: (largest difference from `encoder`'s vectors, what is allowed)}: sentence-transformers
    and with `onnx` onnxruntime, each as its users would load it.

    Of a truncated model sentence-transformers gives the first numbers as they stand in the whole vector: here they get
    length 1. Raises `Failure` when one of them cannot load the folder or the difference is above what is allowed.
    """
    encoder.cpu()
    # A text without tokens has no vector to compare: other code divides nought by nought there.
    texts = [text for text in TEXTS if encoder.tokenize([text]).lengths[0]]
    ours = encode(encoder, texts)
    loaders = [("sentence-transformers", _sentence_transformers, TOLERANCE)]
    if onnx:
        loaders.append(("onnxruntime", _onnxruntime, ONNX_TOLERANCE))
    found: dict[str, tuple[float, float]] = {}
    for name, load, allowed in loaders:
        try:
            with quiet():
                theirs = load(folder, trust_remote_code)(texts)
        except Exception as error:
            raise Failure(f"{name} cannot use the exported folder ({type(error).__name__}: {error})") from error
        theirs = theirs if encoder.truncate_dim is None else unit_rows(theirs)
        apart = np.abs(ours - theirs).max(axis=1) if theirs.shape == ours.shape else np.full(len(texts), np.nan)
        if not (apart <= allowed).all():  # so that NaN fails
            text = texts[int(np.argmax(apart))]
            raise Failure(
                f"{name} gives other vectors with the exported folder than the trained encoder: "
                f"{apart.max():.1e} apart for {text[:60]!r}, allowed {allowed:.0e}. Nothing was written."
            )
        found[name] = float(apart.max()), allowed
    return found


def _sentence_transformers(folder: Path, code: bool) -> EncodeTexts:
    from sentence_transformers import SentenceTransformer  # seconds to import: only an export needs it

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=code)
    # Without the default prompt, which is put before a text and not part of it.
    return lambda texts: np.asarray(model.encode(list(texts), prompt="", show_progress_bar=False))


def _onnxruntime(folder: Path, code: bool) -> EncodeTexts:
    """The finished vectors of the ONNX file, in batches of several sizes and lengths."""
    import onnxruntime  # of an extra
    from transformers import AutoTokenizer

    session = onnxruntime.InferenceSession(folder / PLACE, providers=["CPUExecutionProvider"])
    tokenize = Tokenize(
        AutoTokenizer.from_pretrained(folder, trust_remote_code=code),
        read_json(folder / "sentence_bert_config.json")["max_seq_length"],
    )

    def vectors(texts: Sequence[str]) -> np.ndarray:
        parts = []
        for start, stop in ((0, 1), (1, 12), (12, len(texts))):
            tokens = tokenize(texts[start:stop])
            inputs = (tokens.input_ids.long().numpy(), tokens.attention_mask.numpy())
            parts.append(session.run(OUTPUTS, dict(zip(INPUTS, inputs, strict=True)))[-1])
        return np.concatenate(parts)

    return vectors
