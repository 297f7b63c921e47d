"""Hydra: the YAML values in `conf/`, command-line overrides, and the dataclass that all of it must fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from hydra import compose, initialize, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jemb.config import option_names, parse, suggest
from jemb.errors import InputError

T = TypeVar("T")

MAPPINGS = ("weights",)
"""Options whose keys the user chooses."""


def compose_config(name: str, cls: type[T], overrides: Sequence[str]) -> T:
    """The config of a command: dataclass defaults < overrides; for train, conf/train.yaml and its groups in between.

    Raises InputError for whatever does not fit, with the key and what is possible instead.
    """
    folder = Path(str(files("jemb_conf")))
    config_dir, overrides = _take_config_dir(overrides)
    folders = [folder, *([config_dir] if config_dir else [])] if name == "train" else []
    prepared = [_prepare(cls, override, folders) for override in overrides]
    if config_dir:
        prepared.append(f"hydra.searchpath=[file://{config_dir.resolve()}]")
    ConfigStore.instance().store(name=f"{name}_defaults", node=_defaults(cls))
    GlobalHydra.instance().clear()
    try:
        # `model` chooses a group of values for train, but is a plain option of evaluate: only train sees the groups.
        start = initialize_config_dir(str(folder), version_base="1.3") if folders else initialize(version_base="1.3")
        with start:
            raw = compose(config_name=name if folders else f"{name}_defaults", overrides=prepared)
        values = OmegaConf.to_container(raw, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_readable(str(error))) from None
    assert isinstance(values, dict)
    given: dict[str, Any] = {str(key): value for key, value in values.items() if value != "???"}
    for key in MAPPINGS:
        if key in given:
            given[key] = _flatten(given[key])
    return parse(cls, given)


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


def _prepare(cls: type, override: str, folders: Sequence[Path]) -> str:
    """An override that Hydra can read, with its key checked here, where a near miss can be named."""
    key, sign, value = override.partition("=")
    if not sign:
        raise InputError(f"'{override}': wanted option=value")
    name = key.lstrip("+~")
    known = option_names(cls)
    groups = _groups(folders)
    # `model=tiny` and `objective=pairs` choose a group of values; `model.path=…` sets one.
    if name not in known and name not in groups and name.partition(".")[0] not in MAPPINGS:
        raise InputError(f"unknown option '{name}'{suggest(name, [*known, *groups])}; --help lists all options")
    if name in groups:
        _check_choice(name, value, folders)
    if name.partition(".")[0] in MAPPINGS and "." in name:
        key = "++" + name
    elif name == "experiment":
        key = "+experiment"
    prepared = f"{key}={value}"
    try:
        parsed = OverridesParser.create().parse_override(prepared)
        if not parsed.is_sweep_override():
            return prepared
    except HydraException:
        pass
    # A value that Hydra's grammar has other uses for (=, ~, a comma, letters beyond ASCII) is meant as it stands.
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{quoted}'"


def _groups(folders: Sequence[Path]) -> list[str]:
    """Groups of values to choose from: the sub-folders with YAML files."""
    return sorted({path.parent.name for folder in folders for path in folder.glob("*/*.yaml")})


def _check_choice(group: str, value: str, folders: Sequence[Path]) -> None:
    choices = sorted(path.stem for folder in folders for path in (folder / group).glob("*.yaml"))
    if value not in choices:
        hint = suggest(value, choices)
        raise InputError(f"{group}={value}: there is no such {group}{hint}; there are: {', '.join(choices)}")


def _flatten(values: Any, prefix: str = "") -> Any:
    """{"a": {"b": 1}} -> {"a.b": 1}: a data set's name may hold dots, which Hydra reads as levels."""
    if not isinstance(values, dict):
        return values
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= _flatten(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _readable(message: str) -> str:
    """Hydra's message without the lines about its own inner objects."""
    lines = [
        line for line in message.splitlines() if line.strip() and "object_type" not in line and "HYDRA" not in line
    ]
    return "\n".join(lines)
