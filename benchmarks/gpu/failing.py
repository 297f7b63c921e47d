"""`jemb train` in which one process fails: `python -m benchmarks.gpu.failing raise|kill|stop RANK STEP option=value …`.

raise: an error of its own; kill: SIGKILL; stop: SIGSTOP, as a process that hangs.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def main() -> int:
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from jemb.app.cli import run_command

    how, rank, step, *options = sys.argv[1:]
    done = 0

    def fail(*_: Any) -> None:
        nonlocal done
        done += 1
        if done != int(step) or os.environ.get("RANK", "0") != rank:
            return
        if how == "raise":
            raise RuntimeError(f"rank {rank} fails in step {step}, as it was told")
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)

    register_optimizer_step_pre_hook(fail)
    return run_command("train", options)


if __name__ == "__main__":
    sys.exit(main())
