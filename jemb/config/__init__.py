"""What every command can be told: one frozen dataclass a command, with meaning, unit, range and default of each field.

`jemb <command> --help` is made from these docstrings. The classes know neither Hydra nor the code they configure.
Each checks itself when one is made, in Python as by a command: unknown names, wrong types and values out of range raise
`InputError` (`parse.options`).
"""

from jemb.config.commands import (
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    MergeConfig,
    NewConfig,
    TokenizeConfig,
    WeighConfig,
)
from jemb.config.parse import describe, option_kinds, option_names, options
from jemb.config.train import EvaluationConfig, LossWeights, ModelConfig, TrainConfig
from jemb.config.types import DuplicateSide, Positive, Role, Share, Strings, roles
from jemb.registry import suggest

__all__ = [
    "DemoConfig",
    "DuplicateSide",
    "EvaluateConfig",
    "EvaluationConfig",
    "ExportConfig",
    "InspectConfig",
    "LossWeights",
    "MergeConfig",
    "ModelConfig",
    "NewConfig",
    "Positive",
    "Role",
    "Share",
    "Strings",
    "TokenizeConfig",
    "TrainConfig",
    "WeighConfig",
    "describe",
    "option_kinds",
    "option_names",
    "options",
    "roles",
    "suggest",
]
