"""What the CUDA kernel costs, counted without a GPU: instructions, registers, time on the host.

    python -m benchmarks.cuda_counts                       # needs gcc and requirements-cuda.txt
    python -m benchmarks.cuda_counts --sizes 100x20        # batch x horizon

Float32, one variable, both terms, Toeplitz Omega, the derivative by x: a DilateLoss in training. PTX instructions are
those that the busiest thread of one pair executes, with the warps that its batch leaves to a pair on 132 processors,
as many as an H100 has. The estimate is a rule: 1.6 machine instructions for each of PTX, 3 cycles for each of these,
1.8 GHz; its upper number also counts the rounds in which the warps of a pair wait for each other. The host's time is
that of a launch with a driver that does nothing, without torch's search for the current stream.

Registers and machine instructions are those of ``ptxas`` and ``nvdisasm`` (pip install nvidia-cuda-nvcc
nvidia-cuda-nvdisasm). Where these are found, a second estimate plays the machine instructions of the steps of 1 to 4
warps on a scheduler, in order, with assumed pipes and latencies (:data:`UNITS`; the upper number: all latencies half
as long again), for each round of the warps of a block. What a warp does between its steps, about
a tenth, is left out.
"""

import re
import subprocess
import tempfile
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.common import duration, medians, pipes

PROCESSORS, HERTZ = 132, 1.8e9
MACHINE_INSTRUCTIONS, CYCLES = 1.6, 3  # for one of PTX, and for each
SIZES = ((100, 20), (128, 96), (32, 512), (256, 720))  # batch, horizon
SHUFFLES = 4  # of a step: two float64 of two words
SCHEDULERS, BARRIER = 4, 100  # of a processor; cycles
UNITS = (  # names of machine instructions, their pipe, cycles for which one warp occupies it, cycles until the result
    (r"D[AFMS]", "float64", 2, 10),
    (r"F2F|MUFU", "conversions and powers", 8, 20),
    (r"SHFL", "memory", 4, 25),
    (r"LD", "memory", 4, 35),  # from L1: the weights, which are not there, are fetched four steps ahead
    (r"ST", "memory", 4, 0),
    (r"I|LEA|LOP|SHF|VI", "integers", 2, 5),
    (r"", "float32", 1, 5),
)
KIND = {"of_costs": False, "dual": True, "backward": True, "by_gamma": False, "keeps_E": False}


def arguments(horizon: int) -> tuple:
    """Those of the operator, for one pair."""
    x, y = torch.randn(2, 1, horizon, 1, generator=torch.Generator().manual_seed(0))
    omega = torch.arange(1 - horizon, horizon, dtype=torch.float64).square() / horizon**2
    gamma = torch.tensor(0.01, dtype=torch.float64)
    return x, y, None, gamma, None, None, omega, None, -1, (True, False, False, False)


class Instruction(NamedTuple):
    """A machine instruction, and the registers that it writes and reads."""

    name: str
    writes: tuple[str, ...]
    reads: tuple[str, ...]


Loops = dict[str, tuple[Instruction, ...]]  # the steps forward and backward


def instruction(line: str) -> Instruction | None:
    """What a line of a disassembly says, if it is an instruction."""
    found = re.match(r"\s*/\*\w+\*/\s+(@\S+)?\s*([A-Z][\w.]*)\s*(.*?);", line)
    if not found:
        return None
    guard, name, operands = found[1] or "", found[2], found[3].split(", ")
    double = re.match(UNITS[0][0], name) is not None

    def registers(text: str, wide: bool) -> list[str]:
        numbers = re.findall(r"\b(U?R)(\d+)", text)
        names = [f"{kind}{int(k) + word}" for kind, k in numbers for word in range(1 + wide)]
        return names + re.findall(r"\bP\d+", text)

    written = 0 if re.match("ST|B|WARPSYNC", name) else 2 if "SETP" in name or name.startswith("SHFL") else 1
    to_wide = double or ".64" in name or "WIDE" in name or "F64.F32" in name
    of_wide = double or "F32.F64" in name
    writes = [register for text in operands[:written] for register in registers(text, to_wide)]
    reads = [register for text in operands[written:] for register in registers(text, of_wide or ".64" in text)]
    return Instruction(name, tuple(writes), (*reads, *registers(guard, False)))


def loops(sass: str) -> Loops:
    """The innermost loops of a disassembly that exchange numbers in a warp."""
    code, labels, found = [], {}, []
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(code)
        elif known := instruction(line):
            code.append(known)
            target = re.search(r"\.L_\w+", line)
            if known.name.startswith("BRA") and target and target[0] in labels:
                found.append((labels[target[0]], len(code)))
    shuffling = [loop for loop in found if any(known.name.startswith("SHFL") for known in code[slice(*loop)])]
    shuffling.sort(key=lambda loop: loop[1] - loop[0])
    inner = []
    for begin, end in shuffling:  # a longer one is around a shorter one, or is its part that stands elsewhere
        if all(end <= other[0] or other[1] <= begin for other in inner):
            inner.append((begin, end))
    bodies = [tuple(code[begin:end]) for begin, end in inner]
    ways = ("backward" if any("DOWN" in known.name for known in body) else "forward" for body in bodies)
    return dict(zip(ways, bodies, strict=True))


def steps_of(body: tuple[Instruction, ...]) -> float:
    """How many steps of a lane a loop does at once."""
    return sum(known.name.startswith("SHFL") for known in body) / SHUFFLES


@cache
def cycles_of_a_step(body: tuple[Instruction, ...], warps: int, slowness: float) -> float:
    """Cycles for a step of each of that many warps on a scheduler, which issues one instruction a cycle."""
    units = [next(unit[1:] for unit in UNITS if re.match(unit[0], known.name)) for known in body]
    iterations, half = 24, 12
    issued, ready, free = [0] * warps, [{} for _ in range(warps)], {}
    cycle, first, begins = 0, 0, [0] * warps
    while min(issued) < iterations * len(body):
        for w in ((first + k) % warps for k in range(warps)):
            if issued[w] == half * len(body):
                begins[w] = cycle
            known, (pipe, occupied, latency) = body[issued[w] % len(body)], units[issued[w] % len(body)]
            waits_for = max((ready[w].get(register, 0) for register in known.reads), default=0)
            if issued[w] < iterations * len(body) and max(waits_for, free.get(pipe, 0)) <= cycle:
                ready[w].update(dict.fromkeys(known.writes, cycle + latency * slowness))
                free[pipe] = cycle + occupied
                issued[w], first = issued[w] + 1, (w + 1) % warps
                break
        cycle += 1
    return (cycle - min(begins)) / (iterations - half) / steps_of(body)


def played(steps: Loops, horizon: int, plan: tuple, together: int, slowness: float) -> float:
    """Milliseconds of that many blocks of a processor: a round takes as long as the scheduler with the most warps."""
    from loss.kernels.cuda import CHUNK, LAG, WARP

    chunks, strips = plan.steps // CHUNK, -(-horizon // WARP)
    total = 0.0
    for k in range(2 * plan.segments - 1):
        segment = min(k, 2 * (plan.segments - 1) - k)
        warps = min(plan.warps, strips - segment * plan.warps)
        ways = ["forward"] + ["backward"] * (k >= plan.segments - 1)
        for t in range(chunks + (plan.warps - 1) * LAG):
            active = sum(0 <= t - w * LAG < chunks for w in range(warps))
            on_scheduler = -(-active * together // SCHEDULERS)
            for way in ways:
                total += BARRIER + (CHUNK * cycles_of_a_step(steps[way], on_scheduler, slowness) if active else 0)
    return total / HERTZ * 1e3


def executed(batch: int, horizon: int, ptx: str, steps: Loops) -> dict[str, str]:
    """What one pair of a batch executes, on the CPU, and the time of the batch by the rule and by the loops."""
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
    at_once = limits.warps_per_processor // plan.warps  # blocks of a processor
    turns = -(-batch // min(plan.blocks, PROCESSORS * at_once))
    least = turns * instructions * MACHINE_INSTRUCTIONS * CYCLES / HERTZ * 1e3
    most = least * (chunks + (plan.warps - 1) * cuda.LAG) / chunks
    row = {
        "batch, horizon": f"{batch}, {horizon}",
        "warps of a pair": f"{plan.warps}",
        "segments": f"{plan.segments}",
        "PTX instructions": f"{instructions:,}",
        "ms by the rule": f"{least:.3f}" + (f" to {most:.3f}" if plan.warps > 1 else ""),
    }
    if steps:
        together = min(at_once, -(-plan.blocks // PROCESSORS))
        times = (turns * played(steps, horizon, plan, together, slowness) for slowness in (1.0, 1.5))
        row["ms by playing"] = "{:.3f} to {:.3f}".format(*times)
    return row


def machine_code(ptx: str) -> tuple[list[str], Loops]:
    """What to say of registers, spills and the steps, and the steps; or what is missing."""
    from cuda.pathfinder import find_nvidia_binary_utility

    tools = {name: find_nvidia_binary_utility(name) for name in ("ptxas", "nvdisasm")}
    if missing := [name for name, path in tools.items() if path is None]:
        return [f"Registers and machine instructions are left out: {' and '.join(missing)} not found."], {}
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        commands = ([tools["ptxas"], "-v", "-arch=sm_90", source, "-o", cubin], [tools["nvdisasm"], "-c", cubin])
        said, sass = (subprocess.run(c, capture_output=True, text=True, check=True) for c in commands)
    report = re.findall(r"\d+ bytes spill \w+|Used \d+ registers", said.stderr)
    steps = loops(sass.stdout)
    for way, body in steps.items():
        cycles = ", ".join(f"{cycles_of_a_step(body, warps, 1.0):.0f}" for warps in range(1, 5))
        report.append(
            f"{len(body) / steps_of(body):.0f} machine instructions of a step {way}, played in {cycles} cycles "
            f"by 1 to 4 warps on a scheduler"
        )
    return report, steps


def launch_times(calls: int = 5_000) -> list[float]:
    """Seconds of the host for each launch at (100, 20), arguments included."""
    from loss.kernels import cuda, cuda_launch

    kept = []

    def launch(kind: cuda.Kind, blocks: int, threads: int, problem: cuda.Problem, results: cuda.Results) -> None:
        kernel = cuda.load(kind, torch.device("cuda", 0))
        tensors = cuda.tensors_of(cuda.Problem)
        split = problem[:tensors], problem[tensors:], results
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
    report, steps = machine_code(ptx)
    print(*report, sep="\n", flush=True)
    rows = [executed(batch, horizon, ptx, steps) for batch, horizon in args.sizes]
    print(pipes([list(rows[0]), *(list(row.values()) for row in rows)]))


if __name__ == "__main__":
    main()
