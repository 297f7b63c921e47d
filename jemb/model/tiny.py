"""A small BERT made on the spot: random weights, and a WordPiece tokenizer trained on the given texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import BertConfig, BertModel, BertTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from jemb.config import ModelConfig
from jemb.core.errors import InputError
from jemb.core.files import writing
from jemb.model.encoder import Encoder
from jemb.model.folder import quiet
from jemb.model.load import load_encoder

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MAX_ALPHABET = 1000
EMBEDDING_SCALE = 0.2
"""Of the embedding tables to BERT's usual start. A norm follows them, so this leaves the first vectors as they are and
makes Adam's steps on words five times larger: after 300 steps of 64 pairs held-out nDCG@10 was 43 instead of 36 at
learning rate 2e-4, 45 instead of 42 at 5e-4, the same at 1e-3."""


def make_tiny(texts: Iterable[str], config: ModelConfig, *, seed: int, max_length: int) -> Encoder:
    """A BERT of the size `config` asks for; the same texts, config and seed give the same one in any process.

    texts: what the tokenizer is trained on, held in memory: pass a sample where there are millions.
    The weights depend on `seed` and the sizes alone; the global random state is left as it was.
    """
    tokenizer = BertTokenizer(train_wordpiece(texts, config.vocab_size), model_max_length=max_length)
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=4 * config.hidden_size,
        max_position_embeddings=max_length,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = BertModel(shape)
    with torch.no_grad():
        for table in backbone.embeddings.modules():
            if isinstance(table, nn.Embedding):
                table.weight.mul_(EMBEDDING_SCALE)
    return encoder_of(backbone, tokenizer, pooling=config.pooling, dropout=config.dropout, max_length=max_length)


def encoder_of(backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Encoder:
    """The encoder of what `transformers` has in memory, by way of a folder; options: those of `load_encoder`."""
    with TemporaryDirectory() as folder, quiet(), writing(Path(folder)):
        backbone.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return load_encoder(folder, **options)


def train_wordpiece(texts: Iterable[str], vocab_size: int) -> dict[str, int]:
    """The vocabulary of BERT's lower-casing tokenizer, at most `vocab_size` entries, the same for the same texts.

    Raises `InputError` when the texts hold no character to learn from.
    """
    kept = list(texts)
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in kept:
        counts.update(tokenizer.normalizer.normalize_str(text))
    by_count = sorted((char for char in counts if not char.isspace()), key=lambda char: (-counts[char], char))
    if not by_count:
        raise InputError("no tokenizer can be trained: the texts are all empty")
    alphabet = sorted(by_count[: min(MAX_ALPHABET, (vocab_size - len(SPECIAL)) // 3)])
    # The trainer numbers the continuation pieces of single characters in the order of a hash table, which
    # differs between processes, and breaks ties between merges by number. Named first, they are fixed.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *(f"##{char}" for char in alphabet)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(kept, trainer)
    return tokenizer.get_vocab()
