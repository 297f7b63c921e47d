"""jemb trains text-embedding models: raw pairs -> curated shards -> contrastive training -> exported model.

    import jemb

    jemb.prepare(jemb.PrepareConfig(input="raw", output="shards"))
    jemb.train(jemb.TrainConfig(shards="shards", output="run", max_steps=1000))

All names are imported when they are first used; `import jemb` alone loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jemb.app.api import merge as merge
    from jemb.app.api import tokenize as tokenize
    from jemb.app.api import weigh as weigh
    from jemb.config import EvaluateConfig as EvaluateConfig
    from jemb.config import ExportConfig as ExportConfig
    from jemb.config import MergeConfig as MergeConfig
    from jemb.config import ModelConfig as ModelConfig
    from jemb.config import TokenizeConfig as TokenizeConfig
    from jemb.config import TrainConfig as TrainConfig
    from jemb.config import WeighConfig as WeighConfig
    from jemb.core.errors import Failure as Failure
    from jemb.core.errors import InputError as InputError
    from jemb.data import GlobalBatchSampler as GlobalBatchSampler
    from jemb.data import for_sentence_transformers as for_sentence_transformers
    from jemb.data.module import PairData as PairData
    from jemb.loss import Loss as Loss
    from jemb.loss import Objective as Objective
    from jemb.loss import Texts as Texts
    from jemb.loss import objective as objective
    from jemb.model import Encoder as Encoder
    from jemb.model import encode as encode
    from jemb.model import load_encoder as load_encoder
    from jemb.prepare.options import PrepareConfig as PrepareConfig
    from jemb.train import Checkpoints as Checkpoints
    from jemb.train import CopyToStorage as CopyToStorage
    from jemb.train import EmbeddingModule as EmbeddingModule
    from jemb.train import RunLog as RunLog
    from jemb.train import StopOnSignal as StopOnSignal
    from jemb.train import evaluate_in_loop as evaluate_in_loop

COMMANDS = ("prepare", "train", "evaluate", "export")
"""Packages of which each is a function as well: `jemb.train(config)`."""
HOMES = {
    "jemb.app.api": ("merge", "tokenize", "weigh"),
    "jemb.config": (
        "EvaluateConfig",
        "ExportConfig",
        "MergeConfig",
        "ModelConfig",
        "TokenizeConfig",
        "TrainConfig",
        "WeighConfig",
    ),
    "jemb.data": ("GlobalBatchSampler", "for_sentence_transformers"),
    "jemb.data.module": ("PairData",),
    "jemb.core.errors": ("Failure", "InputError"),
    "jemb.loss": ("Loss", "Objective", "Texts", "objective"),
    "jemb.model": ("Encoder", "encode", "load_encoder"),
    "jemb.prepare.options": ("PrepareConfig",),
    "jemb.train": ("Checkpoints", "CopyToStorage", "EmbeddingModule", "RunLog", "StopOnSignal", "evaluate_in_loop"),
}
"""Where each further name of `jemb` stands."""


def __getattr__(name: str) -> Any:
    if name in COMMANDS:
        return import_module(f"jemb.{name}")
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'jemb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*COMMANDS, *(name for names in HOMES.values() for name in names), "__version__"]


class Command(ModuleType):
    """A package of the name of a command, which is the command as well: `jemb.train(config)`, and `jemb.train.…`."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return getattr(import_module("jemb.app.api"), self.__name__.rpartition(".")[2])(*arguments, **options)
