"""A driver that launches nothing: what reaches CUDA's driver is seen, and timed, on a machine without a GPU.

For a process of its own, before it imports anything of CUDA: the driver stays loaded, and tensors stay on the CPU.
Needs gcc and ``requirements-cuda.txt``.
"""

import contextlib
import ctypes
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

SOURCE = Path(__file__).with_name("driver.c")


class _Config(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("n_attributes", ctypes.c_uint32),
    )


class Driver:
    """The driver; torch says from now on that there is an H100, whose current stream is ``stream``.

    Attributes:
        parameters: How many parameters a kernel has: so many arguments of the next launches are kept.
    """

    def __init__(self):
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder, "libcuda.so.1")  # the name under which CUDA's packages load it
            command = ["gcc", "-O1", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", SOURCE, "-o", library]
            subprocess.run(command, check=True)
            self._library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        self.parameters, self.stream = 0, SimpleNamespace(cuda_stream=0x2000)
        torch.cuda.current_stream = lambda device=None: self.stream
        torch.cuda.current_device = lambda: 0
        torch.cuda.get_device_capability = lambda device=None: (9, 0)
        torch.cuda.device = lambda device: contextlib.nullcontext()

    @property
    def parameters(self) -> int:
        return self._parameters.value

    @parameters.setter
    def parameters(self, number: int) -> None:
        self._parameters.value = number

    @property
    def _parameters(self) -> ctypes.c_int64:
        return ctypes.c_int64.in_dll(self._library, "parameters")

    @property
    def launches(self) -> int:
        """How many there were."""
        return ctypes.c_int64.in_dll(self._library, "launches").value

    @property
    def config(self) -> _Config:
        """That of the last launch."""
        return _Config.in_dll(self._library, "config")

    @property
    def values(self) -> list[int]:
        """Eight bytes of each argument of the last launch; those past a shorter one hold anything."""
        return list((ctypes.c_uint64 * self.parameters).in_dll(self._library, "values"))
