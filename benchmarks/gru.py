"""A training step of the forecaster with each of its GRUs, beside the matrix products that none can do without.

    python -m benchmarks.gru                # one thread
    python -m benchmarks.gru --threads 2

A step is the forecast of 100 series, its mean squared error, and the gradient by all weights, float32, with denormal
numbers flushed as in training. First all gradients are compared with nn.GRU's in float64; then all contenders are
timed in turns in one process; medians. The floor multiplies matrices of the same sizes, as often as backpropagation
through time must: the gates of each step forward and back one after the other, the derivatives by the weights of all
steps at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import Row, alternate, machine, parser, relative_error, show, write_csv
from models import GRUS, HEAD_UNITS, Net_GRU, build_model

BATCH, HIDDEN = 100, 128
WINDOWS = {"synthetic": (20, 20), "ecg5000": (84, 56), "traffic": (168, 24)}  # steps observed, steps forecast


def network(gru: str, observed: int, forecast: int) -> Net_GRU:
    """The paper's network, with the same weights whoever computes its GRUs."""
    torch.manual_seed(0)
    return build_model("seq2seq", input_length=observed, horizon=forecast, hidden_size=HIDDEN, gru=gru)


def gradients(net: Net_GRU, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """One training step but for the optimizer's part."""
    return torch.autograd.grad(F.mse_loss(net(x), y), list(net.parameters()))


def bare_products(observed: int, forecast: int) -> Callable[[], None]:
    """The matrix products of a training step, and nothing else."""
    value, units, state = (torch.randn(BATCH, size) for size in (1, HEAD_UNITS, HIDDEN))
    gates, from_value = torch.randn(2, BATCH, 3 * HIDDEN)
    W_i, W_h = torch.randn(3 * HIDDEN, 1), torch.randn(3 * HIDDEN, HIDDEN)
    fc, out = torch.randn(HEAD_UNITS, HIDDEN), torch.randn(1, HEAD_UNITS)

    def once(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return a, b, torch.empty(a.shape[0], b.shape[1])

    def over_all(count: int, *sizes: tuple[int, int]) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [once(torch.randn(m, count * BATCH), torch.randn(count * BATCH, n)) for m, n in sizes]

    forward, back = (state, W_h.t(), gates), (gates.clone(), W_h, state.clone())
    weights = (HIDDEN, 3 * HIDDEN), (1, 3 * HIDDEN)
    parts = [  # how often, and which products
        (1, once(torch.randn(observed * BATCH, 1), W_i.t())),
        (observed, forward),
        (forecast, (value, W_i.t(), from_value), forward, once(state, fc.t()), once(units, out.t())),
        (forecast, once(value, out), once(units, fc), back, once(gates, W_i)),
        (observed, back),
        (1, *over_all(observed, *weights)),
        (1, *over_all(forecast, *weights, (HEAD_UNITS, HIDDEN), (1, HEAD_UNITS))),
    ]

    def run() -> None:
        for count, *products in parts:
            for _ in range(count):
                for a, b, result in products:
                    torch.mm(a, b, out=result)

    return run


def bench(name: str, observed: int, forecast: int, seconds: float) -> list[Row]:
    """Errors and median times of all contenders at one size."""
    torch.manual_seed(1)
    x, y = torch.randn(BATCH, observed, 1), torch.randn(BATCH, forecast, 1)
    truth = gradients(network("torch", observed, forecast).double(), x.double(), y.double())
    calls: dict[str, Callable[[], object]] = {"bare products": bare_products(observed, forecast)}
    errors = {}
    for gru in GRUS:
        net = network(gru, observed, forecast)
        calls[gru] = lambda net=net: gradients(net, x, y)
        errors[gru] = max(map(relative_error, gradients(net, x, y), truth))
    times = alternate(calls, seconds)
    return [
        {
            "data": name,
            "steps": f"{observed} -> {forecast}",
            "gru": contender,
            "milliseconds": f"{1e3 * time:.4g}",
            "times_bare_products": f"{time / times['bare products']:.3g}",
            "gradient_error": f"{errors[contender]:.1e}" if contender in errors else "",
        }
        for contender, time in times.items()
    ]


def main() -> None:
    """Run, print, and write results/gru.csv."""
    command_line = parser(__doc__, seconds=20)
    command_line.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    args = command_line.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    print(machine())
    rows = []
    for name, (observed, forecast) in WINDOWS.items():
        show(found := bench(name, observed, forecast, args.seconds), 13)
        rows += found
    write_csv(args.output / "gru.csv", rows, machine=machine())


if __name__ == "__main__":
    main()
