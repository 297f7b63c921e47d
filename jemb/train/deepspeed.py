"""ZeRO stages 1 to 3 (arXiv 1910.02054) by DeepSpeed, on GPUs and on CPU processes, with the law of all strategies:
fp32 weights, gradients averaged once over the ranks, no loss scale, the norm measured before clipping.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.plugins import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor, nn

from jemb.distributed.processes import Processes
from jemb.train.optim import start_moments


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroConfig:
    """Everything DeepSpeed is told. stage: 1 shards AdamW's state, 2 gradients as well, 3 weights as well.

    Sizes are numbers of elements. What a stage does not know is left out of the dict.
    """

    stage: int
    overlap_comm: bool = True
    reduce_bucket_size: int = 25_000_000
    allgather_bucket_size: int = 25_000_000
    param_persistence_threshold: int = 0
    """Stage 3: smaller weights stay whole on every process. 0: none, so a tiny model takes the way of a large one."""
    prefetch_bucket_size: int = 25_000_000
    max_live_parameters: int = 1_000_000_000
    max_reuse_distance: int = 0
    """Stage 3: weights are kept while they are needed again within so many elements. 0: a layer is whole only while it
    computes. DeepSpeed's 10^9 looks that far ahead at each module, which takes minutes where a step calls the encoder
    many times."""

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        stage = values.pop("stage")
        only_3 = ("param_persistence_threshold", "prefetch_bucket_size", "max_live_parameters", "max_reuse_distance")
        third = {f"stage3_{name}": values.pop(name) for name in only_3}
        return {
            "train_micro_batch_size_per_gpu": 1,  # for DeepSpeed's own timers only
            "prescale_gradients": False,
            "gradient_predivide_factor": 1.0,
            "fp16": {"enabled": False},
            "bf16": {"enabled": False},  # autocast in the module: fp32 weights, as under every other strategy
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": stage, **values, **(third if stage == 3 else {})},
        }


class ZeroPrecision(DeepSpeedPrecision):
    """Leaves batches as they are: they hold integers, and are frozen, which Lightning refuses to copy."""

    def __init__(self) -> None:
        super().__init__("32-true")

    def convert_input(self, data: Any) -> Any:
        return data


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's strategy without its two checks for a GPU; on CPU DeepSpeed computes with DS_ACCELERATOR=cpu.

    processes: those of `jemb train`; None: the Trainer says which devices there are. timeout: of a collective.
    """

    def __init__(
        self, zero: ZeroConfig, processes: Processes | None = None, timeout: timedelta = timedelta(minutes=30)
    ) -> None:
        on_cpu = processes.device.type == "cpu" if processes else not torch.cuda.is_available()
        if on_cpu:
            os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported, which Lightning does now
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        super().__init__(
            config=zero.as_dict(),
            logging_level=logging.ERROR,
            precision_plugin=ZeroPrecision(),
            parallel_devices=processes.devices_of_node if processes else None,
            process_group_backend="gloo" if on_cpu else "nccl",
            timeout=timeout,
        )
        if on_cpu:
            from deepspeed import ops

            # Not used in training, and compiled with a C++ compiler at the first start, for a minute or two.
            ops.__compatible_ops__["deepspeed_shm_comm"] = False

    @property
    def root_device(self) -> torch.device:
        assert self.parallel_devices
        device = self.parallel_devices[0]
        return device if device.type == "cuda" else torch.device("cpu", 0)  # DeepSpeed wants a number

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        # Lightning's own asks for a GPU (Lightning-AI/pytorch-lightning#12607); what it does then has no public name.
        self.set_world_ranks()
        self._init_deepspeed_distributed()


class ZeroState:
    """Weights and moments of a model that DeepSpeed has taken over, by its public helpers, parameter by parameter."""

    def __init__(self, strategy: DeepSpeedStrategy) -> None:
        self.engine: Any = strategy.deepspeed_engine
        self.zero: Any = self.engine.optimizer
        self.third = self.engine.zero_optimization_stage() == 3

    def start(self, steps: int) -> None:
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        zero = self.zero
        parts = zero.fp32_partitioned_groups_flat if self.third else zero.single_partition_of_fp32_groups
        start_moments(zero.optimizer, parts, steps)
        if not self.third:  # which DeepSpeed does after the first step, but for the first group of parameters only
            for parameters, part in zip(zero.bit16_groups, parts, strict=True):
                lazy_init_hp_params_optimizer_state(parameters, part, zero.optimizer.state)

    def weight(self, p: nn.Parameter) -> Tensor:
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        if p.requires_grad:
            return safe_get_full_fp32_param(p)
        with deepspeed.zero.GatheredParameters([p], enabled=self.third):
            return p.detach().clone()

    def moment(self, p: nn.Parameter, name: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        return safe_get_full_optimizer_state(p, name)

    def set_moment(self, p: nn.Parameter, name: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        safe_set_full_optimizer_state(p, value, name)


def last_norm(strategy: DeepSpeedStrategy) -> float:
    """Of the step just done, before clipping; infinite where DeepSpeed found a gradient that is no number."""
    return float(strategy.deepspeed_engine.get_global_grad_norm())
