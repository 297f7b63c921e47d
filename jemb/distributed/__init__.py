"""Facts about the processes of a job, and the collectives of a training step."""

from jemb.distributed.gather import gather_rows, gather_values
from jemb.distributed.ranks import mean_over_ranks, rank, world_size

__all__ = ["gather_rows", "gather_values", "mean_over_ranks", "rank", "world_size"]
