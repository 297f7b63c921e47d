"""A trained run becomes a folder that sentence-transformers and plain transformers load.

Before: `train/` has written the run folder, and perhaps `evaluate/` its scores. After: anyone uses the model.
"""

import sys

from jemb import Command
from jemb.export.exporter import export

__all__ = ["export"]

sys.modules[__name__].__class__ = Command  # `jemb.export(config)` is the command
