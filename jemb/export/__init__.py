"""A trained run becomes a folder that sentence-transformers and plain transformers load.

Before: `train/` has written the run folder, and perhaps `evaluate/` its scores. After: anyone uses the model.
"""

from jemb.export.exporter import export

__all__ = ["export"]
