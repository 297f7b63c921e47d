"""Configs made in Python are checked as the command checks them, with the same words."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest

from jemb import config as configs
from jemb.app.compose import compose_config
from jemb.config import ExportConfig, ModelConfig, TrainConfig
from jemb.core.errors import InputError
from jemb.prepare.options import PrepareConfig, SourceConfig
from jemb.prepare.registry import all_stages

TRAIN: dict[str, Any] = {"shards": "s", "output": "o"}
MISTAKES: list[tuple[str, Any]] = [
    ("objective", "cosent"),
    ("objectve", "pairs"),
    ("max_steps", "many"),
    ("max_steps", 0),
    ("max_steps", True),
    ("global_batch_size", 8.5),
    ("learning_rate", float("inf")),
    ("learning_rate", None),
    ("temperature", 0),
    ("strategy", "dpp"),
    ("mask_equal_texts", "perhaps"),
    ("seed", -1),
    ("output", ""),
    ("model.num_heads", 3),
    ("model.hiden_size", 32),
    ("model.num_layers", True),
    ("weights.a", "heavy"),
    ("weights.a", -1),
    ("evaluation.patience", 3),
    ("extra_negatives", ["positive_negative"]),
    ("trackers", ["tensorbord"]),
]


def written(value: Any) -> str:
    words = {None: "null", True: "true"}
    return f"[{','.join(value)}]" if isinstance(value, list) else words.get(value, str(value))


@pytest.mark.parametrize(("name", "value"), MISTAKES, ids=[f"{name}={value}" for name, value in MISTAKES])
def test_a_mistake_costs_the_same_words_in_python_and_at_the_command(name: str, value: Any) -> None:
    options = [f"{key}={text}" for key, text in TRAIN.items() if key != name]
    if name == "objective":  # a group of values at the command
        wanted = "objective=cosent: there is no such objective"
    else:
        with pytest.raises(InputError) as by_command:
            compose_config("train", TrainConfig, [*options, f"{name}={written(value)}"])
        wanted = str(by_command.value)
    outer, _, inner = name.partition(".")
    with pytest.raises(InputError) as in_python:
        TrainConfig(**{**TRAIN, outer: {inner: value} if inner else value})
    if name != "objective":
        assert str(in_python.value) == wanted.replace("got -1.0", "got -1")


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InputError) as error:
        TrainConfig(shards=3, seed=-1)  # type: ignore[arg-type,call-arg]
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == [
        "option 'shards'",
        "option 'output' is missing",
        "option 'seed'",
    ]


def test_options_have_names() -> None:
    with pytest.raises(InputError, match="got 'runs/a' without a name; wanted option=value, as in run='runs/a'"):
        ExportConfig("runs/a", output="o")  # type: ignore[call-arg]


def test_every_config_class_checks_itself() -> None:
    classes = [cls for name in configs.__all__ if dataclasses.is_dataclass(cls := getattr(configs, name))]
    classes += [stage.options for stage in all_stages().values() if stage.options]
    classes += [PrepareConfig, SourceConfig]
    assert len(classes) > 20
    for cls in classes:
        with pytest.raises(InputError, match="unknown option 'nonsense'"):
            cls(nonsense=1)


def test_a_changed_copy_is_checked_too() -> None:
    config = TrainConfig(**TRAIN)
    assert dataclasses.replace(config, seed=3).seed == 3
    with pytest.raises(InputError, match="option 'seed': got -1"):
        dataclasses.replace(config, seed=-1)
    with pytest.raises(InputError, match="multiple of"):
        ModelConfig(num_heads=3)


def test_a_path_is_a_text_and_a_mapping_a_part() -> None:
    config = TrainConfig(shards=Path("a") / "b", output="o", model={"hidden_size": 64})  # type: ignore[arg-type]
    assert config.shards == "a/b"
    assert config.model == ModelConfig(hidden_size=64)
    assert PrepareConfig(
        input="i", output="o", decontaminate={"against": [Path("x")]}, stages=["decontaminate"]
    ).decontaminate.against == ["x"]  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(config)) == config
