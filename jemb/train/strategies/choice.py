"""How processes share the work. All strategies obey one law: gradients are averaged over the ranks once a step, weights
are fp32, the gradient norm is the global batch's before clipping. So a run may change its strategy when it goes on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from datetime import timedelta

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW, Optimizer

from jemb.config import TrainConfig
from jemb.core.errors import InputError
from jemb.distributed.processes import Processes
from jemb.launch import RankInfo
from jemb.train.optim import start_moments
from jemb.train.strategies.deepspeed import ZeroState, ZeroStrategy

FSDP_ON_CPU = hasattr(torch.cpu.Stream, "record_event")
"""Whether this torch runs FSDP2 on CPU processes: 2.6 does not, 2.13 does."""


class JoinedEnvironment(ClusterEnvironment):
    """Gives Lightning the ranks we joined with. Its own SLURMEnvironment mistakes a batch script for a task of a step,
    and refuses tasks that were not counted by node."""

    creates_processes_externally = True

    def __init__(self, info: RankInfo) -> None:
        super().__init__()
        self.info = info

    @property
    def main_address(self) -> str:
        return self.info.address

    @property
    def main_port(self) -> int:
        return self.info.port or find_free_network_port()

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.info.world_size

    def set_world_size(self, size: int) -> None:
        """Fixed."""

    def global_rank(self) -> int:
        return self.info.rank

    def set_global_rank(self, rank: int) -> None:
        """Fixed."""

    def local_rank(self) -> int:
        return self.info.local_rank

    def node_rank(self) -> int:
        return self.info.node


def choose_strategy(name: str, num_processes: int) -> str:
    """`auto`: one process needs nothing, several average gradients (ddp). The option's docstring says what each does.

    Raises InputError for `single` with several processes, and for deepspeed_N where DeepSpeed is not installed.
    """
    if name == "single" and num_processes > 1:
        raise InputError(f"strategy=single, but {num_processes} processes were started: use strategy=ddp")
    if name.startswith("deepspeed") and importlib.util.find_spec("deepspeed") is None:
        raise InputError(
            f"strategy={name} needs DeepSpeed, which is not installed: pip install 'jemb[deepspeed]', or use "
            "strategy=ddp or strategy=fsdp"
        )
    if name == "auto":
        return "single" if num_processes == 1 else "ddp"
    return name


def make_strategy(config: TrainConfig, processes: Processes) -> Strategy:
    """Lightning's object for `choose_strategy`."""
    name = choose_strategy(config.strategy, processes.info.world_size)
    timeout = timedelta(minutes=config.timeout_minutes)
    if name == "single":
        return SingleDeviceStrategy(device=processes.device)
    if name == "fsdp":
        return _make_fsdp(processes, timeout)
    if name.startswith("deepspeed"):
        return ZeroStrategy(int(name[-1]), processes, timeout)
    return DDPStrategy(
        parallel_devices=processes.devices_of_node,
        timeout=timeout,
        gradient_as_bucket_view=True,
        broadcast_buffers=False,  # ours are constants
    )


def _make_fsdp(processes: Processes, timeout: timedelta) -> ModelParallelStrategy:
    """Lightning's strategy for FSDP2: all processes are data-parallel. (Its FSDPStrategy is FSDP1, and GPU only.)

    Raises InputError on CPU processes where this version of torch cannot do it there.
    """
    if processes.device.type == "cpu" and not FSDP_ON_CPU:
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
    Weights are put together in fp32, in bf16 as well: FSDP2's own policy for bf16 has each layer's gradients summed in
    bf16, which puts them 1 to 155 % off (docs/log.md).
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


class TorchState:
    """Whole weights and AdamW moments of single parameters, where every rank has all of it, or FSDP2 a shard of it;
    `ZeroState` has them where DeepSpeed keeps them.

    Every call is made by all ranks together and in the same order, `start` before all others in a new process: it makes
    AdamW's state of a run that has done `steps` steps, 0 or more, with moments of 0.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def start(self, steps: int) -> None:
        if not isinstance(self.optimizer, AdamW):
            raise InputError(f"checkpoints hold the state of AdamW, not of {type(self.optimizer).__name__}")
        start_moments(self.optimizer, (p for g in self.optimizer.param_groups for p in g["params"]), steps)

    def weight(self, p: nn.Parameter) -> Tensor:
        return _whole(p.detach())

    def moment(self, p: nn.Parameter, name: str) -> Tensor:
        return _whole(self.optimizer.state[p][name])

    def set_moment(self, p: nn.Parameter, name: str, value: Tensor) -> None:
        kept = self.optimizer.state[p][name]
        if isinstance(kept, DTensor):
            value = distribute_tensor(value.to(p.device), kept.device_mesh, kept.placements).to_local()
            kept = kept.to_local()
        kept.copy_(value)


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def state_of(strategy: Strategy) -> TorchState | ZeroState:
    """Access to what `strategy` keeps, once Lightning has set it up."""
    if isinstance(strategy, DeepSpeedStrategy):
        return ZeroState(strategy)
    (optimizer,) = strategy.optimizers
    return TorchState(optimizer)
