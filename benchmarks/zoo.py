"""Small models of many architectures, poolings and heads, made on the spot: random weights, tokenizers trained here.

Used by `benchmarks/models.py`, which makes the table of docs/models.md, and by the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from jemb.model.folder import quiet
from jemb.model.tiny import train_wordpiece

LIMIT = 64
"""Tokens at which the tokenizers cut."""
TEXTS = [
    "the quick brown fox jumps over the lazy dog and it was not bad at all",
    "how do I open a file in Python and read it line by line",
    "a man is playing a guitar on the street while people watch him play",
    "the film was not bad though nobody would call it good in Köln or 図書館",
    "amber birch cedar delta ember fjord grove heron iris jade koala lotus maple north ocean pearl",
]


def wordpiece() -> PreTrainedTokenizerBase:
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    trained = BertTokenizer(train_wordpiece(TEXTS * 4, 400)).backend_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=trained, model_max_length=LIMIT, **names)


def bpe(*, end: bool = True, start: bool = False, pad: bool = True, side: str = "right") -> PreTrainedTokenizerBase:
    """Byte-level, as decoders have it. end, start: whether a text gets such a token. side: where padding goes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    tokenizer.train_from_iterator(
        TEXTS * 4,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if end or start:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{'<s> ' if start else ''}$A{' </s>' if end else ''}", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=LIMIT,
        padding_side=side,
        **({"pad_token": "<pad>"} if pad else {}),
    )


def unigram() -> PreTrainedTokenizerBase:
    """As T5 has it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        TEXTS * 9,
        trainers.UnigramTrainer(
            vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=LIMIT
    )


USUAL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
DECODER = {**USUAL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "pad_token_id": 0, "eos_token_id": 1}
NARROW = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128}
WINDOW = {"attention_window": 8, "pad_token_id": 0}
GLOBAL = {
    "global_attn_every_n_layers": 2,
    "local_attention": 16,
    "pad_token_id": 0,
    "cls_token_id": 2,
    "sep_token_id": 3,
}

ARCHITECTURES: dict[str, tuple[str, Callable[[], PreTrainedTokenizerBase], Mapping[str, Any]]] = {
    "BERT": ("Bert", wordpiece, USUAL),
    "RoBERTa": ("Roberta", wordpiece, {**USUAL, "pad_token_id": 0}),
    "XLM-RoBERTa": ("XLMRoberta", wordpiece, {**USUAL, "pad_token_id": 0}),
    "DistilBERT": ("DistilBert", wordpiece, NARROW),
    "MPNet": ("MPNet", wordpiece, {**USUAL, "pad_token_id": 0}),
    "ALBERT": ("Albert", wordpiece, {**USUAL, "embedding_size": 16, "pad_token_id": 0}),
    "ELECTRA": ("Electra", wordpiece, {**USUAL, "embedding_size": 16, "pad_token_id": 0}),
    "DeBERTa-v2": ("DebertaV2", wordpiece, {**USUAL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "ModernBERT": ("ModernBert", wordpiece, {**USUAL, **GLOBAL}),
    "Longformer": ("Longformer", wordpiece, {**USUAL, **WINDOW}),
    "XLNet": ("XLNet", wordpiece, {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "pad_token_id": 0}),
    "LUKE": ("Luke", wordpiece, {**USUAL, "entity_vocab_size": 10, "entity_emb_size": 8}),
    "BigBird": ("BigBird", wordpiece, {**USUAL, "pad_token_id": 0, "block_size": 4, "num_random_blocks": 1}),
    "FNet": ("FNet", wordpiece, {**USUAL, "tpu_short_seq_length": 64}),
    "T5 encoder": ("T5Encoder", unigram, T5),
    "mT5 encoder": ("MT5Encoder", unigram, T5),
    "Qwen3": ("Qwen3", bpe, DECODER),
    "Llama": ("Llama", bpe, DECODER),
    "Mistral": ("Mistral", bpe, DECODER),
    "Gemma3": ("Gemma3Text", bpe, {**DECODER, "sliding_window": 16, "query_pre_attn_scalar": 8}),
    "GPT-2": ("GPT2", bpe, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
}


def plain(folder: Path, architecture: str, tokenizer: PreTrainedTokenizerBase | None = None, **changes: Any) -> Path:
    """A folder as transformers writes it."""
    name, make_tokenizer, values = ARCHITECTURES[architecture]
    tokenizer = tokenizer or make_tokenizer()
    config_name = f"{name.removesuffix('Encoder')}Config" if name != "Gemma3Text" else "Gemma3TextConfig"
    config = getattr(transformers, config_name)(**{"vocab_size": len(tokenizer), **values, **changes})
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        backbone = getattr(transformers, f"{name}Model")(config)
        # Larger than models are born: the vectors of different texts then differ as those of a trained model do.
        with torch.no_grad():
            for p in backbone.parameters():
                if p.ndim > 1:
                    p.mul_(4)
        backbone.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def dense(width: int, out: int, activation: nn.Module, bias: bool = True) -> Dense:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Dense(width, out, bias=bias, activation_function=activation)


def layer_norm(width: int) -> LayerNorm:
    module = LayerNorm(width)
    with torch.no_grad():
        module.norm.weight.copy_(torch.linspace(0.5, 1.5, width))
    return module


HEADS: dict[str, Callable[[int], Sequence[nn.Module]]] = {
    "mean": lambda d: [Pooling(d, "mean"), Normalize()],
    "cls": lambda d: [Pooling(d, "cls"), Normalize()],
    "max": lambda d: [Pooling(d, "max"), Normalize()],
    "last token": lambda d: [Pooling(d, "lasttoken"), Normalize()],
    "weighted mean": lambda d: [Pooling(d, "weightedmean"), Normalize()],
    "mean + max": lambda d: [Pooling(d, ("max", "mean")), Normalize()],
    "mean, not normalised": lambda d: [Pooling(d, "mean")],
    "mean, prompt left out": lambda d: [Pooling(d, "mean", include_prompt=False), Normalize()],
    "weighted mean, prompt left out": lambda d: [Pooling(d, "weightedmean", include_prompt=False), Normalize()],
    "cls, Dense (tanh)": lambda d: [Pooling(d, "cls"), dense(d, d, nn.Tanh()), Normalize()],
    "mean, Dense (no bias)": lambda d: [Pooling(d, "mean"), dense(d, 24, nn.Identity(), bias=False), Normalize()],
    "mean, 2 Dense": lambda d: [
        Pooling(d, "mean"),
        dense(d, 64, nn.Identity(), bias=False),
        dense(64, d, nn.Identity(), bias=False),
        Normalize(),
    ],
    "mean, LayerNorm": lambda d: [Pooling(d, "mean"), layer_norm(d), Normalize()],
}  # fmt: skip


def with_head(folder: Path, base: Path, head: str, **settings: Any) -> Path:
    """The model of the plain folder `base` with modules after it, as sentence-transformers writes it."""
    with quiet():
        first = Transformer(str(base))
        first.modality_config = {"text": first.modality_config["text"]}
        modules = [first, *HEADS[head](first.get_embedding_dimension())]
        SentenceTransformer(modules=modules, device="cpu", **settings).save(str(folder), create_model_card=False)
    return folder


def static(folder: Path) -> Path:
    """Static embeddings, as model2vec's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = StaticEmbedding(BertTokenizer(train_wordpiece(TEXTS * 4, 400)).backend_tokenizer, embedding_dim=32)
    SentenceTransformer(modules=[module], device="cpu").save(str(folder), create_model_card=False)
    return folder
