"""The options of a command line, and for `jemb train` Hydra's sets of values in `conf/`, as a config that fits."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jemb.config import option_kinds, suggest
from jemb.config.parse import find_option, unknown_option
from jemb.core.errors import InputError

T = TypeVar("T")


def compose_config(name: str, cls: type[T], overrides: Sequence[str]) -> T:
    """The config of a command: defaults < sets of values (`model=NAME`, … of train) < options, wherever they stand.

    Raises InputError for whatever does not fit, with the key and what is possible instead.
    """
    if whole := getattr(cls, "whole", None):  # the class with the options of what these import
        given = dict(override.partition("=")[::2] for override in overrides)
        cls = whole(*(_as_list(given.get(name, "[]")) for name in ("plugins", "stages")))
    config_dir = None
    if folders_given := [o.partition("=")[2] for o in overrides if o.startswith("--config-dir=")]:
        config_dir = Path(folders_given[-1])
        if name != "train":
            raise InputError(f"--config-dir={config_dir}: only jemb train has experiments, not jemb {name}")
        if not config_dir.is_dir():
            raise InputError(f"--config-dir={config_dir}: no such folder")
    folders = [Path(str(files("jemb_conf"))), *([config_dir] if config_dir else [])] if name == "train" else []
    choices: list[str] = []
    options: list[tuple[list[str], Any]] = []
    kinds = option_kinds(cls)
    groups = sorted({path.parent.name for folder in folders for path in folder.glob("*/*.yaml")})
    for override in overrides:
        key, sign, value = _cut(override, kinds)
        known = sorted(path.stem for folder in folders for path in (folder / key).glob("*.yaml"))
        if key == "--config-dir":
            continue
        if not sign:
            raise InputError(f"'{override}': wanted option=value")
        if key in groups and (key not in kinds or value in known):
            if value not in known:
                hint = suggest(value, known)
                raise InputError(f"{key}={value}: there is no such {key}{hint}; there are: {', '.join(known)}")
            choices.append(f"+{override}" if key == "experiment" else override)
        else:
            options.append(_option([*kinds, *groups], kinds, key, value))
    values = _compose(folders, choices) if folders else {}
    for path, value in options:
        inner = values
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = value
    return cls(**values)


def _cut(override: str, kinds: dict[str, str]) -> tuple[str, str, str]:
    """(option, `=`, value). The name of a data set may hold the sign too: then the first one after an option counts, or
    the last one where the value is a number."""
    cuts = [place for place, sign in enumerate(override) if sign == "="]
    found = {cut: option[0] for cut in cuts if (option := find_option(kinds, override[:cut]))}
    numbers = [cut for cut, option in found.items() if "NAME" in option and kinds[option] == "float"]
    cut = max(numbers) if numbers else min(found, default=cuts[0] if cuts else len(override))
    return override[:cut], override[cut : cut + 1], override[cut + 1 :]


def _compose(folders: Sequence[Path], choices: list[str]) -> dict[str, Any]:
    """The values of the sets that are chosen, as Hydra lays them over each other."""
    search = [f"hydra.searchpath=[file://{folder.resolve()}]" for folder in folders[1:]]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folders[0]), version_base="1.3"):
            raw: Any = OmegaConf.to_container(compose("train", overrides=[*choices, *search]), resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise InputError("\n".join(line for line in str(error).splitlines() if line.strip())) from None
    if "experiment" in raw:
        raise InputError(
            "experiment: this file sets no option of jemb train; wanted the first line `# @package _global_`, and "
            "options below it"
        )
    return dict(raw)


def _option(names: Sequence[str], kinds: dict[str, str], key: str, value: str) -> tuple[list[str], Any]:
    """(path of keys, value). Keys are checked here, where a near miss can be named; values by the config."""
    option, path = find_option(kinds, key) or (None, [])
    if option is None:
        if of_mapping := next((known for known in kinds if known.startswith(f"{key}.NAME")), None):
            raise InputError(f"option '{key}': got {value}; give {of_mapping}=… for each NAME")
        raise InputError(unknown_option(names, key))
    if option.endswith(".OPTION"):  # of a stage, for one data set
        option = ".".join(path[-2:])
        if option not in kinds:
            raise InputError(unknown_option(kinds, key))
    return path, _value(kinds[option], value)


def _value(kind: str, text: str) -> Any:
    """Text is taken as it stands: Hydra's grammar has uses of its own for =, ~, (, \\ and letters beyond ASCII, and
    makes numbers of names like 2024. `max_steps=1e3` is a number, too; lists and mappings are YAML's."""
    if kind.startswith("list of"):
        return _as_list(text)
    if kind == "text" or (kind == "text|null" and text != "null"):
        return _unquoted(text)
    if text.lower() in (words := {"true": True, "false": False, "null": None}):
        return words[text.lower()]
    for read in (int, float, *([yaml.safe_load] if text[:1] in "[{" else [])):
        with suppress(ValueError, yaml.YAMLError):
            return read(text)
    return text


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _as_list(text: str) -> list[str]:
    """`[a, b]` -> ["a", "b"]; without brackets one text. A comma inside an item needs quotes around the item."""
    if not (text.startswith("[") and text.endswith("]")):
        return [_unquoted(text)]
    quote = '"' if '"' in text else "'"
    (items,) = csv.reader([text[1:-1]], quotechar=quote, skipinitialspace=True)
    return [item.strip() for item in items if item.strip()]
