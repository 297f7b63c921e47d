"""Weights, gradients and optimiser state in shards, by torch's FSDP2 (`fully_shard`); on GPUs and on CPU processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from jemb.core.errors import InputError
from jemb.distributed.processes import Processes

ON_CPU = hasattr(torch.cpu.Stream, "record_event")
"""Whether this torch runs FSDP2 on CPU processes: 2.6 does not, 2.13 does."""


def make_fsdp(processes: Processes, timeout: timedelta) -> ModelParallelStrategy:
    """Lightning's strategy for FSDP2: all processes are data-parallel. (Its FSDPStrategy is FSDP1, and GPU only.)

    Raises InputError on CPU processes where this version of torch cannot do it there.
    """
    if processes.device.type == "cpu" and not ON_CPU:
        raise InputError(f"strategy=fsdp on CPU needs a newer torch than {torch.__version__}; use strategy=ddp")
    strategy = ModelParallelStrategy(
        data_parallel_size=processes.info.world_size,
        tensor_parallel_size=1,
        process_group_backend="gloo" if processes.device.type == "cpu" else "nccl",
        timeout=timeout,
    )
    strategy.parallel_devices = processes.devices_of_node
    return strategy


def shard(encoder: nn.Module, heads: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Shard each of the encoder's repeated layers, then what is left; and each of the heads as one. A layer is whole
    only while it computes.

    Gradients are averaged over the ranks once in a backward pass, however often the encoder was called before it.
    """
    for layer in list(_layers(encoder)):
        fully_shard(layer, mesh=mesh)
    for module in (encoder, *heads):
        fully_shard(module, mesh=mesh)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost module lists: the layers of any transformer."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _layers(child)
