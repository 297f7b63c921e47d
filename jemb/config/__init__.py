"""What every command can be told: one frozen dataclass a command, with meaning, unit, range and default of each field.

`jemb <command> --help` is made from these docstrings. The classes know neither Hydra nor the code they configure.
Each checks itself when one is made, in Python as by a command: unknown names, wrong types and values out of range raise
`InputError` (`parse.options`).
"""

from jemb.config.commands import (
    CompletionConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    NewConfig,
    TokenizeConfig,
)
from jemb.config.parse import describe, option_kinds, option_names, options
from jemb.config.prepare import (
    ConsistencyConfig,
    CrossEncoderConfig,
    DecontaminateConfig,
    ExactConfig,
    FieldsConfig,
    LanguageConfig,
    MineConfig,
    NearDuplicatesConfig,
    NegationConfig,
    OverlapConfig,
    PrepareConfig,
    RayConfig,
    SourceConfig,
)
from jemb.config.train import EvaluationConfig, LossWeights, ModelConfig, TrainConfig
from jemb.config.types import DuplicateSide, Role, Sides, StageName, roles
from jemb.registry import suggest

__all__ = [
    "CompletionConfig",
    "ConsistencyConfig",
    "CrossEncoderConfig",
    "DecontaminateConfig",
    "DemoConfig",
    "DuplicateSide",
    "EvaluateConfig",
    "EvaluationConfig",
    "ExactConfig",
    "ExportConfig",
    "FieldsConfig",
    "InspectConfig",
    "LanguageConfig",
    "LossWeights",
    "MineConfig",
    "ModelConfig",
    "NearDuplicatesConfig",
    "NegationConfig",
    "NewConfig",
    "OverlapConfig",
    "PrepareConfig",
    "RayConfig",
    "Role",
    "Sides",
    "SourceConfig",
    "StageName",
    "TokenizeConfig",
    "TrainConfig",
    "describe",
    "option_kinds",
    "option_names",
    "options",
    "roles",
    "suggest",
]
