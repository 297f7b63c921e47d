"""Files that may not be read or written, also for tests that run as root."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# Root without its power over modes: it can read and write what belongs to it, not what is another user's.
if os.getuid() == 0 and shutil.which("setpriv"):
    WITHOUT_POWER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
else:
    WITHOUT_POWER = []


def forbid(path: Path, mode: int) -> None:
    """Gives a file or folder to another user, who leaves these rights to the others. Skips where that cannot be had."""
    if not WITHOUT_POWER:
        pytest.skip("only root, with setpriv, can give files to another user and lose its power over them")
    os.chown(path, 65534, 65534)
    path.chmod(mode)
