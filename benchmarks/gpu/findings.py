"""What the stages share: where findings go, made-up data and models, whole runs, and how two runs compare."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

WORDS = [f"word{number}" for number in range(800)]
STEPS = 20
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}
"""What the loss of a step may differ from that of the CPU in fp32, by precision."""
TINY = [
    "model.hidden_size=128", "model.num_layers=2", "max_length=48", "global_batch_size=64", "trackers=[]",
    "learning_rate=1e-3", "warmup_steps=2", "checkpoint_every=1000",
]  # fmt: skip

Run = tuple[list[float], list[float]]
"""(losses, gradient norms) by step."""


@dataclass(frozen=True, slots=True)
class Found:
    """Writes findings of a stage to OUT/results.jsonl, each at once. seconds: since the stage began."""

    out: Path
    stage: str
    began: float = field(default_factory=time.monotonic)

    def __call__(self, what: str, value: Any, bad: bool = False) -> None:
        seconds = round(time.monotonic() - self.began, 1)
        line = {"stage": self.stage, "what": what, "value": str(value), "bad": bool(bad), "seconds": seconds}
        with (self.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)


def choices(option: str) -> tuple[str, ...]:
    """What an option of `jemb train` can be, as far as it has been built."""
    from jemb.config import TrainConfig

    return get_args(get_type_hints(TrainConfig)[option])


def tiny(device: str) -> list[str]:
    """Options of a run of a stage: tiny, and tinier where a stage only shows that it works."""
    return TINY if device == "cuda" else [*TINY, "model.hidden_size=32", "model.num_layers=1", "global_batch_size=16"]


def make_shards(folder: Path, device: str, num_negatives: int = 0, *, scored: bool = False) -> Path:
    """scored: a teacher's scores of all answers besides."""
    from jemb.core.records import Sample
    from jemb.shards import write_dataset

    draw = random.Random(0)
    kind = "distill" if scored else "triplets" if num_negatives else "pairs"
    samples = []
    for number in range(2000 if device == "cuda" else 64):
        query = draw.choices(WORDS, k=draw.randint(2, 20))
        positive = query[::2] + draw.choices(WORDS, k=draw.randint(2, 20))
        wrong = tuple(" ".join(draw.choices(query + positive, k=6)) for _ in range(num_negatives))
        scores = tuple(draw.uniform(-3, 3) for _ in range(1 + num_negatives)) if scored else ()
        samples.append(Sample(f"{number:08d}", " ".join(query), " ".join(positive), wrong, scores=scores))
    write_dataset(folder / kind, "words", samples, 10_000)
    return folder / kind


def make_model(kind: str, folder: Path) -> Path:
    """A small encoder with random weights and a tokenizer of `WORDS`, as transformers saves it."""
    import torch
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=128,
    )  # fmt: skip
    size: dict[str, Any] = {"vocab_size": len(tokenizer), "pad_token_id": 0}
    wide: dict[str, Any] = {
        **size, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256,
        "max_position_embeddings": 128,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "bert":
        model: Any = t.BertModel(t.BertConfig(**wide))
    elif kind == "t5":
        model = t.T5EncoderModel(t.T5Config(**size, d_model=128, num_layers=2, num_heads=4, d_kv=32, d_ff=256))
    elif kind == "modernbert":
        ends = {"cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
        model = t.ModernBertModel(t.ModernBertConfig(**wide, **ends, global_attn_every_n_layers=2, local_attention=16))
    else:
        ends = {"bos_token_id": 2, "eos_token_id": 3}
        model = t.Qwen3Model(t.Qwen3Config(**wide, **ends, num_key_value_heads=2, head_dim=32))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(output: Path, shards: Path, steps: int, *options: str) -> Run:
    """A whole `jemb train` in this process."""
    from jemb.app.cli import main

    if code := main(["train", f"shards={shards}", f"output={output}", f"max_steps={steps}", *options]):
        raise RuntimeError(f"{output.name}: exit code {code}")
    return read_run(output)


def read_run(output: Path) -> Run:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows], [row["grad_norm"] for row in rows]


def compare(found: Found, what: str, reference: Run, measured: Run, precision: str) -> None:
    """The largest difference of a step's loss, and of its gradient norm as a share."""
    loss = max(abs(x - y) for x, y in zip(reference[0], measured[0], strict=True))
    norm = max(abs(y / x - 1) for x, y in zip(reference[1], measured[1], strict=True))
    bad = not (math.isfinite(loss) and loss <= TOLERANCE[precision])
    found(what, f"loss off by {loss:.1e}, norm by {norm:.1%}", bad)


def steps_of(device: str) -> int:
    """Steps of a run: what a GPU is compared over, or the fewest that show the stage working."""
    return STEPS if device == "cuda" else 3


def only_first(items: Sequence[Any], device: str) -> list[Any]:
    """All on a GPU, the first one on a CPU, where a stage only shows that it works."""
    return list(items) if device == "cuda" else list(items[:1])
