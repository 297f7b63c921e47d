"""Training: configuration to objects, the Lightning module, checkpoints, the run's records."""

from jemb.train.run import train

__all__ = ["train"]
