"""Variables of the environment by which libraries are told how to work.

They are set as coresetdb is imported, before a library has threads: a new variable may move the
table that C's `getenv` reads, and a thread that reads it at that moment can end the process with a
segmentation fault. A value that the user has set stays. What libraries add themselves later is not
among them: polars a variable for its allocator, accelerate one where it asks for CUDA.
"""

from __future__ import annotations

import getpass
import os
import re
import tempfile

CACHED_KERNELS = 512
"""Enough for about 30 shapes of batches of the built-in proxy; at most 0.8 MB each."""


def set_library_variables() -> None:
    """Set what the user has not set."""
    _let_idle_threads_sleep()
    _keep_quiet_about_retries()
    _bound_kernel_caches()
    _name_compiler_cache()


def _let_idle_threads_sleep() -> None:
    """Have OpenMP's threads sleep while they wait for work.

    By default torch's OpenMP (GNU's, in the wheels for Linux) spins, and on a busy machine the
    waiting threads keep the working ones off the processor. The variable is OpenMP's own, not
    GNU's; a GOMP_SPINCOUNT of the user's wins over it. It is read once, when torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _keep_quiet_about_retries() -> None:
    """Have Lance say only what failed.

    Otherwise it writes a line on stderr for every request to an object store that it tries again.
    The variable is read once, when Lance is loaded.
    """
    os.environ.setdefault("LANCE_LOG", "error")


def _bound_kernel_caches() -> None:
    """Bound the caches of kernels compiled per batch shape.

    In bfloat16 oneDNN compiles a kernel for every new shape of a matrix product, and there are more
    shapes of batches than are worth keeping. oneDNN and torch's layer above it each keep 1,024 of
    them by default; both read their capacity when they are first used.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(CACHED_KERNELS))


def _name_compiler_cache() -> None:
    """Name the folder of torch's compiler, as torch does itself whenever it is loaded."""
    try:
        user, folder = getpass.getuser(), tempfile.gettempdir()
    except (KeyError, ModuleNotFoundError, OSError):
        return  # a user without a name, or no folder that can be written: torch has its own answer
    name = re.sub(r'[\\/:*?"<>|]', "_", f"torchinductor_{user}")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.abspath(os.path.join(folder, name)))
