"""Facts about the processes of a job, the collectives of a training step, and encoding by all processes together."""

from jemb.distributed.gather import gather_rows, gather_values
from jemb.distributed.ranks import max_over_ranks, mean_over_ranks, rank, world_size
from jemb.distributed.share import Encode, shared_encoding

__all__ = [
    "Encode",
    "gather_rows",
    "gather_values",
    "max_over_ranks",
    "mean_over_ranks",
    "rank",
    "shared_encoding",
    "world_size",
]
