"""How much memory one call needs beyond its inputs and outputs.

    python -m benchmarks.memory dilate ours 128 96

The measure is the growth of the peak of resident memory in a call, whichever library allocates (torch, numpy,
compiled code, helper threads), in a fresh process that has loaded and compiled everything by an earlier call, kept
no array of it, and given what was free back to the system. Arrays of 64 kB and more come from the system one by one
(M_MMAP_THRESHOLD), so that what was freed earlier hides none of them. The system counts to within some hundred
kilobytes. Linux with the C library of GNU only.
"""

import argparse
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import use_threads
from benchmarks.contenders import KINDS, contenders, run
from loss.kernels import cpu

ROOT = Path(__file__).parent.parent
RESET = Path("/proc/self/clear_refs")  # "5" sets the peak to the memory resident now
PR_SET_THP_DISABLE = 41


def resident(which: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(which))


def growth(call: Callable[[], Tensor]) -> int:
    """By how many bytes the peak grows in a call, its result left out."""
    c_library = ctypes.CDLL(None)
    c_library.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # huge pages are resident as a whole, whatever is used of them
    c_library.malloc_trim(0)
    RESET.write_text("5")
    before = resident("VmRSS")
    result = call()
    return resident("VmHWM") - before - result.nbytes


def bytes_of_call(
    kind: str, contender: str, batch: int, horizon: int, original: Path | None = None, threads: int | None = None
) -> int | None:
    """Measure in a process of its own; None where the system does not tell."""
    if not RESET.exists():
        return None
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", kind, contender, str(batch), str(horizon)]
    command += ["--threads", str(threads or torch.get_num_threads())]
    command += ["--original", str(original.resolve())] if original is not None else []
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{contender} fails at ({batch}, {horizon}):\n{done.stderr}")
    return int(done.stdout.split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("contender", help="as benchmarks.loss names it")
    parser.add_argument("batch", type=int)
    parser.add_argument("horizon", type=int)
    parser.add_argument("--original", type=Path, metavar="FOLDER", help="a clone of the released DILATE")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    args = parser.parse_args()
    if args.threads:
        use_threads(args.threads)
    loss = contenders(args.kind, args.original)[args.contender]
    x, y = torch.randn(2, args.batch, args.horizon, 1)
    run(args.kind, loss, x, y)
    cpu.MEMORY.forget()  # ours would find the arrays that it keeps from call to call
    print(growth(lambda: run(args.kind, loss, x, y)))


if __name__ == "__main__":
    main()
