"""ZeRO stages 1 to 3 (arXiv 1910.02054) by DeepSpeed, on GPUs and on CPU processes, with the law of all strategies:
fp32 weights, gradients averaged once over the ranks, no loss scale, the norm measured before clipping.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.plugins import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor, nn

from jemb.distributed.processes import Processes
from jemb.train.optim import start_moments

BUCKET = 25_000_000
"""Elements that are sent at once."""
KEPT_WHOLE = {"cpu": 0, "cuda": 100_000}
"""Stage 3 leaves weights of fewer elements (norms, biases) whole on every process, by kind of device: on a GPU a
collective for each costs more than its memory; on CPUs none, so that a tiny model takes the way of a large one."""


def zero_options(stage: int, device: str) -> dict[str, Any]:
    """Everything DeepSpeed is told. stage: 1 shards AdamW's state, 2 gradients as well, 3 weights as well."""
    zero = {"stage": stage, "overlap_comm": True, "reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}
    if stage == 3:
        zero |= {
            "stage3_param_persistence_threshold": KEPT_WHOLE[device],
            "stage3_prefetch_bucket_size": BUCKET,
            "stage3_max_live_parameters": 1_000_000_000,
            # A layer is whole only while it computes. DeepSpeed's 10^9 looks so many elements ahead at each module for
            # when it is needed again, which takes minutes where a step calls the encoder many times.
            "stage3_max_reuse_distance": 0,
        }
    return {
        "train_micro_batch_size_per_gpu": 1,  # for DeepSpeed's own timers only
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},  # autocast in the module: fp32 weights, as under every other strategy
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }


class ZeroPrecision(DeepSpeedPrecision):
    """Leaves batches as they are: they hold integers, and are frozen, which Lightning refuses to copy."""

    def __init__(self) -> None:
        super().__init__("32-true")

    def convert_input(self, data: Any) -> Any:
        return data


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's strategy without its two checks for a GPU; on CPU DeepSpeed computes with DS_ACCELERATOR=cpu.

    stage: of ZeRO. processes: those of `jemb train`; None: the Trainer says which devices there are. timeout: of a
    collective.
    """

    def __init__(
        self, stage: int, processes: Processes | None = None, timeout: timedelta = timedelta(minutes=30)
    ) -> None:
        on_cpu = processes.device.type == "cpu" if processes else not torch.cuda.is_available()
        if on_cpu:
            os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported, which Lightning does now
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        super().__init__(
            config=zero_options(stage, "cpu" if on_cpu else "cuda"),
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


def keep_whole(strategy: DeepSpeedStrategy, parameters: Iterable[nn.Parameter]) -> None:
    """Of these, once DeepSpeed has taken over, stage 3 shards gradients and moments, but leaves each process all of the
    weights: it puts others together where a module is called with tensors, and the same modules in each step."""
    engine: Any = strategy.deepspeed_engine
    kept: list[Any] = list(parameters)
    if engine.zero_optimization_stage() == 3 and kept:
        for p in kept:
            p.ds_persist = True
        engine.optimizer.persistent_parameters += kept  # which it puts together again after a step
        kept[0].all_gather(kept)


class ZeroState:
    """`TorchState` of a model that DeepSpeed has taken over, by its public helpers."""

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
