"""LoRA (arXiv 2106.09685) by PEFT: small matrices beside frozen ones, trained in their place, then added to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import torch

from jemb.core.errors import InputError
from jemb.core.files import read_json
from jemb.model.folder import quiet

if TYPE_CHECKING:
    from jemb.model.encoder import Encoder

ADAPTER = "adapter_config.json"
VOCABULARY = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")
"""Files one of which a tokenizer is made of."""
TOKENIZER = (*VOCABULARY, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def check_peft_installed(wanted: str) -> None:
    """Raises `InputError` where PEFT is missing; wanted: by what."""
    if find_spec("peft") is None:
        raise InputError(f"{wanted} needs PEFT, which is not installed: pip install 'jemb[lora]'")


def add_lora(
    encoder: Encoder, *, rank: int, alpha: int | None, targets: Sequence[str], dropout: float, seed: int, base: str
) -> None:
    """Freeze the backbone and put matrices of rank `rank` beside its linear layers, the same in every process; heads
    are trained as before. alpha: their product counts alpha / rank; None: twice the rank. targets: names of layers as
    PEFT takes them; none: all that a loss reaches. base: what `jemb export adapter=true` says they belong to.
    """
    check_peft_installed("model.lora")
    from peft import LoraConfig, get_peft_model

    if encoder.backbone is None:
        raise InputError("model.lora: static embeddings have no layers to adapt; leave model.lora out")
    reached = {name for name, p in encoder.backbone.named_parameters() if p.requires_grad}
    layers = [
        name
        for name, module in encoder.backbone.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and f"{name}.weight" in reached
    ]
    chosen = list(targets) or layers
    config = LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, target_modules=chosen, lora_dropout=dropout)
    with torch.random.fork_rng(devices=[]), quiet(), catch_warnings():
        simplefilter("ignore")  # GPT-2 keeps its matrices the other way round, which PEFT sees and says
        torch.manual_seed(seed)
        try:
            encoder.adapted = (get_peft_model(encoder.backbone, config),)  # the backbone has them from now on
        except ValueError as error:
            raise InputError(
                f"model.lora.targets={list(targets)}: {str(error).splitlines()[0]}. Layers that there are: "
                f"{', '.join(sorted({name.rpartition('.')[2] for name in layers}))}"
            ) from None
    config.base_model_name_or_path = base


def merged(backbone: Any, folder: Path) -> Any:
    """The model with what the adapter in `folder` adds to it. Raises `InputError` for an adapter of another model."""
    from peft import PeftConfig, PeftModel

    with catch_warnings():
        simplefilter("ignore")
        adapted = PeftModel(backbone, PeftConfig.from_pretrained(str(folder)))
        # Of a model with a head for words, whose names have a word before them.
        prefix = backbone.base_model_prefix
        mapping = {} if prefix in dict(backbone.named_children()) else {rf"^{prefix}\.": ""}
        found = adapted.load_adapter(str(folder), "default", torch_device="cpu", key_mapping=mapping)
    if wrong := sorted({*found.missing_keys, *found.unexpected_keys}):
        names = ", ".join(wrong[:3])
        raise InputError(f"{folder}: the adapter does not fit its model: {len(wrong)} weights differ ({names}, …)")
    return adapted.merge_and_unload().requires_grad_(True)


@contextmanager
def without_adapter(folder: Path, find: Callable[[str], Path]) -> Iterator[Path]:
    """`folder`; where there is an adapter in it, links to the files of the model that this belongs to and, in their
    place, to those that stand beside the adapter.

    An adapter beside a whole model belongs to that one; else it names the model it belongs to, which `find` gives a
    folder for. The tokenizer is the one beside the adapter, where there is one.
    """
    if not (folder / ADAPTER).is_file():
        yield folder
        return
    check_peft_installed(str(folder / ADAPTER))
    base = folder
    if not [*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*")]:
        base = find(read_json(folder / ADAPTER, {"base_model_name_or_path": str})["base_model_name_or_path"])
        if (base / ADAPTER).is_file():
            raise InputError(f"{folder}: its adapter is for {base}, which has one itself; merge that one first")
    hidden = [ADAPTER, "adapter_model.*"]
    own_tokenizer = any(any(folder.glob(name)) for name in VOCABULARY)
    with TemporaryDirectory() as whole:
        for source in dict.fromkeys((base, folder)):
            for path in source.rglob("*"):
                left_out = [*hidden, *TOKENIZER] if own_tokenizer and source != folder else hidden
                if path.is_file() and not any(path.match(name) for name in left_out):
                    link = Path(whole) / path.relative_to(source)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.unlink(missing_ok=True)
                    link.symlink_to(path.resolve())
        yield Path(whole)
