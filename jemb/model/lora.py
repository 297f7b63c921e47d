"""LoRA (arXiv 2106.09685) by PEFT: small matrices beside frozen ones, trained in their place, then added to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from warnings import catch_warnings, simplefilter

import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from jemb.core.errors import InputError
from jemb.core.files import read_json
from jemb.model.folder import VOCABULARY, has_vocabulary
from jemb.model.quiet import quiet

if TYPE_CHECKING:
    from jemb.model.encoder import Encoder

ADAPTER = "adapter_config.json"
TOKENIZER = (*VOCABULARY, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Files of a tokenizer."""


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
    from peft import LoraConfig

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
            encoder.model.add_adapter(config)
        except ValueError as error:
            raise InputError(
                f"model.lora.targets={list(targets)}: {str(error).splitlines()[0]}. Layers that there are: "
                f"{', '.join(sorted({name.rpartition('.')[2] for name in layers}))}"
            ) from None
    encoder.backbone.peft_config["default"].base_model_name_or_path = base


def merge_lora(model: SentenceTransformer) -> None:
    """Add each product to the matrix it stands beside; what is left is a model without adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    backbone = model.transformers_model
    assert backbone is not None
    for name, layer in list(backbone.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            backbone.set_submodule(name, layer.get_base_layer())
    backbone._hf_peft_config_loaded = False
    # How the names in a loaded adapter's file differ from the model's, which transformers would save all weights by.
    backbone.__dict__.pop("_weight_conversions", None)
    del backbone.peft_config
    model.requires_grad_(True)


@contextmanager
def base_of(folder: Path, find: Callable[[str], Path]) -> Iterator[tuple[Path, Path | None]]:
    """(folder of the model to load, the adapter to put on it): of a folder without adapter itself and None.

    An adapter beside a whole model belongs to that one; else it names the model it belongs to, which `find` gives a
    folder for. The tokenizer is the one beside the adapter, where there is one.
    """
    adapter = folder / ADAPTER
    if not adapter.is_file() or (folder / "modules.json").is_file():  # sentence-transformers loads both by itself
        yield folder, None
        return
    check_peft_installed(str(adapter))
    base = folder
    if not [*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*")]:
        base = find(read_json(adapter, {"base_model_name_or_path": str})["base_model_name_or_path"])
    tokenizer = _tokenizer_files(folder) if has_vocabulary(folder) else set()
    if base != folder and not tokenizer:
        yield base, folder
        return
    # transformers would go by the adapter's word where that lies beside the model, and knows one folder alone.
    with TemporaryDirectory() as whole:
        left_out = _tokenizer_files(base) if base != folder else set(folder.glob("adapter_*"))
        for path in {*base.iterdir(), *tokenizer} - left_out:
            (Path(whole) / path.name).symlink_to(path.resolve())
        yield Path(whole), folder


def _tokenizer_files(folder: Path) -> set[Path]:
    return {path for pattern in TOKENIZER for path in folder.glob(pattern)}


def put_on(model: SentenceTransformer, adapter: Path) -> None:
    """Load the adapter in that folder. Raises `InputError` where it belongs to another model."""
    model.load_adapter(str(adapter))
    stored = _total(load_file(adapter / "adapter_model.safetensors").values())
    loaded = _total(p for name, p in model.named_parameters() if "lora_" in name)
    if abs(stored - loaded) > 1e-3 * stored:
        raise InputError(f"{adapter}: the adapter does not fit its model: not all of its weights have a place there")


def _total(values: Iterable[Tensor]) -> float:
    return sum(float(value.detach().double().abs().sum()) for value in values)
