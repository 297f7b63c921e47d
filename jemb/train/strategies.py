"""How processes share the work. All strategies obey one law: gradients are averaged over the ranks once a step, weights
are fp32, the gradient norm is the global batch's before clipping. So a run may change its strategy when it goes on.
"""

from __future__ import annotations

import importlib.util
import socket
from datetime import timedelta
from typing import Protocol

from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW, Optimizer

from jemb.config import TrainConfig
from jemb.core.errors import InputError
from jemb.distributed.processes import Processes
from jemb.launch import RankInfo
from jemb.train.deepspeed import ZeroState, ZeroStrategy
from jemb.train.fsdp import make_fsdp
from jemb.train.optim import start_moments


class JoinedEnvironment(ClusterEnvironment):
    """Gives Lightning the ranks we joined with. Its own SLURMEnvironment mistakes a batch script for a task of a step,
    and refuses tasks that were not counted by node."""

    def __init__(self, info: RankInfo) -> None:
        super().__init__()
        self.info = info

    creates_processes_externally = True

    @property
    def main_address(self) -> str:
        return self.info.address

    @property
    def main_port(self) -> int:
        return self.info.port or _free_port()

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


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


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
        return make_fsdp(processes, timeout)
    if name.startswith("deepspeed"):
        return ZeroStrategy(int(name[-1]), processes, timeout)
    return DDPStrategy(
        parallel_devices=processes.devices_of_node,
        timeout=timeout,
        gradient_as_bucket_view=True,
        broadcast_buffers=False,  # ours are constants
    )


class State(Protocol):
    """Whole weights and AdamW moments of single parameters, wherever a strategy keeps them.

    Every call is made by all ranks together and in the same order, `start` before all others in a new process.
    """

    def start(self, steps: int) -> None:
        """Make AdamW's state of a run that has done `steps` steps, 0 or more, with moments of 0."""

    def weight(self, p: nn.Parameter) -> Tensor: ...

    def moment(self, p: nn.Parameter, name: str) -> Tensor: ...

    def set_moment(self, p: nn.Parameter, name: str, value: Tensor) -> None: ...


class TorchState:
    """Where every rank has all of it, or FSDP2 a shard of it."""

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


def state_of(strategy: Strategy) -> State:
    """Access to what `strategy` keeps, once Lightning has set it up."""
    if isinstance(strategy, DeepSpeedStrategy):
        return ZeroState(strategy)
    (optimizer,) = strategy.optimizers
    return TorchState(optimizer)
