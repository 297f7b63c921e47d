"""Encoders from folders and from the Hugging Face Hub, by sentence-transformers; refused where it would make up things.

Before: `folder.py` has looked at the files. After: `probe.py` compares the vectors with sentence-transformers' own.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from jemb.core.errors import InputError
from jemb.core.files import read_json
from jemb.model.dropout import dropout_fields, set_dropout_layers
from jemb.model.encoder import Encoder, choose_prompt
from jemb.model.folder import check_folder, read_modules
from jemb.model.lora import base_of, merge_lora, put_on
from jemb.model.quiet import quiet
from jemb.run_folder import RunFolder, is_run

log = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 512
"""Tokens, where neither folder, tokenizer nor positions give a bound; the paper's."""
TINY_SHARE = 20
"""Embeddings for each entry of the tokenizer from which on it cannot be the model's own."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
HUB_FILES = ["*.json", "*.txt", "*.model"]
HUB_IGNORED = ["onnx/*", "openvino/*", "*.fp16.safetensors", "*.fp32.safetensors", "*.non_ema.safetensors"]

PoolingMode = Literal["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
Attention = Literal["causal", "bidirectional"]


def load_encoder(
    name_or_path: str,
    *,
    pooling: PoolingMode | None = None,
    dropout: float | None = None,
    max_length: int | None = None,
    attention: Attention | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """An fp32 encoder on the CPU, in evaluation mode, of any model that sentence-transformers loads: from a run folder,
    a folder, or a Hub name. Its vectors are given length 1 where the model does not do so.

    pooling, max_length, attention: None takes what the folder says. Where it says nothing, pooling is the last token
    for decoders, else mean, and the limit is the longest that the model allows (512 where it sets no bound). dropout:
    probability in training mode, in every layer; None: the model's own. Parameters that can get no gradient are frozen.
    Raises `InputError` when there is no such model, when it cannot be loaded, and where weights, a vocabulary or a
    class of its own would be replaced by something made up. Code in the folder runs with trust_remote_code only.
    """
    folder = find_folder(name_or_path, code=trust_remote_code)
    first = check_folder(folder, trust_remote_code=trust_remote_code)
    own: dict[str, float] = {}
    wanted: dict[str, float] = {}
    with naming(folder), quiet():
        if (first / "config.json").is_file():
            check_vocabulary(first)
            if dropout is not None:
                config = AutoConfig.from_pretrained(first, trust_remote_code=trust_remote_code)
                own, wanted = dropout_fields(config, dropout)
        # Weights that a folder may lack are drawn at random: in a fork, so that loading leaves no trace.
        with (
            base_of(folder) as (base, adapter),
            torch.random.fork_rng(devices=[]),
            _within_memory(folder),
            _all_weights(folder),
        ):
            torch.manual_seed(0)
            if adapter and base != str(folder):
                check_folder(find_folder(base), trust_remote_code=trust_remote_code)
            model = SentenceTransformer(
                base,
                device="cpu",
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                model_kwargs={"dtype": torch.float32},
                config_kwargs=wanted,
            ).float()
            if adapter:
                put_on(model, adapter)
        if getattr(model.transformers_model, "peft_config", None):
            merge_lora(model)
    if dropout is not None:
        set_dropout_layers(model, dropout)
    _check_modules(folder, model)
    is_plain = not read_modules(folder)
    if attention:
        _set_attention(folder, model, attention)
    causal = is_causal(model)
    if pooling is None and is_plain and causal:
        pooling = "lasttoken"
        log.info("%s: a decoder; a text's vector is that of its last token, %s", folder, _end_of(model))
    if pooling:
        _set_pooling(folder, model, pooling)
    if not isinstance(model[-1], Normalize):
        model.append(Normalize())
    if model.similarity_fn_name != "cosine":
        log.warning(
            "%s: its similarity_fn_name is %s; here vectors are trained and compared by their cosines",
            folder,
            model.similarity_fn_name,
        )
    encoder = Encoder(model, max_length=_choose_max_length(folder, model, max_length), own_dropout=own)
    if causal and "cls" in encoder.pooling.split("+"):
        raise InputError(
            f"{folder}: cls pooling takes the first token, which in a decoder sees no other: all texts would have the "
            "same vector. Use model.pooling=lasttoken, or model.attention=bidirectional where the model can do that"
        )
    check_truncate_dim(folder, encoder.truncate_dim, encoder.full_dim)
    _check_tokens(folder, encoder)
    _freeze_unused(encoder)
    return encoder


def find_folder(name_or_path: str, *, code: bool = False) -> Path:
    """The model folder of a run, a folder or a Hub name, with the code in it only if asked for. Raises `InputError`
    where there is none."""
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
        if not any((path / name).is_file() for name in ("modules.json", "config.json", "adapter_config.json")):
            raise InputError(
                f"{path}: no model here (no run.json, modules.json or config.json). Wanted: a run folder, an "
                "exported, sentence-transformers or Hugging Face folder, or a Hugging Face name."
            )
        return path
    if path.exists() or name_or_path.startswith((".", "~", "/")) or not HUB_NAME.fullmatch(name_or_path):
        raise InputError(f"{name_or_path}: no such folder")
    return _download(name_or_path, code=code)


def _download(name: str, *, code: bool = False) -> Path:
    """The folder of a model of the Hugging Face Hub, from its local cache where that has it."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*HUB_FILES, *(["*.py"] if code else [])]))
        snapshot_download(name, allow_patterns=["*.safetensors"], ignore_patterns=HUB_IGNORED)  # what is there stays
        if not any(folder.rglob("*.safetensors")):
            snapshot_download(name, allow_patterns=["*.bin"], ignore_patterns=HUB_IGNORED)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name}: no such folder, and the Hugging Face Hub did not give it ({first_line(error)}). Give "
            "the path of a model folder, correct the name, or run once with a network (no HF_HUB_OFFLINE)."
        ) from None
    return folder


def read_prompts(name_or_path: str) -> tuple[str, str]:
    """What a model wants before queries and before passages, without loading it."""
    path = find_folder(name_or_path) / "config_sentence_transformers.json"
    prompts = read_json(path, {"prompts?": ({str: str}, None)}).get("prompts") if path.is_file() else None
    known = {name: text for name, text in (prompts or {}).items() if text}
    return choose_prompt(known, "query"), choose_prompt(known, "document")


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Whatever other libraries raise about the files of a model becomes an `InputError` that names the folder."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{folder}: the model cannot be loaded ({type(error).__name__}: {first_line(error)})"
        ) from error


@contextmanager
def _within_memory(folder: Path) -> Iterator[None]:
    """Refuses a model while it is being built: with more weights than its files have, or than memory can hold."""
    files = list(folder.rglob("*.safetensors"))
    names = sum(len(safe_open(path, "pt").keys()) for path in files)
    most, memory = 2 * names + 1000, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    seen: set[tuple[int, str]] = set()
    total = 0

    def count(module: nn.Module, name: str, p: nn.Parameter | None) -> None:
        nonlocal total
        if p is None or (id(module), name) in seen:
            return
        seen.add((id(module), name))
        total += 4 * p.numel()
        if files and len(seen) > most:
            raise InputError(f"{folder}: config.json describes more than {most:,} weights; the files have {names:,}")
        if total > memory:
            raise InputError(
                f"{folder}: config.json describes a model of more than {total / 1e9:,.0f} GB in fp32; this machine has "
                f"{memory / 1e9:,.0f} GB of memory"
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _all_weights(folder: Path) -> Iterator[None]:
    """Refuses a folder that lacks weights. transformers tells which ones it has drawn at random instead if it is asked,
    and sentence-transformers does not ask."""
    kind: Any = PreTrainedModel
    original = kind.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, *arguments: Any, **options: Any) -> Any:
        model, info = original.__func__(cls, *arguments, **{**options, "output_loading_info": True})
        # Some have a head on the first token that never reaches our vectors.
        if missing := sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")):
            raise InputError(
                f"{folder}: {len(missing)} of the model's weights are not in it ({', '.join(missing[:3])}, …)"
            )
        return model

    kind.from_pretrained = classmethod(from_pretrained)
    try:
        yield
    finally:
        kind.from_pretrained = original


def check_vocabulary(folder: Path) -> None:
    """Raises `InputError` where the folder has no vocabulary: transformers would make up one of five words."""
    names = ("tokenizer.json", "vocab.txt", "vocab.json", "vocab.bpe")
    others = [*folder.glob("*.model"), *folder.glob("*.tiktoken")]
    if not others and not any((folder / name).is_file() for name in names):
        raise InputError(
            f"{folder}: no tokenizer (wanted tokenizer.json, or a vocabulary file). Save the tokenizer that the "
            "model was trained with into the folder"
        )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`; of static embeddings, that of the tokenizers library. Raises `InputError` where there
    is none."""
    with naming(folder):
        check_vocabulary(folder)
        if not (folder / "config.json").is_file():
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _check_modules(folder: Path, model: SentenceTransformer) -> None:
    """Raises `InputError` for modules that jemb cannot train through. Texts are taken as they are, not as messages."""
    first: Any = model[0]
    names = " + ".join(type(module).__name__ for module in model)
    if isinstance(first, StaticEmbedding):
        return
    if not isinstance(first, Transformer) or not isinstance(first.tokenizer, PreTrainedTokenizerBase):
        raise InputError(
            f"{folder}: the model is made of {names}; wanted one that begins with a Transformer for texts, "
            "or with StaticEmbedding"
        )
    if not any(isinstance(module, Pooling) for module in model) and first.module_output_name != "sentence_embedding":
        raise InputError(f"{folder}: the model is made of {names}; it has no pooling that makes one vector of a text")
    config = first.model.config
    if config.is_encoder_decoder and "Encoder" not in type(first.model).__name__:
        raise InputError(f"{folder}: '{config.model_type}' is an encoder-decoder whose encoder cannot be had alone")
    own = [name for name in ("query_length", "document_length", "query_expansion") if getattr(first, name, None)]
    if own or "text" not in first.modality_config or ("message" in first.modality_config and read_modules(folder)):
        raise InputError(
            f"{folder}: {first.config_file_name} has {', '.join(own) or 'a modality_config of messages'}, which jemb "
            "does not do; it takes each text as it is. Take that out if the vectors may differ from those before"
        )
    # A tokenizer with a chat template would have `encode` render each text as a message.
    first.modality_config = {"text": first.modality_config["text"]}
    first.input_formatter.supported_modalities = ["text"]
    tokenizer = first.tokenizer
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token  # which is masked wherever it pads


def _check_tokens(folder: Path, encoder: Encoder) -> None:
    """Raises `InputError` where the tokenizer is not the model's."""
    rows = len(encoder.embeddings)
    vocabulary: dict[str, int] = encoder.tokenizer.get_vocab()
    # T5's sentinels are of its training and never in a text.
    beyond = sorted((i, token) for token, i in vocabulary.items() if i >= rows and not token.startswith("<extra_id_"))
    if encoder.tokenize.pad_id >= rows:
        beyond = [(encoder.tokenize.pad_id, "the padding token")]
    if beyond:
        shown = ", ".join(f"{token!r} is {i}" for i, token in beyond[:3])
        raise InputError(
            f"{folder}: the tokenizer has {len(vocabulary)} entries, the model only {rows} embeddings ({shown})"
        )
    if len(vocabulary) * TINY_SHARE < rows:
        raise InputError(
            f"{folder}: the tokenizer has {len(vocabulary)} entries, the model {rows} embeddings: not this model's"
        )


def is_causal(model: SentenceTransformer) -> bool:
    """Whether a token's vector does not depend on the tokens after it."""
    first: Any = model.eval()[0]
    if isinstance(first, StaticEmbedding):
        return False
    ids = torch.tensor([[5, 6, 7], [5, 6, 8]]) % len(first.model.get_input_embeddings().weight)
    with torch.no_grad():
        hidden = first({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["token_embeddings"]
    return bool((hidden[0, 0] - hidden[1, 0]).abs().max() <= 1e-6 * hidden.abs().max())


def _end_of(model: SentenceTransformer) -> str:
    ids = model.tokenizer("a", add_special_tokens=True)["input_ids"]
    token = model.tokenizer.convert_ids_to_tokens(ids[-1])
    return (
        f"{token}, which its tokenizer appends"
        if token in model.tokenizer.all_special_tokens
        else ("as its tokenizer appends no end token")
    )


def _set_attention(folder: Path, model: SentenceTransformer, attention: Attention) -> None:
    """In the configuration, which is saved; read at each call by the architectures that can do both."""
    config = model.config
    if config is not None:
        config.is_causal = attention == "causal"
    if config is None or is_causal(model) != (attention == "causal"):
        raise InputError(f"{folder}: model.attention={attention}: {_kind(model)} cannot do that")


def _kind(model: SentenceTransformer) -> str:
    return type(model.transformers_model or model[0]).__name__


def _set_pooling(folder: Path, model: SentenceTransformer, pooling: PoolingMode) -> None:
    for number, module in enumerate(model):
        if isinstance(module, Pooling):
            new = Pooling(module.embedding_dimension, pooling, module.include_prompt)
            if new.pooling_output_dimension != module.pooling_output_dimension and len(model) > number + 2:
                raise InputError(
                    f"{folder}: model.pooling={pooling}: its modules after {module.pooling_mode} do not fit"
                )
            model[number] = new
            return
    raise InputError(f"{folder}: model.pooling={pooling}: {_kind(model)} has no pooling to choose")


def _choose_max_length(folder: Path, model: SentenceTransformer, asked: int | None) -> int | None:
    first: Any = model[0]
    if isinstance(first, StaticEmbedding):
        own = first.tokenizer.truncation
        return asked or (own["max_length"] if own else None)
    positions = num_positions(first.model)
    if asked is not None and positions is not None and asked > positions:
        raise InputError(f"{folder}: max_length {asked} is more than the {positions} positions of this model")
    said = asked or first.processing_kwargs.get("text", {}).get("max_length") or model.max_seq_length
    if isinstance(said, bool) or not isinstance(said, int | float) or said < 1:
        raise InputError(f"{folder}: the tokenizer's longest text is {said!r}; wanted a number of tokens from 1 on")
    if said > 10**9 and positions is None:  # tokenizers without a limit say 1e30
        log.info("%s sets no limit to the length of texts: they are cut at %d tokens", folder, DEFAULT_MAX_LENGTH)
        return DEFAULT_MAX_LENGTH
    return int(min(said, positions or said))


def num_positions(backbone: PreTrainedModel) -> int | None:
    """Tokens that the model has positions for; None for relative positions (T5, XLNet), which have no bound."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count positions from the padding id on.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    number = getattr(backbone.config, "max_position_embeddings", None)
    return number if number and number > 0 else None


def _freeze_unused(encoder: Encoder) -> None:
    """Freeze what no loss can reach: pooling heads, attention for other tasks. A parameter without gradient would stop
    DistributedDataParallel."""
    vectors = encoder(encoder.tokenize(["a", "some words, and a number: 27"]))
    reached: set[int] = set()
    seen, todo = set(), [vectors.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(weights := getattr(node, "variable", None), Tensor):
            reached.add(id(weights))
        todo += [before for before, _ in node.next_functions]
    for p in encoder.parameters():
        p.requires_grad_(id(p) in reached)


def check_truncate_dim(folder: Path | str, asked: int | None, dim: int) -> int | None:
    """`asked`, or `InputError` where a model of width `dim` has not so many numbers."""
    if asked is not None and not 1 <= asked <= dim:
        raise InputError(f"{folder}: truncate_dim is {asked}; its vectors have {dim} numbers: wanted 1 to {dim}")
    return asked


def first_line(error: BaseException) -> str:
    """The first line of another library's message, for one of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
