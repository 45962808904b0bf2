"""What the CUDA kernel costs, counted without a GPU: instructions, registers, time on the host.

    python -m benchmarks.cuda_counts                       # needs gcc and requirements-cuda.txt
    python -m benchmarks.cuda_counts --sizes 100x20        # batch x horizon

Float32, one variable, both terms, Toeplitz Omega, the derivative by x: a DilateLoss in training. PTX instructions are
those that the busiest thread of one pair executes, with the warps that its batch leaves to a pair on 132 processors,
as many as an H100 has. The estimate is a rule: 1.6 machine instructions for each of PTX, 3 cycles for each of these,
1.8 GHz; its upper number also counts the rounds in which the warps of a pair wait for each other. The host's time is
that of a launch with a driver that does nothing, without torch's search for the current stream. Registers and machine
instructions are those of ``ptxas`` and ``nvdisasm`` (pip install nvidia-cuda-nvcc nvidia-cuda-nvdisasm), if found.
"""

import re
import subprocess
import tempfile
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from pathlib import Path

import torch

from benchmarks.common import duration, medians, pipes

PROCESSORS, HERTZ = 132, 1.8e9
MACHINE_INSTRUCTIONS, CYCLES = 1.6, 3  # for one of PTX, and for each
SIZES = ((100, 20), (128, 96), (32, 512), (256, 720))  # batch, horizon
SHUFFLES = 4  # of a step: two float64 of two words
KIND = {"of_costs": False, "dual": True, "backward": True, "by_gamma": False, "keeps_E": False}


def arguments(horizon: int) -> tuple:
    """Those of the operator, for one pair."""
    x, y = torch.randn(2, 1, horizon, 1, generator=torch.Generator().manual_seed(0))
    omega = torch.arange(1 - horizon, horizon, dtype=torch.float64).square() / horizon**2
    gamma = torch.tensor(0.01, dtype=torch.float64)
    return x, y, None, gamma, None, None, omega, None, -1, (True, False, False, False)


def executed(batch: int, horizon: int, ptx: str) -> dict[str, str]:
    """What one pair of a batch executes, on the CPU, and the time of the batch by the rule."""
    from loss.kernels import cuda
    from tests.oracles.ptx import Program

    found = []

    def launch(kind: cuda.Kind, blocks: int, threads: int, problem: cuda.Problem, results: cuda.Results) -> None:
        found.append(Program(ptx, counted=True).launch(blocks, threads, problem, results))

    kind, limits = cuda.Kind("float32", **KIND), cuda.Limits(PROCESSORS)
    plan = cuda.make_plan((batch, horizon, horizon, 1), kind, True, False, limits)
    cuda.sweep(*arguments(horizon), limits._replace(most_warps=plan.warps), launch)
    (findings,) = found
    if not findings.clean:
        raise SystemExit(f"The kernel is wrong at {batch}x{horizon}, nothing is counted: {findings.messages}")
    instructions, chunks = findings.instructions_of_busiest_thread, plan.steps // cuda.CHUNK
    at_once = PROCESSORS * (limits.warps_per_processor // plan.warps)  # blocks
    least = -(-batch // min(plan.blocks, at_once)) * instructions * MACHINE_INSTRUCTIONS * CYCLES / HERTZ * 1e3
    most = least * (chunks + (plan.warps - 1) * cuda.LAG) / chunks
    return {
        "batch, horizon": f"{batch}, {horizon}",
        "warps of a pair": f"{plan.warps}",
        "segments": f"{plan.segments}",
        "PTX instructions": f"{instructions:,}",
        "ms by the rule": f"{least:.3f}" + (f" to {most:.3f}" if plan.warps > 1 else ""),
    }


def loops(sass: str) -> list[list[str]]:
    """The names of the instructions of each innermost loop of a disassembly that exchanges numbers in a warp."""
    names, labels, found = [], {}, []
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(names)
        elif instruction := re.match(r"\s*/\*\w+\*/\s+(?:@!?\w+ )?\s*([A-Z][\w.]*)(.*);", line):
            names.append(instruction[1])
            target = re.search(r"\.L_\w+", instruction[2])
            if instruction[1].startswith("BRA") and target and target[0] in labels:
                found.append((labels[target[0]], len(names)))
    shuffling = [loop for loop in found if any(name.startswith("SHFL") for name in names[slice(*loop)])]
    shuffling.sort(key=lambda loop: loop[1] - loop[0])
    inner = []
    for begin, end in shuffling:  # a longer one is around a shorter one, or is its part that stands elsewhere
        if all(end <= other[0] or other[1] <= begin for other in inner):
            inner.append((begin, end))
    return [names[begin:end] for begin, end in sorted(inner)]


def machine_code(ptx: str) -> list[str]:
    """Registers, spills, and the instructions of a step of each loop; or what is missing."""
    from cuda.pathfinder import find_nvidia_binary_utility

    tools = {name: find_nvidia_binary_utility(name) for name in ("ptxas", "nvdisasm")}
    if missing := [name for name, path in tools.items() if path is None]:
        return [f"Registers and machine instructions are left out: {' and '.join(missing)} not found."]
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        commands = ([tools["ptxas"], "-v", "-arch=sm_90", source, "-o", cubin], [tools["nvdisasm"], "-c", cubin])
        said, sass = (subprocess.run(c, capture_output=True, text=True, check=True) for c in commands)
    report = re.findall(r"\d+ bytes spill \w+|Used \d+ registers", said.stderr)
    for body in loops(sass.stdout):
        shuffles = [name for name in body if name.startswith("SHFL")]
        steps = len(shuffles) / SHUFFLES
        way = "forward" if shuffles[0].startswith("SHFL.UP") else "backward"
        report.append(f"{len(body) / steps:.0f} machine instructions of a step {way}")
    return report


def launch_times(calls: int = 5_000) -> list[float]:
    """Seconds of the host for each launch at (100, 20), arguments included."""
    from loss.kernels import cuda, cuda_launch

    kept = []

    def launch(kind: cuda.Kind, blocks: int, threads: int, problem: cuda.Problem, results: cuda.Results) -> None:
        kernel = cuda.load(kind, torch.device("cuda", 0))
        split = problem[: cuda.TENSORS], problem[cuda.TENSORS :], results
        kept.extend((kernel, blocks, threads, *split, problem))

    cuda.sweep(*arguments(20), cuda.Limits(PROCESSORS), launch)
    return [duration(lambda: cuda_launch.launch(*kept[:6])) for _ in range(calls)]


def size(text: str) -> tuple[int, int]:
    """A batch and a horizon, from BATCHxHORIZON."""
    numbers = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text, re.ASCII)
    if not numbers:
        raise ArgumentTypeError(f"must be BATCHxHORIZON, two whole numbers of at least 1, got {text!r}")
    return int(numbers[1]), int(numbers[2])


def main(command: list[str] | None = None) -> None:
    """Print the counts."""
    command_line = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    known = " ".join(f"{batch}x{horizon}" for batch, horizon in SIZES)
    command_line.add_argument("--sizes", nargs="+", type=size, default=SIZES, help=f"default: {known}")
    args = command_line.parse_args(command)

    from tests.oracles.driver import Driver

    Driver()
    times = launch_times()
    middle = medians({"launch": times})["launch"]
    print(f"A launch takes the host {min(times) * 1e6:.1f} us at best, median {middle * 1e6:.1f} us.", flush=True)

    from loss.kernels import cuda

    ptx = cuda.compile_ptx(cuda.Kind("float32", **KIND))
    print(*machine_code(ptx), sep="\n", flush=True)
    rows = [executed(batch, horizon, ptx) for batch, horizon in args.sizes]
    print(pipes([list(rows[0]), *(list(row.values()) for row in rows)]))


if __name__ == "__main__":
    main()
