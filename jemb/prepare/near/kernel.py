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
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

intrinsic: Any = _intrinsic
"""Untyped, since its functions are called with one argument less than they have."""


def kernel(function: Callable[..., Any], *, inline: bool = False) -> Any:
    """`function` compiled at its first call. inline: put it into its callers, whatever its size."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "forceinline": inline}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # no folder for the cache can be written
        return numba.njit(function, **options)


inlined = partial(kernel, inline=True)


def _loader(bits: int) -> Any:
    """load(data, at): `bits` bits of a uint8 array from byte `at` on, little-endian, in one instruction. Needs no
    alignment, and checks no bounds."""
    result = types.uint32 if bits == 32 else types.uint64

    @intrinsic
    def load(_: Any, data: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            position = context.cast(builder, arguments[1], signature.args[1], types.intp)
            pointer = cgutils.gep_inbounds(builder, array.data, position)
            return builder.load(builder.bitcast(pointer, ir.IntType(bits).as_pointer()), align=1)

        return result(data, at), generate

    return load


load32 = _loader(32)
load64 = _loader(64)


@intrinsic
def rotated(_: Any, value: Any, bits: Any) -> Any:
    """rotated(value, bits): a uint32 with its `bits` leading bits moved to the end."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, bits = arguments
        other = builder.sub(ir.Constant(bits.type, 32), bits)
        return builder.or_(builder.shl(value, bits), builder.lshr(value, other))

    return types.uint32(types.uint32, types.uint32), generate


@intrinsic
def ones(_: Any, value: Any) -> Any:
    """ones(value): how many bits of a uint64 are 1."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


def read_only(array: np.ndarray) -> np.ndarray:
    """The array as Arrow's are. To numba one that can be written is of another type, to be compiled again."""
    view = array.view()
    view.flags.writeable = False
    return view
