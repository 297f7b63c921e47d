"""How the loops over bytes are compiled: by numba, once a machine, without the interpreter's lock.

A kernel calls only kernels of its own file: numba keeps compiled code until the file of the outermost one changes.
Compiled code lies beside the source, or in the user's cache folder where that cannot be written; where neither can,
each process compiles for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np


def kernel(function: Callable[..., Any], *, inline: bool = False) -> Any:
    """`function` compiled at its first call. inline: put it into its callers, whatever its size."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "forceinline": inline}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # no folder for the cache can be written
        return numba.njit(function, **options)


inlined = partial(kernel, inline=True)


def read_only(array: np.ndarray) -> np.ndarray:
    """The array as Arrow's are. To numba one that can be written is of another type, to be compiled again."""
    view = array.view()
    view.flags.writeable = False
    return view
