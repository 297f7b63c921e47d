"""LoRA (arXiv 2106.09685) by PEFT: small matrices beside frozen ones, trained in their place, then added to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from warnings import catch_warnings, simplefilter

import torch
from sentence_transformers import SentenceTransformer

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
    from peft.utils.other import AuxiliaryTrainingWrapper

    backbone = model.transformers_model
    assert backbone is not None
    done: tuple[str, ...] = ()
    for name, layer in list(backbone.named_modules()):
        if not isinstance(layer, AuxiliaryTrainingWrapper | BaseTunerLayer) or name.startswith(done):
            continue
        if isinstance(layer, AuxiliaryTrainingWrapper):  # of a layer, or of some tokens, trained whole
            plain = layer.unload_and_optionally_merge_module(True, False, None)
        else:
            layer.merge()
            plain = layer.get_base_layer()
        backbone.set_submodule(name, plain)
        done += (f"{name}.",)
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
        base = find(base_name(folder))
    tokenizer = _tokenizer_files(folder) if base != folder and has_vocabulary(folder) else set()
    if base != folder and not tokenizer:
        yield base, folder
        return
    left_out = {path.name for path in (_tokenizer_files(base) if tokenizer else folder.glob("adapter_*"))}
    # transformers would go by the adapter's word where that lies beside the model, and knows one folder alone.
    with TemporaryDirectory() as whole:
        copytree(
            base,
            whole,
            ignore=lambda place, _: left_out if Path(place) == base else set(),
            copy_function=_link,
            dirs_exist_ok=True,
        )
        for path in tokenizer:
            _link(path, Path(whole) / path.name)
        yield Path(whole), folder


def _link(path: str | Path, name: str | Path) -> None:
    Path(name).symlink_to(Path(path).resolve())


def base_name(folder: Path) -> str:
    """The model that the adapter in that folder names as its own. Raises `InputError` where there is no adapter."""
    name: str = read_json(folder / ADAPTER, {"base_model_name_or_path": str})["base_model_name_or_path"]
    return name


def _tokenizer_files(folder: Path) -> set[Path]:
    return {path for pattern in TOKENIZER for path in folder.glob(pattern)}
