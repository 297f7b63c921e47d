"""Encoders from folders and from the Hugging Face Hub."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from tokenizers import normalizers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from jemb.errors import InputError
from jemb.model.dropout import set_dropout, set_dropout_layers
from jemb.model.encoder import Encoder
from jemb.model.layout import read_layout
from jemb.model.pooling import Pooling
from jemb.model.quiet import quiet
from jemb.run_folder import RunFolder, is_run

log = logging.getLogger(__name__)

ENCODER_OF = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "longt5": "LongT5EncoderModel",
}
"""The encoder half of encoder-decoder models, by model type."""
DEFAULT_MAX_LENGTH = 512
"""Tokens, where neither folder, tokenizer nor positions give a bound; the paper's."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
HUB_FILES = ["*.json", "*.txt", "*.model"]
HUB_IGNORED = ["onnx/*", "openvino/*", "*.fp16.safetensors", "*.fp32.safetensors", "*.non_ema.safetensors"]


def load_encoder(
    name_or_path: str,
    *,
    pooling: Pooling | None = None,
    dropout: float | None = None,
    max_length: int | None = None,
) -> Encoder:
    """An fp32 encoder on the CPU from a run, sentence-transformers or Hugging Face folder, or a Hub name.

    pooling, max_length: None takes what the folder says, else mean and the longest the model allows (512
    where it sets no bound). dropout: probability in training mode, in every layer; None: the model's own.
    Raises `InputError` when there is no such model, when it cannot be loaded, or when it lacks weights.
    """
    layout = read_layout(find_folder(name_or_path))
    folder = layout.transformer
    with quiet():
        config = _load_config(folder)
        own = set_dropout(config, dropout) if dropout is not None else {}
        backbone = _load_backbone(folder, config)
        tokenizer = load_tokenizer(folder)
    if dropout is not None:
        set_dropout_layers(backbone, dropout)
    if layout.lower_case:
        _lower_case(tokenizer)
    # Entries added beyond the vocabulary, like T5's unused sentinels, need no embedding.
    entries = tokenizer.vocab_size
    if entries > backbone.config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {entries} entries, the model only {backbone.config.vocab_size} embeddings"
        )
    return Encoder(
        backbone,
        tokenizer,
        pooling=pooling or layout.pooling or "mean",
        max_length=_choose_max_length(folder, backbone, tokenizer, max_length, layout.max_length),
        truncate_dim=check_truncate_dim(folder, layout.truncate_dim, backbone.config.hidden_size),
        prompts=layout.prompts,
        default_prompt=layout.default_prompt,
        own_dropout=own,
    )


def model_class(config: Any) -> Any:
    """The transformers class that has only the encoder of such a model."""
    name = ENCODER_OF.get(config.model_type)
    return getattr(transformers, name) if name else AutoModel


def find_folder(name_or_path: str) -> Path:
    """The model folder of a run, a folder or a Hub name. Raises `InputError` where there is none."""
    path = Path(name_or_path).expanduser()
    if is_run(path):
        run = RunFolder(path)
        if not run.model.is_dir():
            raise InputError(
                f"{path}: this run has not finished, so it has no model/ yet. Finish it with the same "
                f"`jemb train` command, or take its last checkpoint: jemb export run={path} output=DIR"
            )
        record = run.read_record()
        if record.get("status") != "finished":
            log.warning("%s: the run is not finished; this is its model of step %s", path, record.get("model_step"))
        return run.model
    if path.is_dir():
        if not any((path / name).is_file() for name in ("modules.json", "config.json")):
            raise InputError(
                f"{path}: no model here (no run.json, modules.json or config.json). Wanted: a run folder, an "
                "exported, sentence-transformers or Hugging Face folder, or a Hugging Face name."
            )
        return path
    if path.exists() or name_or_path.startswith((".", "~", "/")) or not HUB_NAME.fullmatch(name_or_path):
        raise InputError(f"{name_or_path}: no such folder")
    return _download(name_or_path)


def _download(name: str) -> Path:
    """The folder of a model of the Hugging Face Hub, from its local cache where that has it."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=HUB_FILES))
        snapshot_download(name, allow_patterns=["*.safetensors"], ignore_patterns=HUB_IGNORED)  # what is there stays
        if not any(folder.rglob("*.safetensors")):
            snapshot_download(name, allow_patterns=["*.bin"], ignore_patterns=HUB_IGNORED)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name}: no such folder, and the Hugging Face Hub did not give it ({first_line(error)}). Give "
            "the path of a model folder, correct the name, or run once with a network (no HF_HUB_OFFLINE)."
        ) from None
    return folder


def _load_config(folder: Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: config.json cannot be read as a model ({first_line(error)})") from None
    if config.is_encoder_decoder and config.model_type not in ENCODER_OF:
        raise InputError(
            f"{folder}: '{config.model_type}' is an encoder-decoder; wanted one of {', '.join(ENCODER_OF)}"
        )
    return config


def _load_backbone(folder: Path, config: Any) -> PreTrainedModel:
    try:
        # Weights that the checkpoint lacks are drawn at random: in a fork, so that loading leaves no trace.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            backbone, info = model_class(config).from_pretrained(folder, config=config, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise InputError(f"{folder}: the weights cannot be loaded ({first_line(error)})") from None
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InputError(f"{folder}: {len(missing)} of the model's weights are not in it ({', '.join(missing[:3])}, …)")
    backbone.config._name_or_path = ""
    return backbone.float()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`. Raises `InputError` where there is none."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise InputError(f"{folder}: the tokenizer cannot be loaded ({first_line(error)})") from None


def _lower_case(tokenizer: PreTrainedTokenizerBase) -> None:
    """What sentence-transformers does for `do_lower_case`, in the tokenizer itself and so saved with it."""
    backend = tokenizer.backend_tokenizer
    after = [backend.normalizer] if backend.normalizer is not None else []
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *after])


def check_truncate_dim(folder: Path | str, asked: int | None, dim: int) -> int | None:
    """`asked`, or `InputError` where a model of width `dim` has not so many numbers."""
    if asked is not None and not 1 <= asked <= dim:
        raise InputError(f"{folder}: truncate_dim is {asked}; its vectors have {dim} numbers: wanted 1 to {dim}")
    return asked


def _choose_max_length(
    folder: Path,
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: int | None,
    said: int | None,
) -> int:
    positions = num_positions(backbone)
    if asked is not None:
        if positions is not None and asked > positions:
            raise InputError(f"{folder}: max_length {asked} is more than the {positions} positions of this model")
        return asked
    limit = positions or DEFAULT_MAX_LENGTH
    # Tokenizers without a limit say 1e30.
    return min(said or min(int(tokenizer.model_max_length), limit), positions or 10**9)


def num_positions(backbone: PreTrainedModel) -> int | None:
    """Tokens that the model has positions for; None for relative positions (T5), which have no bound."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count positions from the padding id on.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return getattr(backbone.config, "max_position_embeddings", None)


def first_line(error: BaseException) -> str:
    """The first line of another library's message, for one of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
