"""Cross-encoders: query and passage in one input, one number out. For checking triplets (arXiv 2307.11224, section 2).

Before: `app/models.py` hands its scores to `prepare/cross_encoder.py`, which knows no models.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from jemb.core.errors import InputError
from jemb.model.encode import BATCH_TOKENS, BLOCK, batches
from jemb.model.encoder import device_of
from jemb.model.folder import auto_maps, check_code, read_modules
from jemb.model.load import DEFAULT_MAX_LENGTH, find_folder, first_line, load_tokenizer, num_positions
from jemb.model.quiet import quiet


class CrossEncoder(nn.Module):
    """A sequence classifier with one output, which says how well a passage answers a query.

    max_length: tokens of query and passage together at which the longer of them is cut, special tokens included.
    """

    def __init__(self, classifier: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.tokenizer = tokenizer
        self.max_length = max_length

    @torch.inference_mode()
    def score(self, pairs: Sequence[tuple[str, str]], *, batch_tokens: int | None = None) -> np.ndarray:
        """Raw outputs (logits) of N pairs of query and passage: float32 [N], in their order.

        batch_tokens: tokens scored at once, padding included, though never less than one pair; None: what suits the
        device. Pairs of like length are scored together. Always in float32, as differences of 0.2 are to be told.
        """
        device = device_of(self)
        limit = batch_tokens or BATCH_TOKENS.get(device.type, BATCH_TOKENS["cuda"])
        scores = np.empty(len(pairs), np.float32)
        was_training = self.training
        self.eval()
        try:
            for start in range(0, len(pairs), BLOCK):
                inputs = self._tokenize(pairs[start : start + BLOCK])
                lengths = np.array([len(ids) for ids in inputs["input_ids"]])
                for chosen in batches(lengths, limit, len(lengths)):
                    batch = {name: self._pad(name, [rows[at] for at in chosen]) for name, rows in inputs.items()}
                    logits = self.classifier(**{name: ids.to(device) for name, ids in batch.items()}).logits
                    scores[start + chosen] = logits[:, 0].float().cpu().numpy()
        finally:
            self.train(was_training)
        return scores

    def _tokenize(self, pairs: Sequence[tuple[str, str]]) -> dict[str, list[list[int]]]:
        queries, passages = [query for query, _ in pairs], [passage for _, passage in pairs]
        with quiet():
            encoded = self.tokenizer(queries, passages, truncation="longest_first", max_length=self.max_length)
        return dict(encoded)

    def _pad(self, name: str, rows: list[list[int]]) -> torch.Tensor:
        fill = {"input_ids": self.tokenizer.pad_token_id, "token_type_ids": self.tokenizer.pad_token_type_id}
        width = max(map(len, rows))
        return torch.tensor([row + [fill.get(name, 0)] * (width - len(row)) for row in rows])


def load_cross_encoder(name_or_path: str, *, max_length: int | None = None) -> CrossEncoder:
    """An fp32 cross-encoder on the CPU, in evaluation mode, from a folder that sentence-transformers or transformers
    wrote, or a Hub name.

    max_length: None takes the longest the model allows (512 where it sets no bound). Raises `InputError` when there is
    no such model, when it cannot be loaded, or when it is no classifier with one output.
    """
    folder = _classifier_folder(find_folder(name_or_path))
    check_code(folder, auto_maps(folder))
    with quiet():
        classifier = _load_classifier(folder)
        tokenizer = load_tokenizer(folder)
    if tokenizer.pad_token_id is None:
        raise InputError(f"{folder}: the tokenizer has no padding token")
    positions = num_positions(classifier)
    if max_length is not None and positions is not None and max_length > positions:
        raise InputError(f"{folder}: max_length {max_length} is more than the {positions} positions of this model")
    own = min(int(tokenizer.model_max_length), positions or DEFAULT_MAX_LENGTH)
    return CrossEncoder(classifier, tokenizer, max_length or own).eval()


def _classifier_folder(folder: Path) -> Path:
    """Where config.json and weights are; sentence-transformers 6 lists the modules of a cross-encoder too."""
    modules = read_modules(folder)
    if not modules:
        return folder
    names = [kind.rpartition(".")[2] for kind, _ in modules]
    if names != ["Transformer"]:
        raise InputError(
            f"{folder / 'modules.json'}: the model is made of {' + '.join(names)}; wanted a cross-encoder of one "
            "Transformer with a classification head"
        )
    return modules[0][1]


def _load_classifier(folder: Path) -> PreTrainedModel:
    try:
        # A head that the folder lacks is drawn at random: in a fork, so that loading leaves no trace.
        with torch.random.fork_rng(devices=[]):
            classifier, info = AutoModelForSequenceClassification.from_pretrained(
                folder, output_loading_info=True, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise InputError(f"{folder}: cannot be loaded as a cross-encoder ({first_line(error)})") from None
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            f"{folder}: no cross-encoder: {len(missing)} weights of its classification head are not there "
            f"({', '.join(missing[:3])})"
        )
    if classifier.config.num_labels != 1:
        raise InputError(f"{folder}: gives {classifier.config.num_labels} numbers for a pair; wanted a model with 1")
    return classifier.float()
