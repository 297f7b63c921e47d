"""Hydra: the YAML values in `conf/`, command-line overrides, and the dataclass that all of it must fit."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from hydra import compose, initialize, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jemb.config import option_kinds, suggest
from jemb.config.parse import find_option, unknown_option
from jemb.core.errors import InputError

T = TypeVar("T")


def compose_config(name: str, cls: type[T], overrides: Sequence[str]) -> T:
    """The config of a command: dataclass defaults < overrides; for train, conf/train.yaml and its groups in between.

    Raises InputError for whatever does not fit, with the key and what is possible instead.
    """
    cls = _with_plugins(cls, overrides)
    folder = Path(str(files("jemb_conf")))
    config_dir, overrides = _take_config_dir(overrides)
    if config_dir and name != "train":
        raise InputError(f"--config-dir={config_dir}: only jemb train has experiments; jemb {name} takes options alone")
    folders = [folder, *([config_dir] if config_dir else [])] if name == "train" else []
    for_hydra, texts = _split(cls, overrides, folders)
    if config_dir:
        for_hydra.append(f"hydra.searchpath=[file://{config_dir.resolve()}]")
    ConfigStore.instance().store(name=f"{name}_defaults", node=_defaults(cls))
    GlobalHydra.instance().clear()
    try:
        # Only train has YAML files and groups of values to choose from.
        start = initialize_config_dir(str(folder), version_base="1.3") if folders else initialize(version_base="1.3")
        with start:
            raw = compose(config_name=name if folders else f"{name}_defaults", overrides=for_hydra)
        values = OmegaConf.to_container(raw, resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise InputError(_readable(str(error))) from None
    assert isinstance(values, dict)
    if name == "train" and "experiment" in values:
        raise InputError(
            "experiment: this file sets no option of jemb train; wanted the first line `# @package _global_`, and "
            "options below it"
        )
    for path, value in texts:
        inner = values
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = value
    return cls(**{str(key): value for key, value in values.items() if value != "???"})


def _split(
    cls: type, overrides: Sequence[str], folders: Sequence[Path]
) -> tuple[list[str], list[tuple[list[str], Any]]]:
    """(overrides for Hydra, (path of keys, value) of those that hold text).

    Text is taken as it stands: Hydra's grammar has uses of its own for =, ~, (, \\ and letters beyond ASCII, and makes
    numbers of names like 2024. Keys are checked here, where a near miss can be named.
    """
    kinds = option_kinds(cls)
    groups = sorted({path.parent.name for folder in folders for path in folder.glob("*/*.yaml")})
    for_hydra: list[str] = []
    texts: list[tuple[list[str], Any]] = []
    for override in overrides:
        name, value = _cut(override, kinds)
        if name in groups and (name not in kinds or value in _choices(name, folders)):
            _check_choice(name, value, folders)
            for_hydra.append(f"+{override}" if name == "experiment" else override)
            continue
        option, path = find_option(kinds, name) or (None, [])
        if option is None:
            if of_mapping := next((known for known in kinds if known.startswith(f"{name}.NAME")), None):
                raise InputError(f"option '{name}': got {value}; give {of_mapping}=… for each NAME")
            raise InputError(unknown_option([*kinds, *groups], name))
        if option.endswith(".OPTION"):  # of a stage, for one data set
            option = ".".join(path[-2:])
            if option not in kinds:
                raise InputError(unknown_option(kinds, name))
        kind = kinds[option]
        if kind in ("text", "text|null"):
            texts.append((path, None if value == "null" and kind == "text|null" else _unquoted(value)))
        elif kind.startswith("list of"):
            texts.append((path, _as_list(value)))
        elif "NAME" in option or len(path) > 2:
            texts.append((path, _value(value) if kind == "value" else _number(value)))
        elif "," in value and value[0] not in "[{":
            raise InputError(f"option '{name}': got '{value}'; wanted one value")
        else:
            for_hydra.append(override)
    return for_hydra, texts


def _cut(override: str, kinds: Mapping[str, str]) -> tuple[str, str]:
    """(option, value). The name of a data set may hold `=` too, so the first sign after an option counts, or the last
    where the value is a number."""
    cuts = [sign.start() for sign in re.finditer("=", override)]
    if not cuts:
        raise InputError(f"'{override}': wanted option=value")
    found = {cut: option[0] for cut in cuts if (option := find_option(kinds, override[:cut]))}
    numbers = [cut for cut, option in found.items() if "NAME" in option and kinds[option] == "float"]
    cut = max(numbers) if numbers else min(found, default=cuts[0])
    return override[:cut], override[cut + 1 :]


def _with_plugins(cls: type[T], overrides: Sequence[str]) -> type[T]:
    """The class with the options of what these import."""
    given = dict(override.partition("=")[::2] for override in overrides)
    whole: Any = getattr(cls, "whole", None)
    if whole is None:
        return cls
    found: type[T] = whole(_as_list(given.get("plugins", "[]")), _as_list(given.get("stages", "[]")))
    return found


def _number(text: str) -> float | str | None:
    """A value that Hydra does not see, since its name holds the user's own words."""
    try:
        return None if text == "null" else float(text)
    except ValueError:
        return text


def _value(text: str) -> Any:
    """A value of any kind, as YAML has it, but with 1e-3 for a number."""
    found = _number(text)
    if not isinstance(found, str):
        return int(text) if text.strip("+-").isdigit() else found
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
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


def _defaults(cls: type) -> dict[str, Any]:
    """The dataclass as plain values, which Hydra lays the YAML and the overrides over."""
    hints = get_type_hints(cls)
    out: dict[str, Any] = {}
    for item in fields(cls):
        if is_dataclass(hints[item.name]):
            out[item.name] = _defaults(hints[item.name])
        elif item.default_factory is not MISSING:
            out[item.name] = item.default_factory()
        else:
            out[item.name] = "???" if item.default is MISSING else item.default
    return out


def _take_config_dir(overrides: Sequence[str]) -> tuple[Path | None, list[str]]:
    rest = [override for override in overrides if not override.startswith("--config-dir=")]
    given = [override.partition("=")[2] for override in overrides if override.startswith("--config-dir=")]
    if not given:
        return None, rest
    if not Path(given[-1]).is_dir():
        raise InputError(f"--config-dir={given[-1]}: no such folder")
    return Path(given[-1]), rest


def _check_choice(group: str, value: str, folders: Sequence[Path]) -> None:
    choices = _choices(group, folders)
    if value not in choices:
        hint = suggest(value, choices)
        raise InputError(f"{group}={value}: there is no such {group}{hint}; there are: {', '.join(choices)}")


def find_kind(cls: type, name: str) -> str:
    """The type of an option in words; empty for what is none."""
    kinds = option_kinds(cls)
    found = find_option(kinds, name)
    return kinds[found[0]] if found else ""


def _choices(group: str, folders: Sequence[Path]) -> list[str]:
    return sorted(path.stem for folder in folders for path in (folder / group).glob("*.yaml"))


def _readable(message: str) -> str:
    """Hydra's message without the lines about its own inner objects."""
    lines = [
        line for line in message.splitlines() if line.strip() and "object_type" not in line and "HYDRA" not in line
    ]
    return "\n".join(lines)
