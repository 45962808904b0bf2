"""How the kernels of this folder, and those of the GRU, are compiled and cached on disk."""

import warnings
import zlib
from pathlib import Path

from numba import njit

_PACKAGE = __package__.replace(".", "_")


def _digest() -> str:
    """A short name for what is written in the files that have compiled functions."""
    folder, recursions = Path(__file__).parent, ("soft_dtw.py", "path_soft_dtw.py", "dilate_loss.py")
    files = [*sorted(folder.glob("*.py")), *(folder.parent / name for name in recursions)]
    return f"{zlib.crc32(b''.join(path.read_bytes() for path in files)):08x}"


_VERSION = _digest()


def _kept_on_disk(compiled):
    """Let numba cache what it compiles, if there is a place for it.

    numba keeps what it compiled under the function's name, and makes it anew when the file of the function changes.
    The name gets two more parts: that of this package, since what is cached refers to it, and a digest of all files
    here, since what is compiled is made of several of them.
    """
    try:
        compiled.enable_caching()
    except RuntimeError:  # numba's "no locator available": it can write neither here nor into the user's cache
        warnings.warn(
            "The kernels of DILATE cannot be cached and are compiled again in each process, about half a minute: set "
            "NUMBA_CACHE_DIR to a folder that can be written to.",
            stacklevel=1,
        )
    return compiled


def jit(function, **options):
    """Compile without holding Python's global lock, and cache on disk."""
    function.__qualname__ = f"{_PACKAGE}_{_VERSION}_{function.__name__}"
    return _kept_on_disk(njit(nogil=True, error_model="numpy", **options)(function))


def inlined(function):
    """The same for a function that is called for every row: a call would copy its many arguments."""
    return jit(function, forceinline=True)
