"""Model folders: what stands in one is looked at before anything of it is loaded, and what sentence-transformers 6 has
written is brought into the form that its versions 3 to 6 and other readers (TEI) understand.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from jemb.core.errors import InputError
from jemb.core.files import inside, read_json

log = logging.getLogger(__name__)

FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
VOCABULARY = ("tokenizer.json", "vocab.txt", "vocab.json", "vocab.bpe", "*.model", "*.tiktoken")
"""Files one of which a tokenizer is made of."""
TOKENIZER_CONFIG = {
    # The class that takes tokenizer.json as it is: those named after a model build some parts anew, in transformers 5.
    "tokenizer_class": "PreTrainedTokenizerFast",
    # What the model is given here; the class would add token types, which T5 refuses.
    "model_input_names": ["input_ids", "attention_mask"],
}
FIRST = ("Transformer", "StaticEmbedding")
"""The modules of sentence-transformers that may stand first."""
DENSE = {"in_features", "out_features", "bias", "activation_function"}


def check_folder(folder: Path, *, trust_remote_code: bool = False, kind: str = "SentenceTransformer") -> Path:
    """Where config.json and weights are: `folder`, or what modules.json names.

    Raises `InputError` for another kind of sentence-transformers' models, and unless trust_remote_code for code that
    comes with the model: classes of modules, `auto_map`, activations.
    """
    modules = read_modules(folder)
    first = modules[0][1] if modules else folder
    found = _object(folder / "config_sentence_transformers.json").get("model_type", kind) if modules else kind
    if found != kind:
        raise InputError(f"{folder}: a {found} of sentence-transformers; wanted a {kind}")
    names = [module.rpartition(".")[2] for module, _ in modules]
    if modules and modules[0][0].startswith("sentence_transformers.") and names[0] not in FIRST:
        refuse_modules(folder, names)
    foreign = [module for module, _ in modules if not module.startswith("sentence_transformers.")]
    for module, place in modules:
        activation = _object(place / "config.json").get("activation_function")
        if module.endswith(".Dense") and activation is not None and not str(activation).startswith("torch."):
            foreign.append(str(activation))
    for path in (first / "config.json", first / "tokenizer_config.json"):
        foreign += [f"auto_map in {path}"] if "auto_map" in _object(path) else []
    if foreign and trust_remote_code:
        log.warning("%s: runs code that comes with the model (%s)", folder, ", ".join(foreign))
    elif foreign:
        raise InputError(
            f"{folder}: needs code that comes with the model ({', '.join(foreign)}), which is not run. If you have "
            "read it and trust it: model.trust_remote_code=true"
        )
    return first


def refuse_modules(folder: Path, names: Sequence[str]) -> NoReturn:
    """Raises `InputError` that tells which modules the model has, and which are wanted."""
    raise InputError(
        f"{folder}: the model is made of {' + '.join(names)}; wanted one that begins with a Transformer for texts, "
        "followed by a pooling, or with StaticEmbedding"
    )


def is_static(folder: Path) -> bool:
    """Whether the model is of static embeddings. model2vec puts a config.json beside them, which is none of
    transformers."""
    modules = read_modules(folder)
    return bool(modules) and modules[0][0].endswith(".StaticEmbedding")


def has_vocabulary(folder: Path) -> bool:
    return any(any(folder.glob(name)) for name in VOCABULARY)


def read_modules(folder: Path) -> list[tuple[str, Path]]:
    """(class, folder) of each module that modules.json names; none where there is no such file."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    modules = read_json(path, [{"type": str, "path": str, "name": str}])
    if not modules:
        raise InputError(f"{path}: names no modules")
    places = [str(PurePosixPath(module["path"])) for module in modules]
    found = [folder if place == "." else inside(folder, place, path) for place in places]
    return [(module["type"], place) for module, place in zip(modules, found, strict=True)]


def make_readable(folder: Path, max_length: int | None, own_config: Mapping[str, Any]) -> None:
    """Bring the folder that sentence-transformers 6 wrote into the older form; what only 6 has stays as it is.

    own_config: values that belong in config.json, of fields that training changed.
    """
    modules = read_json(folder / "modules.json")
    for module in modules:
        kind = module["type"].rpartition(".")[2]
        path = folder / module["path"] / "config.json"
        if not module["type"].startswith("sentence_transformers."):
            continue
        if kind == "Pooling":
            new = read_json(path)
            modes = [new["pooling_mode"]] if isinstance(new["pooling_mode"], str) else new["pooling_mode"]
            flags = {flag: mode in modes for flag, mode in FLAGS.items()}
            old = {"word_embedding_dimension": new["embedding_dimension"], **flags}
            if modes == [mode for mode in FLAGS.values() if mode in modes]:  # flags know no other order
                _write(path, {**old, "include_prompt": new["include_prompt"]})
        elif kind == "Dense":
            new = read_json(path)
            if {new.get(name) for name in ("module_input_name", "module_output_name")} <= {None, "sentence_embedding"}:
                _write(path, {name: value for name, value in new.items() if name in DENSE})
        elif kind == "Normalize":
            _write(path, {})
        module["type"] = f"sentence_transformers.models.{kind}"
    _write(folder / "modules.json", modules)
    # The oldest version that reads this: a reader older than the number here warns.
    settings = read_json(folder / "config_sentence_transformers.json")
    settings["__version__"]["sentence_transformers"] = "3.0.0"
    _write(folder / "config_sentence_transformers.json", settings)
    first = folder / modules[0]["path"]
    if (first / "config.json").is_file():
        _write(first / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
        _patch(first / "config.json", own_config, remove=["_name_or_path"])
        # How the tokenizer was last called, and where it was loaded from, is not part of the model.
        _patch(first / "tokenizer.json", {"padding": None, "truncation": None}, remove=[])
        _patch(first / "tokenizer_config.json", TOKENIZER_CONFIG, remove=["is_local", "local_files_only", "backend"])
    # safetensors writes files that only their owner may read.
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o666 & ~mask)


def _patch(path: Path, values: Mapping[str, Any], *, remove: list[str]) -> None:
    _write(path, {key: value for key, value in {**read_json(path), **values}.items() if key not in remove})


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, empty where there is no such file."""
    return dict(read_json(path, {})) if path.is_file() else {}


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
