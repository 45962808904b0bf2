"""How the kernels of this folder are compiled, and cached on disk."""

import zlib
from pathlib import Path

from numba import njit

_PACKAGE = __package__.replace(".", "_")


def _digest() -> str:
    """A short name for what is written in this folder."""
    return f"{zlib.crc32(b''.join(p.read_bytes() for p in sorted(Path(__file__).parent.glob('*.py')))):08x}"


_VERSION = _digest()


def jit(function, **options):
    """Compile without holding Python's global lock, and cache on disk.

    numba keeps what it compiled under the function's name, and makes it anew when the file of the function changes.
    The name gets two more parts: that of the package, since what is cached refers to it, and a digest of all files
    here, since what is compiled is made of several of them.
    """
    function.__qualname__ = f"{_PACKAGE}_{_VERSION}_{function.__name__}"
    return njit(nogil=True, cache=True, error_model="numpy", **options)(function)


def inlined(function):
    """The same for a function that is called for every row: a call would copy its many arguments."""
    return jit(function, forceinline=True)
