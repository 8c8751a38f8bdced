"""Keeps freed memory in the process, for steps that ask for the same buffers again and again."""

from __future__ import annotations

import ctypes
import sys

# glibc's names and numbers, from its malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Stops glibc from giving large buffers back to the system as soon as they are free.

    XLA's CPU backend frees a step's work space after the step. glibc then returns it, and the next
    step's first touch of every page is a fault in the kernel: a fifth to a half of a step's time
    was seen to go there. The process stays as large as it was at its largest.

    Returns:
      Whether it took effect; False where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # No buffer gets a mapping of its own, and the heap's top is never cut: -1 is the largest size.
    # The arenas of threads hold 64 MiB at most and map what is larger all the same: none of those.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1))
    return mallopt is not None and all(mallopt(name, value) for name, value in settings)
