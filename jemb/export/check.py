"""Does the written folder give the trained encoder's vectors, to those who will load it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jemb.core.errors import Failure
from jemb.core.files import read_json
from jemb.export.onnx_file import INPUTS, OUTPUTS, PLACE
from jemb.model import Encoder, Tokenize, encode
from jemb.model.folder import FLAGS
from jemb.model.quiet import quiet

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


def check_same_vectors(
    encoder: Encoder, folder: Path, *, onnx: bool = False, trust_remote_code: bool = False
) -> dict[str, tuple[float, float]]:
    """{who loads `folder`: (largest difference from `encoder`'s vectors, what is allowed)}: sentence-transformers,
    transformers, and with `onnx` onnxruntime, each as its users would load it.

    Of a truncated model sentence-transformers gives the first numbers as they stand in the whole vector; the others,
    like `encoder`, give them length 1.
    Raises `Failure` when one of them cannot load the folder or the difference is above what is allowed.
    """
    encoder.cpu()
    # A text without tokens has no vector to compare: other code divides nought by nought there.
    texts = [text for text in TEXTS if int(encoder.tokenize([text]).attention_mask.sum())]
    ours = encode(encoder, texts)
    first = _untruncated(encoder, texts)[:, : encoder.dim]
    loaders: list[tuple[str, Callable[[Path, bool], EncodeTexts], np.ndarray, float]] = [
        ("sentence-transformers", _sentence_transformers, first, TOLERANCE),
    ]
    if encoder.plain and encoder.pooling in POOL:
        loaders.append(("transformers", _transformers, ours, TOLERANCE))
    if onnx:
        loaders.append(("onnxruntime", _onnxruntime, ours, ONNX_TOLERANCE))
    found: dict[str, tuple[float, float]] = {}
    for name, load, wanted, allowed in loaders:
        try:
            with quiet():
                theirs = load(folder, trust_remote_code)(texts)
        except Exception as error:
            raise Failure(f"{name} cannot use the exported folder ({type(error).__name__}: {error})") from error
        apart = np.abs(wanted - theirs).max(axis=1) if theirs.shape == wanted.shape else np.full(len(texts), np.nan)
        if not (apart <= allowed).all():  # so that NaN fails
            text = texts[int(np.argmax(apart))]
            raise Failure(
                f"{name} gives other vectors with the exported folder than the trained encoder: "
                f"{apart.max():.1e} apart for {text[:60]!r}, allowed {allowed:.0e}. Nothing was written."
            )
        found[name] = float(apart.max()), allowed
    return found


def _untruncated(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    dim, encoder.truncate_dim = encoder.truncate_dim, None
    try:
        return encode(encoder, texts)
    finally:
        encoder.truncate_dim = dim


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    return np.asarray(vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True))


def _sentence_transformers(folder: Path, code: bool) -> EncodeTexts:
    from sentence_transformers import SentenceTransformer  # seconds to import: only an export needs it

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=code)
    # Without the default prompt, which is put before a text and not part of it.
    return lambda texts: np.asarray(model.encode(list(texts), prompt="", show_progress_bar=False))


def _transformers(folder: Path, code: bool) -> EncodeTexts:
    """As a user would write it, from what the folder says alone."""
    import torch
    import transformers
    from transformers import AutoTokenizer

    kind = read_json(folder / "config.json")["architectures"][0]
    model = getattr(transformers, kind if kind.endswith("EncoderModel") else "AutoModel")
    model = model.from_pretrained(folder, trust_remote_code=code).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=code)
    max_length = read_json(folder / "sentence_bert_config.json")["max_seq_length"]
    pool = _pool(folder)
    dim = read_json(folder / "config_sentence_transformers.json").get("truncate_dim")

    @torch.inference_mode()
    def vectors(texts: Sequence[str]) -> np.ndarray:
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=max_length, return_tensors="pt")
        hidden = model(**tokens).last_hidden_state
        assert pool is not None
        return _unit(pool(hidden.numpy(), tokens["attention_mask"].numpy())[:, :dim])

    return vectors


def _onnxruntime(folder: Path, code: bool) -> EncodeTexts:
    """Both outputs of the ONNX file, in batches of several sizes and lengths; the finished vectors, where the token
    vectors pool to the same."""
    import onnxruntime  # of an extra
    from transformers import AutoTokenizer

    session = onnxruntime.InferenceSession(folder / PLACE, providers=["CPUExecutionProvider"])
    tokenize = Tokenize(
        AutoTokenizer.from_pretrained(folder, trust_remote_code=code),
        read_json(folder / "sentence_bert_config.json")["max_seq_length"],
    )
    pool = _pool(folder)

    def vectors(texts: Sequence[str]) -> np.ndarray:
        parts = []
        for start, stop in ((0, 1), (1, 12), (12, len(texts))):
            tokens = tokenize(texts[start:stop])
            ids, mask = tokens.input_ids.numpy(), tokens.attention_mask.numpy()
            hidden, finished = session.run(OUTPUTS, dict(zip(INPUTS, (ids, mask), strict=True)))
            if pool and np.abs(_unit(pool(hidden, mask)[:, : finished.shape[1]]) - finished).max() > ONNX_TOLERANCE:
                finished = np.full_like(finished, np.nan)
            parts.append(finished)
        return np.concatenate(parts)

    return vectors


POOL: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mean": lambda hidden, mask: (hidden * mask[:, :, None]).sum(1) / mask.sum(1)[:, None],
    "cls": lambda hidden, mask: hidden[:, 0],
    "lasttoken": lambda hidden, mask: hidden[np.arange(len(hidden)), mask.sum(1) - 1],
}


def _pool(folder: Path) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """(token vectors, mask) -> vectors, where that is all that comes after the backbone."""
    if len(read_json(folder / "modules.json")) != 3:
        return None
    settings = read_json(folder / "1_Pooling" / "config.json")
    modes = [mode for flag, mode in FLAGS.items() if settings.get(flag)]
    return POOL.get(modes[0]) if len(modes) == 1 else None
