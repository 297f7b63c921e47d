"""What every command can be told: one frozen dataclass a command, with meaning, unit, range and default of each field.

`jemb <command> --help` is made from these docstrings. The classes know neither Hydra nor the code they configure;
`app/` fills them, and `parse` refuses unknown keys, wrong types and values out of range with an `InputError`.
"""

from jemb.config.commands import DemoConfig, EvaluateConfig, ExportConfig, InspectConfig
from jemb.config.parse import describe, option_kinds, option_names, parse, suggest
from jemb.config.prepare import ConsistencyConfig, FieldsConfig, LanguageConfig, NearDuplicatesConfig, PrepareConfig
from jemb.config.train import ModelConfig, TrainConfig
from jemb.config.types import DuplicateSide, Sides, StageName

__all__ = [
    "ConsistencyConfig",
    "DemoConfig",
    "DuplicateSide",
    "EvaluateConfig",
    "ExportConfig",
    "FieldsConfig",
    "InspectConfig",
    "LanguageConfig",
    "ModelConfig",
    "NearDuplicatesConfig",
    "PrepareConfig",
    "Sides",
    "StageName",
    "TrainConfig",
    "describe",
    "option_kinds",
    "option_names",
    "parse",
    "suggest",
]
