"""Memory that the libraries under a model keep after use: bounded, and given back now and then.

On a CPU, ingestion would grow by it without end, though nothing of ours does: see
docs/planning.md, "Memory".
"""

from __future__ import annotations

import ctypes
import os
import sys

KERNELS_KEPT = 512
"""Those of about 30 shapes of batches of the built-in proxy, at most 0.8 MB each."""


def bound_kernel_caches() -> None:
    """Keep few of the kernels made for shapes of batches; call before a model first runs.

    In bfloat16 every product of matrices of a new shape has its kernel made, and there are more
    shapes of batches than are worth keeping. oneDNN and torch's layer above it each keep 1,024 of
    them; both read their capacity from the environment when they are first used. What a user set
    there stays.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KERNELS_KEPT))


def give_back_freed() -> None:
    """Give pages that hold nothing back to the system, where the C library is glibc.

    Tensors of ever-new sizes leave holes between the kernels that live longer, and glibc gives
    back only what is free at its heap's end.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
