"""Does the written folder give the trained encoder's vectors, to those who will load it?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from jemb.errors import Failure
from jemb.files import read_json
from jemb.model import Encoder, encode
from jemb.model.load import model_class
from jemb.model.quiet import quiet

TOLERANCE = 1e-5
"""Largest difference of any number of any vector, in fp32."""

TEXTS = [
    "",
    "a",
    "?",
    "A man is playing a guitar.",
    "a man is playing a guitar",
    "A MAN IS PLAYING A GUITAR!!!",
    "How do I read a file line by line in Python?",
    "open(file, mode='r'): Open file and return a stream. Raise OSError upon failure.",
    "def add(a: int, b: int) -> int:\n    return a + b",
    "The film was not bad at all, though nobody would call it good.",
    "There is no evidence that the treatment works.",
    "E = mc²; ∑ᵢ xᵢ ≤ 1; 5 µm ± 0.2",
    "3.14159, 1,000,000 and 0xFF",
    "Der Zug nach Köln fährt um 7:45 Uhr ab.",
    "L'été dernier, nous sommes allés à la plage.",
    "¿Dónde está la biblioteca?",
    "Где находится библиотека?",
    "图书馆在哪里？",
    "図書館はどこですか。",
    "도서관이 어디에 있나요?",
    "أين المكتبة؟",
    "पुस्तकालय कहाँ है?",
    "ห้องสมุดอยู่ที่ไหน",
    "emoji: 🙂👩‍👩‍👧‍👦🏳️‍🌈",
    "combining: e\u0301 n\u0303 and composed: é ñ",
    "zero\u200bwidth and soft\u00adhyphen and non\u00a0breaking",
    "tabs\tand\nnew lines\r\nand   many    spaces",
    "[CLS] special [SEP] tokens [MASK] </s> <pad> as text",
    "https://example.org/a/b?c=d&e=%20f#g user@example.org",
    "Donaudampfschifffahrtsgesellschaftskapitänsmützenständer",
    "x" * 300,
    "word " * 700 + "end",
    "The quick brown fox jumps over the lazy dog. " * 40 + "Then it rests.",
    "Mixed: the 日本語 and the Ελληνικά and the עברית in one line.",
]
"""Texts of many scripts and lengths, the empty one and over-long ones included. None begins or ends with
white space, which sentence-transformers before 6 cut off."""

EncodeTexts = Callable[[Sequence[str]], np.ndarray]


def check_same_vectors(encoder: Encoder, folder: Path) -> float:
    """The largest difference between `encoder` and `folder`, loaded by sentence-transformers and transformers.

    Raises `Failure` when one of them cannot load the folder or the difference is above `TOLERANCE`.
    """
    encoder.cpu()
    # A text without tokens has no vector to compare: other code divides nought by nought there.
    texts = [text for text in TEXTS if int(encoder.tokenize([text]).attention_mask.sum())]
    ours = encode(encoder, texts)
    worst = 0.0
    for name, load in (("sentence-transformers", _sentence_transformers), ("transformers", _transformers)):
        try:
            with _silence():
                theirs = load(folder)(texts)
        except Exception as error:
            raise Failure(f"{name} cannot use the exported folder ({type(error).__name__}: {error})") from error
        apart = np.abs(ours - theirs).max(axis=1) if theirs.shape == ours.shape else np.full(len(ours), np.nan)
        if not (apart <= TOLERANCE).all():  # so that NaN fails
            text = texts[int(np.argmax(apart))]
            raise Failure(
                f"{name} gives other vectors with the exported folder than the trained encoder: "
                f"{apart.max():.1e} apart for {text[:60]!r}, allowed {TOLERANCE:.0e}. Nothing was written."
            )
        worst = max(worst, float(apart.max()))
    return worst


def _sentence_transformers(folder: Path) -> EncodeTexts:
    from sentence_transformers import SentenceTransformer  # seconds to import: only an export needs it

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return lambda texts: np.asarray(model.encode(list(texts), show_progress_bar=False))


def _transformers(folder: Path) -> EncodeTexts:
    """As a user would write it, from what the folder says alone."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    model = model_class(AutoConfig.from_pretrained(folder)).from_pretrained(folder).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    max_length = read_json(folder / "sentence_bert_config.json")["max_seq_length"]
    is_mean = read_json(folder / "1_Pooling" / "config.json")["pooling_mode_mean_tokens"]

    @torch.inference_mode()
    def vectors(texts: Sequence[str]) -> np.ndarray:
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=max_length, return_tensors="pt")
        hidden = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        pooled = (hidden * mask).sum(1) / mask.sum(1) if is_mean else hidden[:, 0]
        return (pooled / pooled.norm(dim=1, keepdim=True)).numpy()

    return vectors


@contextmanager
def _silence() -> Iterator[None]:
    logger = logging.getLogger("sentence_transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet():
            yield
    finally:
        logger.setLevel(level)
