"""`jemb new`: a user's own project, copied from `template/`: example data, settings, and the commands that use them."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from shutil import copytree

from jemb.config import NewConfig
from jemb.core.errors import InputError
from jemb.core.folders import check_free, whole_folder

HIDDEN = "gitignore"
"""In the template without its dot, which package data would lose."""


def new(config: NewConfig) -> Path:
    """Make the folder `config.path`, which appears whole; return it. Raises `InputError` where something is there."""
    folder = Path(config.path).expanduser().resolve()
    check_free(folder, f"path={config.path}")
    try:
        with whole_folder(folder) as temporary, as_file(files("jemb.new") / "template") as template:
            copytree(template, temporary, dirs_exist_ok=True)
            (temporary / HIDDEN).rename(temporary / f".{HIDDEN}")
            readme = temporary / "README.md"
            readme.write_text(readme.read_text(encoding="utf-8").replace("PROJECT", folder.name), encoding="utf-8")
    except OSError as error:
        raise InputError(f"path={config.path}: cannot be made ({error.strerror})") from None
    return folder
