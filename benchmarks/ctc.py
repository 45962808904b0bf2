"""Forward and backward of CTC beside PyTorch's own: first do they agree, then how long do they take.

    python -m benchmarks.ctc

Random log-probabilities, float32; the mean over the batch and its gradient by them. PyTorch's gradient is that by the
logits of a log_softmax before it, so both are compared behind one, with PyTorch's in float64; then the losses alone
are timed in turns in one process; medians.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.common import Row, alternate, loss_and_gradient, machine, parser, relative_error, show, write_csv
from loss import ctc_loss

CONTENDERS = {"ours": ctc_loss, "PyTorch": nn.functional.ctc_loss}


class Size(NamedTuple):
    """T time steps, a batch of B, C classes, and targets of ``shortest`` to ``longest`` labels."""

    T: int
    B: int
    C: int
    shortest: int
    longest: int


SIZES = (
    Size(200, 32, 40, 20, 40),
    Size(50, 64, 30, 4, 10),
    Size(100, 16, 5000, 10, 20),
    Size(500, 16, 40, 50, 100),
    Size(1000, 8, 1000, 100, 200),
    Size(2000, 1, 40, 200, 400),
)


def task(size: Size) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, targets and the lengths of both."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(size.T, size.B, size.C, generator=generator)
    targets = torch.randint(1, size.C, (size.B, size.longest), generator=generator)
    m = torch.randint(size.shortest, size.longest + 1, (size.B,), generator=generator)
    return logits, targets, torch.full((size.B,), size.T), m


def bench(size: Size, seconds: float) -> list[Row]:
    """Agreement with float64, and median times, of both at one size."""
    logits, *labelling = task(size)

    def behind_log_softmax(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, _: loss(x.log_softmax(-1), *labelling)

    exact_value, exact = loss_and_gradient(behind_log_softmax(nn.functional.ctc_loss), logits.double(), logits)
    results = {n: loss_and_gradient(behind_log_softmax(f), logits, logits) for n, f in CONTENDERS.items()}
    log_probs = logits.log_softmax(-1)
    calls = {
        name: lambda loss=loss: loss_and_gradient(lambda x, _: loss(x, *labelling), log_probs, log_probs)
        for name, loss in CONTENDERS.items()
    }
    times = alternate(calls, seconds)
    cells = size.T * (2 * labelling[2] + 1).sum().item()
    return [
        {
            **size._asdict(),
            "contender": name,
            "milliseconds": f"{1e3 * t:.4g}",
            "ns_per_cell": f"{1e9 * t / cells:.4g}",
            "times_ours": f"{t / times['ours']:.4g}",
            "value_error": f"{relative_error(results[name][0], exact_value):.1e}",
            "gradient_error": f"{relative_error(results[name][1], exact):.1e}",
        }
        for name, t in times.items()
    ]


def main() -> None:
    """Run, print, and write results/ctc.csv."""
    command_line = parser(__doc__, seconds=5)
    command_line.add_argument("--threads", type=int, nargs="+", help="torch threads (default: torch's own choice)")
    args = command_line.parse_args()
    rows = []
    for threads in args.threads or [torch.get_num_threads()]:
        torch.set_num_threads(threads)
        print(machine())
        for size in SIZES:
            show(found := bench(size, args.seconds), 10)
            rows += [row | {"machine": machine()} for row in found]
    write_csv(args.output / "ctc.csv", rows)


if __name__ == "__main__":
    main()
