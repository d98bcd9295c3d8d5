"""What the C library keeps of memory that was freed, and what Python looks for garbage in."""

import ctypes
import gc
import os
from typing import Final

_ARENA_MAX: Final = -8  # M_ARENA_MAX of glibc's malloc.h
_ARENAS: Final = 2


def share_arenas() -> None:
    """Has threads that come and go share two of glibc's heaps; to be called before they do.

    Each would be given one of up to eight a CPU, and what it frees is used again by those alone that come to the same
    heap: resident memory then rises with every picture for hours. Elsewhere than with glibc nothing is done, and what
    MALLOC_ARENA_MAX and GLIBC_TUNABLES say comes first.
    """
    if {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"} & os.environ.keys():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Has glibc give the kernel back what loading a model took and freed, which is more than it keeps."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def set_aside_what_stays() -> None:
    """Has the garbage collector pass over what there is by now, mostly modules, while pictures are scored.

    To be called once: rings among these objects that nobody needs any more later are kept.
    """
    gc.collect()
    gc.freeze()
