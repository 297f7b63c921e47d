"""Encoders from folders and from the Hugging Face Hub, by sentence-transformers; refused where it would make up things.

Before: `folder.py` has looked at the files. After: `probe.py` compares the vectors with sentence-transformers' own.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding, Transformer
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from jemb.core.errors import InputError
from jemb.model.encoder import Encoder
from jemb.model.find import find_folder, first_line
from jemb.model.folder import check_folder, quiet
from jemb.model.lora import ADAPTER, merged, without_adapter
from jemb.model.packed.packing import table_positions

log = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 512
"""Tokens, where neither folder, tokenizer nor positions give a bound; the paper's."""
TINY_SHARE = 20
"""Embeddings for each entry of the tokenizer from which on it cannot be the model's own."""
TIMES_FILES = 16
"""Memory for the weights that config.json describes, over the size of the files that have them, from which on they
cannot be the same: a number is 4 bytes in memory and may be half of one in a file."""
DROPOUT = re.compile("dropout|layerdrop|drop_path|pdrop$")
"""Fields of a configuration."""
WHOLE = re.compile("layerdrop|drop_path")
"""Those that drop whole layers, which is switched off: `dropout=0` leaves nothing random in the forward pass."""

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
    with opened(name_or_path, dropout=dropout, trust_remote_code=trust_remote_code) as (folder, place, own):
        model = SentenceTransformer(
            str(place),
            device="cpu",
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32},
        ).float()
        if (folder / ADAPTER).is_file():
            model[0].model = merged(model.transformers_model, folder)
        for layer in model.modules():
            if dropout is not None and isinstance(layer, nn.Dropout):
                layer.p = dropout  # those whose probability is in no configuration field
        saved, kinds = (place / "modules.json").is_file(), [type(module) for module in model.modules()]
        _prepare_modules(folder, model, saved=saved)
        if attention:
            _set_attention(folder, model, attention)
        causal = is_causal(model)
        if kinds != [type(module) for module in model.modules()]:
            raise InputError(
                f"{folder}: the model changes with the lengths of the texts; BigBird does not with "
                '"attention_type": "original_full" in its config.json'
            )
        if pooling is None and causal and not saved:
            pooling = "lasttoken"
            last = model.tokenizer.convert_ids_to_tokens(model.tokenizer("a")["input_ids"][-1])
            ends = last in model.tokenizer.all_special_tokens
            end = f"{last}, which its tokenizer appends" if ends else "as its tokenizer appends no end token"
            log.info("%s: a decoder; a text's vector is that of its last token, %s", folder, end)
        if pooling:
            _set_pooling(folder, model, pooling)
        if not isinstance(model[-1], Normalize):
            model.append(Normalize())
        if (similarity := model.similarity_fn_name) != "cosine":
            comparing = "here vectors are trained and compared by their cosines"
            log.warning("%s: its similarity_fn_name is %s; %s", folder, similarity, comparing)
        encoder = Encoder(model, max_length=choose_max_length(folder, model, max_length), own_dropout=own)
        if causal and "cls" in encoder.pooling.split("+"):
            raise InputError(
                f"{folder}: cls pooling takes the first token, which in a decoder sees no other: all texts would have "
                "the same vector. Use model.pooling=lasttoken, or model.attention=bidirectional where the model can"
            )
        check_tokens(folder, encoder.tokenizer, len(encoder.embeddings))
        _freeze_unused(folder, encoder)
    return encoder.eval()


@contextmanager
def opened(
    name_or_path: str,
    *,
    kind: str = "SentenceTransformer",
    dropout: float | None = None,
    trust_remote_code: bool = False,
) -> Iterator[tuple[Path, Path, dict[str, float]]]:
    """(the model's folder, the one to load, without an adapter, its own values of the configuration fields that get
    `dropout`, once it is loaded), for loading a model: other libraries are quiet, and whatever they raise becomes an
    `InputError` that names the folder; so does a model without all its weights, or far larger than its files. The
    random state is as before.

    transformers tells which weights it has drawn at random instead if it is asked, and sentence-transformers does not
    ask; and dropout is set before a model is built, as attention layers copy the number.
    """
    folder = find_folder(name_or_path, code=trust_remote_code)
    own: dict[str, float] = {}
    load: Any = PreTrainedModel.__dict__["from_pretrained"]
    base: Any = PreTrainedModel
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = of_files = memory
    total = 0

    def from_pretrained(cls: Any, *arguments: Any, **options: Any) -> Any:
        for name, value in options["config"].to_dict().items() if dropout is not None else ():
            if DROPOUT.search(name) and type(value) in (int, float):
                own[name] = value
                setattr(options["config"], name, 0.0 if WHOLE.search(name) else dropout)
        model, info = load.__func__(cls, *arguments, **{**options, "output_loading_info": True})
        # Some have a head on the first token that never reaches our vectors.
        if missing := sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")):
            names = ", ".join(missing[:3])
            raise InputError(f"{folder}: {len(missing)} of the model's weights are not in it ({names}, …)")
        if unused := sorted(info["unexpected_keys"]):
            log.info("%s: %d of its weights are not used (%s, …)", folder, len(unused), ", ".join(unused[:3]))
        return model

    def count(module: nn.Module, name: str, p: nn.Parameter | None) -> None:
        nonlocal total
        total += 4 * p.numel() if p is not None and p.is_meta else 0  # there transformers builds it first
        if total > limit:
            raise InputError(
                f"{folder}: config.json describes a model of more than {total / 1e9:.3g} GB in fp32; its files allow "
                f"for {of_files / 1e9:.3g} GB, and this machine has {memory / 1e9:.3g} GB of memory"
            )

    try:
        with (
            quiet(),
            torch.random.fork_rng(devices=[]),
            without_adapter(folder, partial(find_folder, code=trust_remote_code)) as place,
        ):
            check_folder(place, trust_remote_code=trust_remote_code, kind=kind)
            files = [*place.rglob("model*.safetensors"), *place.rglob("pytorch_model*")]
            of_files = TIMES_FILES * (sum(path.stat().st_size for path in files) + 2**22)
            limit = min(memory, of_files)
            torch.manual_seed(0)
            handle = register_module_parameter_registration_hook(count)
            base.from_pretrained = classmethod(from_pretrained)
            try:
                yield folder, place, own
            finally:
                base.from_pretrained = load
                handle.remove()
    except InputError as error:
        if str(folder) in str(error):
            raise
        raise InputError(f"{folder}: {error}") from error
    except Exception as error:
        raise InputError(
            f"{folder}: the model cannot be loaded ({type(error).__name__}: {first_line(error)})"
        ) from error


def _prepare_modules(folder: Path, model: SentenceTransformer, *, saved: bool) -> None:
    """Raises `InputError` for modules that jemb cannot train through. saved: by sentence-transformers; other models
    take texts as they are, not as messages, which the tokenizer's chat template would make of them."""
    first: Any = model[0]
    text = isinstance(first, Transformer) and isinstance(first.tokenizer, PreTrainedTokenizerBase)
    pooled = text and (first.module_output_name == "sentence_embedding" or any(isinstance(m, Pooling) for m in model))
    if not pooled and not isinstance(first, StaticEmbedding):
        raise InputError(
            f"{folder}: the model is made of {' + '.join(type(module).__name__ for module in model)}; wanted one that "
            "begins with a Transformer for texts, followed by a pooling, or with StaticEmbedding"
        )
    if text and not saved:
        first.modality_config = {"text": first.modality_config["text"]}
        first.input_formatter.supported_modalities = ["text"]
    if text and first.tokenizer.pad_token_id is None and first.tokenizer.eos_token_id is not None:
        first.tokenizer.pad_token = first.tokenizer.eos_token  # which is masked wherever it pads


def check_tokens(folder: Path, tokenizer: Any, rows: int) -> None:
    """Raises `InputError` where the tokenizer is not of the model with so many embeddings. Where the folder has none,
    transformers makes one up, of some five words."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    # T5's sentinels are of its training and never in a text.
    entries = {token: i for token, i in vocabulary.items() if not token.startswith("<extra_id_")}
    beyond = sorted((i, token) for token, i in entries.items() if i >= rows)
    words = entries.keys() - set(getattr(tokenizer, "all_special_tokens", ()))
    if beyond or len(words) * TINY_SHARE < rows:
        shown = ", ".join(f"{token!r} is {i}" for i, token in beyond[:3]) or f"{len(words)} are no special tokens"
        raise InputError(
            f"{folder}: the tokenizer has {len(vocabulary)} entries, the model {rows} embeddings ({shown}). Save the "
            "tokenizer that the model was trained with into the folder"
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


def _set_attention(folder: Path, model: SentenceTransformer, attention: Attention) -> None:
    """In the configuration, which is saved; read at each call by the architectures that can do both."""
    config = model.config
    if config is not None:
        config.is_causal = attention == "causal"
    if config is None or is_causal(model) != (attention == "causal"):
        kind = type(model.transformers_model or model[0]).__name__
        raise InputError(f"{folder}: model.attention={attention}: {kind} cannot do that")


def _set_pooling(folder: Path, model: SentenceTransformer, pooling: PoolingMode) -> None:
    old = next((module for module in model if isinstance(module, Pooling)), None)
    if old is None:
        raise InputError(f"{folder}: model.pooling={pooling}: the model has no pooling to choose")
    model[list(model).index(old)] = Pooling(old.embedding_dimension, pooling, old.include_prompt)


def choose_max_length(folder: Path, model: Any, asked: int | None) -> int | None:
    """Tokens at which a text is cut. model: of sentence-transformers. asked: None takes what the folder says."""
    first = model[0]
    if isinstance(first, StaticEmbedding):
        own = first.tokenizer.truncation
        return asked or (own["max_length"] if own else None)
    positions = table_positions(first.model)[1] or getattr(first.model.config, "max_position_embeddings", None) or 0
    if positions < 1:  # relative positions (T5, XLNet) have no bound
        positions = 10**9
    if asked is not None and asked > positions:
        raise InputError(f"{folder}: max_length {asked} is more than the {positions} positions of this model")
    said = asked or first.processing_kwargs.get("text", {}).get("max_length") or model.max_seq_length
    if isinstance(said, bool) or not isinstance(said, int | float) or said < 1 or said % 1:
        raise InputError(f"{folder}: max_seq_length is {said!r}; wanted a whole number from 1 on")
    if min(said, positions) >= 10**9:  # tokenizers without a limit say 1e30
        log.info("%s sets no limit to the length of texts: they are cut at %d tokens", folder, DEFAULT_MAX_LENGTH)
        return DEFAULT_MAX_LENGTH
    return int(min(said, positions))


def _freeze_unused(folder: Path, encoder: Encoder) -> None:
    """Freeze what no loss can reach: pooling heads, attention for other tasks. A parameter without gradient would stop
    DistributedDataParallel. Raises `InputError` where vectors are not as wide as the model says."""
    vectors = encoder(encoder.tokenize(["a", "some words, and a number: 27"]))
    if vectors.shape[1] != encoder.dim:
        raise InputError(f"{folder}: says that its vectors have {encoder.dim} numbers; they have {vectors.shape[1]}")
    seen: set[Any] = set()
    todo: list[Any] = [vectors.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions]
    reached = {id(node.variable) for node in seen if hasattr(node, "variable")}
    for p in encoder.parameters():
        p.requires_grad_(id(p) in reached)
