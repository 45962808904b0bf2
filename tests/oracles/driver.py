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

SOURCE = r"""
/* A driver of CUDA without a GPU: it says of each call that it went well, and keeps what the last launch was given.
   cuda.core asks for its functions by name. */
#include <stdint.h>
#include <string.h>

typedef struct {
  uint32_t grid[3], block[3], shared_bytes;
  void *stream, *attributes;
  uint32_t n_attributes;
} Config; /* as in cuda.h: CUlaunchConfig */

enum { MOST_PARAMETERS = 64, MAJOR = 75, MINOR = 76 };

int64_t launches, parameters; /* parameters: how many the kernel has, which Python sets */
uint64_t values[MOST_PARAMETERS];
Config config;

static int done(void) { return 0; }
static int give_13(int *version) { *version = 13000; return 0; }
static int give_0(int *device) { *device = 0; return 0; }
static int give_1(int *count) { *count = 1; return 0; }
static int give_handle(void **handle) { *handle = (void *)0x1000; return 0; }
static int give_text(int error, const char **text) { *text = "an error"; return 0; }

static int give_attribute(int *value, int attribute, int device) {
  *value = attribute == MAJOR ? 9 : attribute == MINOR ? 0 : 1024;
  return 0;
}

static int launch(const Config *given, void *kernel, void **arguments, void **extra) {
  launches++;
  config = *given;
  for (int64_t k = 0; k < parameters; k++) values[k] = *(uint64_t *)arguments[k];
  return 0;
}

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
  static const struct { const char *name; void *function; } known[] = {
    {"cuDriverGetVersion", give_13}, {"cuDeviceGetCount", give_1}, {"cuDeviceGet", give_0},
    {"cuCtxGetDevice", give_0}, {"cuDeviceGetAttribute", give_attribute},
    {"cuLibraryLoadData", give_handle}, {"cuLibraryGetKernel", give_handle},
    {"cuCtxGetCurrent", give_handle}, {"cuDevicePrimaryCtxRetain", give_handle}, {"cuStreamGetCtx", give_handle},
    {"cuGetErrorName", give_text}, {"cuGetErrorString", give_text}, {"cuLaunchKernelEx", launch},
    {"cuGetProcAddress", cuGetProcAddress_v2},
  };
  *function = done;
  for (int k = 0; k < sizeof known / sizeof *known; k++)
    if (!strcmp(name, known[k].name)) *function = known[k].function;
  if (status) *status = 0;
  return 0;
}

int cuInit(uint32_t flags) { return 0; }
int cuDriverGetVersion(int *version) { return give_13(version); }
"""


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
            command = ["gcc", "-O1", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-xc", "-", "-o", library]
            subprocess.run(command, check=True, input=SOURCE, text=True)
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
