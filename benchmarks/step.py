"""Where the time of a training step goes, beside the matrix products that no step can do without.

    python -m benchmarks.step                       # the paper's three settings, one thread
    python -m benchmarks.step --device cuda
    python -m benchmarks.step --original FOLDER     # and the released code's step, from a clone of it
    python -m benchmarks.step --trace FOLDER        # and torch.profiler's traces of a step, for Perfetto or Chrome

A step serves a batch of 100 series, forecasts them (GRU encoder-decoder, 128 units), computes DILATE, goes back, and
lets Adam step; float32, denormal numbers flushed, as in training. The series are random numbers of each setting's
sizes: no part's time depends on them. Parts are medians over all steps. Whole steps, and the bare products (see
benchmarks.gru), are timed in turns in one process.
"""

import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.common import Row, alternate, machine, medians, parser, show, write_csv
from benchmarks.contenders import ALPHA, GAMMA, released, released_loss
from benchmarks.gru import BATCH, HIDDEN, WINDOWS, bare_products, network
from data.windows import WindowDataset, batches
from loss import DilateLoss
from models import GRUS, HEAD_UNITS

PARTS = ("data", "encoder", "decoder", "loss", "backward", "optimizer")
SERIES = 500  # in the training set
STEPS_OF_A_TRAINING = 2500  # 500 epochs of 5 batches, the default

Batches = Iterator[tuple[Tensor, ...]]


class Stopwatch:
    """Times of named parts, one after the other; on a GPU it waits until a part is done."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.times = device, {part: [] for part in PARTS}
        self.last = time.perf_counter()

    def start(self) -> None:
        """Begin a step."""
        self.last = self._now()

    def stop(self, part: str) -> None:
        """The part ends here, and the next one begins."""
        now = self._now()
        self.times[part].append(now - self.last)
        self.last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Step:
    """A training step, as `training.train_model` does it.

    Args:
        net: The forecaster.
        criterion: Its loss.
        served: Batches without end.
        foreach: Of Adam; the released code leaves it to torch.
    """

    def __init__(self, net: nn.Module, criterion: nn.Module, served: Batches, foreach: bool | None = True) -> None:
        self.net, self.criterion, self.served = net, criterion, served
        self.device = next(net.parameters()).device
        self.optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, foreach=foreach)

    def __call__(self, watch: Stopwatch | None = None) -> None:
        """Do one step; a stopwatch is told of its parts."""
        stop = watch.stop if watch else lambda part: None
        x, y = (tensor.to(self.device) for tensor in next(self.served)[:2])
        stop("data")
        self.optimizer.zero_grad()
        handle = self.net.encoder.register_forward_hook(lambda *_: stop("encoder")) if watch else None
        forecast = self.net(x)
        stop("decoder")
        loss = self.criterion(forecast, y)
        stop("loss")
        loss.backward()
        stop("backward")
        self.optimizer.step()
        stop("optimizer")
        if handle:
            handle.remove()


def series(observed: int, forecast: int) -> Batches:
    """Shuffled batches of random series, for ever."""
    generator = torch.Generator().manual_seed(0)
    inputs, targets = (torch.randn(SERIES, steps, 1, generator=generator) for steps in (observed, forecast))
    return chain.from_iterable(repeat(batches(WindowDataset(inputs, targets), BATCH, generator)))


def parts(step: Step, seconds: float) -> dict[str, float]:
    """Median time of each part, over as many steps as fit."""
    step()  # compiles
    watch, begun = Stopwatch(step.device), time.perf_counter()
    while time.perf_counter() - begun < seconds:
        watch.start()
        step(watch)
    return medians(watch.times)


def trace(step: Step, path: Path) -> None:
    """Write what torch.profiler sees of three steps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.profiler.profile() as profile:
        for _ in range(3):
            step()
    profile.export_chrome_trace(str(path))


def released_step(clone: Path, forecast: int, criterion: Callable, served: Batches) -> Callable[[], None]:
    """The same step with the released network; its data come as ours do, which is in its favour."""
    code, device = released(clone, "models", "seq2seq"), torch.device("cpu")
    encoder = code.EncoderRNN(input_size=1, hidden_size=HIDDEN, num_grulstm_layers=1, batch_size=BATCH)
    decoder = code.DecoderRNN(
        input_size=1, hidden_size=HIDDEN, num_grulstm_layers=1, fc_units=HEAD_UNITS, output_size=1
    )
    return Step(code.Net_GRU(encoder, decoder, forecast, device), criterion, served, foreach=None)


def bench(name: str, device: torch.device, seconds: float, original: Path | None, traces: Path | None) -> list[Row]:
    """Parts and whole steps of one setting, in milliseconds and as multiples of the bare products."""
    observed, forecast = WINDOWS[name]
    losses = {"mse": nn.MSELoss(), "dilate": DilateLoss(ALPHA, GAMMA)}
    steps: dict[str, Callable[[], object]] = {}
    for gru in GRUS:
        for loss, criterion in losses.items():
            net = network(gru, observed, forecast).to(device)
            steps[f"{gru}, {loss}"] = Step(net, criterion, series(observed, forecast))
    if original is not None:
        losses["dilate"] = released_loss(original)
        for loss, criterion in losses.items():
            steps[f"released, {loss}"] = released_step(original, forecast, criterion, series(observed, forecast))
    if traces is not None:
        trace(steps["fused, dilate"], traces / f"step_{name}.json")
    # Its parts first: a step that is timed as a whole must not have met the stopwatch's hooks.
    ours = parts(steps["fused, dilate"], seconds / 4)
    floor = {"bare products": bare_products(observed, forecast)} if device.type == "cpu" else {}
    times = alternate(floor | steps, seconds)
    whole = sum(ours.values())
    rows = [("part", part, time, time / whole) for part, time in ours.items()]
    rows += [("step", step, time, None) for step, time in times.items()]
    least = times.get("bare products")
    return [
        {
            "setting": name,
            "steps": f"{observed} -> {forecast}",
            "kind": kind,
            "name": what,
            "milliseconds": f"{1e3 * time:.4g}",
            "share_of_the_step": "" if share is None else f"{100 * share:.1f} %",
            "times_bare_products": f"{time / least:.3g}" if least and kind == "step" else "",
        }
        for kind, what, time, share in rows
    ]


def three_trainings(rows: list[Row], who: str) -> float:
    """Seconds of the default experiment's steps: one training with MSE, two with the sweeps of DILATE."""
    found = {row["name"]: float(row["milliseconds"]) / 1e3 for row in rows if row["setting"] == "synthetic"}
    return STEPS_OF_A_TRAINING * (found[f"{who}, mse"] + 2 * found[f"{who}, dilate"])


def main() -> None:
    """Run, print, and write results/step.csv."""
    add = (command_line := parser(__doc__, seconds=30, per="setting", original="optional")).add_argument
    add("--settings", nargs="+", choices=list(WINDOWS), default=list(WINDOWS), help="default: all")
    add("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    add("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add("--trace", type=Path, metavar="FOLDER", help="write torch.profiler's traces there")
    args = command_line.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    print(machine())
    rows = []
    for name in args.settings:
        show(found := bench(name, torch.device(args.device), args.seconds, args.original, args.trace), 13)
        rows += found
    if "synthetic" in args.settings:
        for who in ("torch", "fused", *(["released"] if args.original else [])):
            print(f"the steps of `python main.py`, {who}: {three_trainings(rows, who):.0f} s")
    write_csv(args.output / "step.csv", rows, machine=machine())


if __name__ == "__main__":
    main()
