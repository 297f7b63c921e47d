"""Model folders: what stands in one is looked at before anything of it is loaded, and what sentence-transformers 6 has
written is brought into the form that its versions 3 to 6 and other readers (TEI) understand.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from transformers.utils import logging as transformers_logging

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
TOKENIZER_CONFIG = {
    # The class that takes tokenizer.json as it is: those named after a model build some parts anew, in transformers 5.
    "tokenizer_class": "PreTrainedTokenizerFast",
    # What the model is given here; the class would add token types, which T5 refuses.
    "model_input_names": ["input_ids", "attention_mask"],
}
DENSE = {"in_features", "out_features", "bias", "activation_function"}


def check_folder(folder: Path, *, trust_remote_code: bool = False, kind: str = "SentenceTransformer") -> Path:
    """Where config.json and weights are: `folder`, or what modules.json names.

    Raises `InputError` for another kind of sentence-transformers' models, and unless trust_remote_code for code that
    comes with the model: classes of modules, `auto_map`, activations.
    """
    modules: list[tuple[str, Path]] = []
    if (path := folder / "modules.json").is_file():
        found = _object(folder / "config_sentence_transformers.json").get("model_type", kind)
        if found != kind:
            raise InputError(f"{folder}: a {found} of sentence-transformers; wanted a {kind}")
        for module in read_json(path, [{"type": str, "path": str, "name": str}]):
            place = str(PurePosixPath(module["path"]))
            modules.append((module["type"], folder if place == "." else inside(folder, place, path)))
    first = modules[0][1] if modules else folder
    foreign = [module for module, _ in modules if not module.startswith("sentence_transformers.")]
    for module, at in modules:
        activation = _object(at / "config.json").get("activation_function")
        if module.endswith(".Dense") and activation is not None and not str(activation).startswith("torch."):
            foreign.append(str(activation))
    for config in (first / "config.json", first / "tokenizer_config.json"):
        foreign += [f"auto_map in {config}"] if "auto_map" in _object(config) else []
    if foreign and trust_remote_code:
        log.warning("%s: runs code that comes with the model (%s)", folder, ", ".join(foreign))
    elif foreign:
        raise InputError(
            f"{folder}: needs code that comes with the model ({', '.join(foreign)}), which is not run. If you have "
            "read it and trust it: model.trust_remote_code=true"
        )
    return first


def make_readable(folder: Path, max_length: int | None, own_config: Mapping[str, Any]) -> None:
    """Bring the folder that sentence-transformers 6 wrote into the older form; what only 6 has stays as it is.

    own_config: values that belong in config.json, of fields that training changed.
    """
    modules = read_json(folder / "modules.json")
    for module in modules:
        if not module["type"].startswith("sentence_transformers."):
            continue
        kind = module["type"].rpartition(".")[2]
        module["type"] = f"sentence_transformers.models.{kind}"
        path = folder / module["path"] / "config.json"
        new = _object(path)
        if kind == "Pooling":
            modes = [new["pooling_mode"]] if isinstance(new["pooling_mode"], str) else new["pooling_mode"]
            flags = {flag: mode in modes for flag, mode in FLAGS.items()}
            old = {"word_embedding_dimension": new["embedding_dimension"], **flags}
            if modes == [mode for mode in FLAGS.values() if mode in modes]:  # flags know no other order
                _write(path, {**old, "include_prompt": new["include_prompt"]})
        names = {new.get("module_input_name"), new.get("module_output_name")}
        if kind == "Dense" and names <= {None, "sentence_embedding"}:
            _write(path, {name: value for name, value in new.items() if name in DENSE})
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
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors, no bars. The callers check what the reports would have said."""
    theirs = logging.getLogger("sentence_transformers")
    verbosity, level = transformers_logging.get_verbosity(), theirs.level
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    theirs.setLevel(logging.ERROR)
    try:
        yield
    finally:
        theirs.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
