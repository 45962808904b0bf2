"""Everything that needs an NVIDIA GPU: is the loss right there, how fast is it, does training run? See gpu.sh.

    bash benchmarks/gpu.sh                     # all steps, in at most 8 minutes
    bash benchmarks/gpu.sh tests benchmark     # some of them

Each step is a process of its own with a limit of time, and ``gpu.json`` is written after each: a step that hangs or
dies leaves what the others found. The benchmark's times are in ``cuda.csv`` beside it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=")
MAIN = ("main.py", "--device", "cuda", "--eval-every", "0", "--no-plots", "--no-show", "--epochs", "20")
STEPS = {  # name -> seconds that it may take, and what python runs; {output} and {scratch} are folders
    "environment": (40, ("-m", "benchmarks.gpu", "--environment")),
    "tests": (180, (*PYTEST, "tests/loss/test_cuda.py", "-n", "8", "--durations=5")),
    "benchmark": (120, ("-m", "benchmarks.cuda", "--seconds", "0.7", "--output", "{output}")),
    "main": (60, (*MAIN, "--output", "{scratch}/plain")),
    "main in a graph": (60, (*MAIN, "--cuda-graph", "--output", "{scratch}/graph")),
}
TOTAL = 470.0  # seconds
KEPT = 4000  # characters of a step's output


def environment() -> None:
    """Print the GPU, the driver and the versions of what compiles for it."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    print("Python", platform.python_version())
    for name in ("torch", "numpy", "numba", "numba-cuda", "cuda-core", "cuda-bindings", "tslearn", "pysdtw"):
        try:
            print(name, version(name))
        except PackageNotFoundError:
            print(name, "is not installed")
    print(torch.cuda.get_device_properties(0))
    subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm", "--format=csv,noheader"], check=True
    )

    from loss import kernels

    if reason := kernels._missing_for_cuda():
        raise SystemExit(f"The loss has no kernels here: {reason}.")


def run(command: tuple[str, ...], limit: float) -> dict:
    """One step in a process of its own: its status, seconds, and the end of what it printed."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, status = process.communicate(timeout=limit)[0], process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, status = process.communicate()[0], "stopped: out of time"
    seconds = round(time.perf_counter() - begun, 1)
    return {"command": " ".join(command), "status": status, "seconds": seconds, "output": output[-KEPT:].splitlines()}


def main(arguments: list[str] | None = None) -> None:
    """Run the steps and write gpu.json; exit 1 if one of them fails."""
    command_line = argparse.ArgumentParser("gpu.sh", description=__doc__.split("\n\n")[0])
    command_line.add_argument("steps", nargs="*", metavar="STEP", help=f"any of {', '.join(STEPS)}; all by default")
    command_line.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    command_line.add_argument(
        "--environment", action="store_true", help="print GPU and versions, and do nothing else"
    )
    args = command_line.parse_args(arguments)
    if args.environment:
        environment()
        return
    if unknown := [name for name in args.steps if name not in STEPS]:
        command_line.error(f"STEP must be one of {', '.join(STEPS)}, but {unknown[0]!r} is given.")
    args.output.mkdir(parents=True, exist_ok=True)
    end, found = time.perf_counter() + TOTAL, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.steps or STEPS:
            limit, command = STEPS[name]
            command = tuple(part.format(output=args.output, scratch=scratch) for part in command)
            found[name] = run(command, min(limit, max(end - time.perf_counter(), 1.0)))
            print(f"== {name}: {found[name]['status']} after {found[name]['seconds']} s", flush=True)
            print("\n".join(found[name]["output"][-25:]), flush=True)
            text = json.dumps(found, indent=1).replace(scratch, "SCRATCH")
            (args.output / "gpu.json").write_text(text + "\n")
    if any(step["status"] != 0 for step in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
