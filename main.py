"""Train forecasters with MSE, soft-DTW and DILATE, and compare them (the paper's section 4, Table 1).

Without flags: the synthetic task, all three losses, 500 epochs. ``python main.py --help`` lists every setting
with the paper's value, and examples.
"""

import argparse
import csv
import inspect
import io
import json
import math
import os
import platform
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from data import DATASETS, ForecastData, load
from loss import DilateLoss, SoftDTWLoss
from models import GRUS, MODELS, build_model
from paper_results import PaperRow, paper_row
from training import (
    CheckpointError,
    DivergenceError,
    Record,
    atomic_write,
    eval_model,
    load_checkpoint,
    load_weights,
    predict,
    train_model,
)

Settings = dict[str, object]

CRITERIA = {
    "mse": lambda args: nn.MSELoss(),
    "soft_dtw": lambda args: SoftDTWLoss(args.gamma),
    "dilate": lambda args: DilateLoss(args.alpha, args.gamma),
}
PAPER_ALPHA = {"synthetic": 0.5, "ecg5000": 0.5, "traffic": 0.8}
PAPER_GAMMA, PAPER_HIDDEN_SIZE, PAPER_LAYERS = 0.01, 128, 1
PAPER_WINDOWS = {"synthetic": (20, 20), "ecg5000": (84, 56), "traffic": (168, 24)}  # input length, horizon
METRICS = ("mse", "dtw", "tdi")
RESULT_COLUMNS = ("loss", "epoch", "train_loss", *METRICS, "seconds")
DEFAULT_PLOT_SAMPLES = range(1, 6)

LOADER_FLAGS = {
    "path": "data_path",
    "columns": "csv_columns",
    "targets": "csv_targets",
    "input_length": "input_length",
    "horizon": "horizon",
    "stride": "stride",
}
NOT_STORED = ("resume", "evaluate", "output")
CHANGED_BY_RESUME = ("epochs", "plot_samples", "plots", "show", "threads")
CHANGED_BY_EVALUATE = ("batch_size", "data_path", "device", "gru", "threads")

PAPER = "paper and default: %(default)s"
RELEASED = "released code and default: %(default)s"
EXAMPLES = """examples:
  python main.py --epochs 50 --losses dilate
  python main.py --dataset ecg5000 --data-path folder/with/ECG5000
  python main.py --dataset traffic --data-path traffic.csv --model mlp
  python main.py --dataset csv --data-path ETTh1.csv --csv-columns OT --input-length 96 --horizon 24
  python main.py --resume runs/synthetic-seq2seq-20260102-030405 --epochs 1000
  python main.py --evaluate runs/synthetic-seq2seq-20260102-030405/checkpoints/dilate.pt
"""


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""


def fail(message: object) -> NoReturn:
    """End the program with one sentence on stderr and exit code 2."""
    print(f"main.py: error: {message}", file=sys.stderr)
    raise SystemExit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(message)


def get_args_parser() -> argparse.ArgumentParser:
    """All flags, in groups, with units and the paper's values in the help."""
    parser = _Parser(
        prog="main.py",
        usage="python main.py [flags]",
        description="Train forecasters with MSE, soft-DTW and DILATE, and compare them (paper, Table 1).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_data_flags(parser.add_argument_group("data").add_argument)
    _add_network_flags(parser.add_argument_group("network and losses").add_argument)
    _add_training_flags(parser.add_argument_group("training").add_argument)
    _add_output_flags(parser.add_argument_group("output").add_argument)
    _add_continuation_flags(parser.add_argument_group("earlier runs").add_argument)
    return parser


def _add_data_flags(add: Callable) -> None:
    column, length = {"nargs": "+", "metavar": "COLUMN"}, {"type": _count(), "metavar": "STEPS"}
    add("--dataset", choices=list(DATASETS), default="synthetic", help="default: %(default)s")
    add("--data-path", metavar="PATH", help="file or folder of the data; csv needs one, synthetic takes none")
    add("--csv-columns", **column, help="to observe: names, positions from 0, or all (default: the last)")
    add("--csv-targets", **column, help="to forecast: some of --csv-columns (default: all of them)")
    lengths = ", ".join(f"{name} {observed}" for name, (observed, _) in PAPER_WINDOWS.items())
    horizons = ", ".join(f"{name} {forecast}" for name, (_, forecast) in PAPER_WINDOWS.items())
    add("--input-length", **length, help=f"observed; paper and default: {lengths}; csv 168")
    add("--horizon", **length, help=f"forecast, k; paper and default: {horizons}; csv 24")
    add("--stride", **length, help="between two windows of traffic or csv (default: 1)")


def _add_network_flags(add: Callable) -> None:
    models, losses = list(MODELS), list(CRITERIA)
    count = {"type": _count(), "metavar": "N"}
    alpha = "DILATE's weight of shape against time, 0 to 1; paper and default: .5, traffic .8"
    gamma = f"smoothing, in squared units of the data; {PAPER}"
    gru = (
        "torch: nn.GRU; written-out: its equations, in models/gru.py; fused: in less time, on the CPU; "
        "same weights, same numbers (default: %(default)s)"
    )
    add("--model", choices=models, default="seq2seq", help="the paper has both (default: %(default)s)")
    add("--hidden-size", **count, default=PAPER_HIDDEN_SIZE, help=f"units per layer; {PAPER}")
    add("--layers", **count, default=PAPER_LAYERS, help=f"of GRUs, or hidden layers of the MLP; {PAPER}")
    add("--gru", choices=list(GRUS), default="torch", help=gru)
    add("--losses", nargs="+", choices=losses, default=losses, help="one network each; paper and default: all")
    add("--alpha", type=_fraction, metavar="A", help=alpha)
    add("--gamma", type=_positive, metavar="G", default=PAPER_GAMMA, help=gamma)


def _add_training_flags(add: Callable) -> None:
    count, from_0 = {"type": _count(), "metavar": "N"}, {"type": _count(at_least=0), "metavar": "N"}
    epochs = f"passes over the training set; paper: at most 1000, stopped early; {RELEASED}"
    every = f"epochs between evaluations, each of them a checkpoint, 0: only the last; {RELEASED}"
    seed = "of initial weights and batches, the data stay the same; paper: 10 runs (default: %(default)s)"
    device = "auto (cuda if there, else cpu), cpu, cuda, cuda:1, ... or mps (default: %(default)s)"
    threads = "default on the CPU: 1; a second gains nothing at these sizes and stalls where a core is busy"
    add("--epochs", **count, default=500, help=epochs)
    add("--batch-size", **count, default=100, help=f"series; {RELEASED}")
    add("--learning-rate", type=_positive, metavar="X", default=1e-3, help=f"Adam's step size; {RELEASED}")
    add("--eval-every", **from_0, default=50, help=every)
    add("--seed", **from_0, default=0, help=seed)
    add("--device", default="auto", help=device)
    add("--threads", **count, help=threads)
    add("--deterministic", action="store_true", help="only deterministic algorithms, where a GPU has a choice")


def _add_output_flags(add: Callable) -> None:
    switch = {"action": argparse.BooleanOptionalAction, "default": True}
    samples = "series of the test set to plot, counted from 0 (default: 1 2 3 4 5)"
    add("--output", metavar="FOLDER", help="a new one (default: runs/<dataset>-<model>-<timestamp>)")
    add("--plot-samples", nargs="+", type=_count(at_least=0), metavar="I", help=samples)
    add("--plots", **switch, help="draw figures at the end (default: yes)")
    add("--show", **switch, help="show them, where there is a display (default: yes)")


def _add_continuation_flags(add: Callable) -> None:
    resume, measure = (" ".join(map(_flag, names)) for names in (CHANGED_BY_RESUME, CHANGED_BY_EVALUATE))
    add("--resume", metavar="FOLDER", help=f"continue that run, with its settings but for: {resume}")
    add("--evaluate", metavar="CHECKPOINT", help=f"only measure it, with its settings but for: {measure}")


def _count(at_least: int = 1) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < at_least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {at_least}, got {text!r}")
        return int(text)

    return count


def _positive(text: str) -> float:
    return _number(text, "must be a positive number", lambda value: 0 < value < math.inf)


def _fraction(text: str) -> float:
    return _number(text, "must lie between 0 and 1", lambda value: 0 <= value <= 1)


def _number(text: str, rule: str, allowed: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not allowed(value):
        raise argparse.ArgumentTypeError(f"{rule}, got {text!r}")
    return value


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# ------------------------------------------------------------------------------------------------- settings


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; an earlier run that is continued or evaluated brings its own settings.

    Args:
        argv: Flags; those of the process if not given.

    Returns:
        One attribute per setting, complete and checked.
    """
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.resume and args.evaluate:
        fail("--resume and --evaluate cannot be given together.")
    if args.data_path is not None:
        # A run may be continued from another folder than the one it was started in.
        args.data_path = str(Path(args.data_path).expanduser().absolute())
    with complaints(ValueError, OSError):
        if args.resume:
            stored = RunFolder(Path(args.resume)).read_settings(parser)
            _adopt(args, stored, _given(parser, argv), "resume", CHANGED_BY_RESUME)
        elif args.evaluate:
            stored = load_checkpoint(args.evaluate).get("settings", {})
            changeable = CHANGED_BY_EVALUATE if stored else vars(args)
            _adopt(args, stored, _given(parser, argv), "evaluate", changeable)
    if args.alpha is None:
        args.alpha = PAPER_ALPHA.get(args.dataset, 0.5)
    if args.gru != parser.get_default("gru") and args.model == "mlp":
        fail(f"--gru {args.gru} cannot be given with --model mlp, which has no GRU.")
    if len(set(args.losses)) < len(args.losses):
        fail(f"--losses must name each loss once, got {' '.join(args.losses)}.")
    return args


def _given(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> set[str]:
    """Names of the settings that the command line itself sets."""
    unset = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args([]))))
    return {name for name, value in vars(parser.parse_args(argv, unset)).items() if value is not None}


def _adopt(args: argparse.Namespace, stored: Mapping, given: set[str], mode: str, changeable: Sequence[str]) -> None:
    """Replace the settings of the command line by stored ones, except for changeable ones that were given."""
    fixed = sorted(given - {mode, *changeable})
    if fixed:
        allowed = ", ".join(map(_flag, changeable))
        fail(f"{_flag(fixed[0])} cannot be given with {_flag(mode)}, only {allowed} can.")
    for name, value in stored.items():
        if hasattr(args, name) and name not in given:
            setattr(args, name, value)


def settings_of(args: argparse.Namespace) -> Settings:
    """What a run stores of its settings: plain values only."""
    return {name: value for name, value in vars(args).items() if name not in NOT_STORED}


@contextmanager
def complaints(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors that the user can mend into one sentence and exit code 2."""
    try:
        yield
    except kinds as error:
        if isinstance(error, OSError) and error.filename is not None:
            fail(f"Cannot read or write {error.filename}: {error.strerror}.")
        fail(error)


# --------------------------------------------------------------------------------------------------- folder


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its settings, metrics, results, checkpoints and figures."""

    path: Path

    @property
    def config(self) -> Path:
        """Settings of the run, and the versions it was started with (JSON)."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per evaluation and line."""
        return self.path / "metrics.jsonl"

    @property
    def results(self) -> Path:
        """Final metrics, in full precision (CSV)."""
        return self.path / "results.csv"

    @property
    def figures(self) -> Path:
        """Folder of the figures (PNG)."""
        return self.path / "figures"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, loss: str) -> Path:
        """State of the training with that loss, as of its last evaluation."""
        return self.checkpoints / f"{loss}.pt"

    def create(self) -> None:
        """Make the folder; one that already holds a run is refused.

        Raises:
            FileExistsError: If it holds a run.
            OSError: If it cannot be made.
        """
        for part in (self.config, self.metrics, self.results, self.figures, self.checkpoints):
            if part.exists():
                raise FileExistsError(
                    f"--output {self.path} already holds a run ({part.name}): name another folder, "
                    f"or continue with --resume {self.path}."
                )
        self.path.mkdir(parents=True, exist_ok=True)

    def read_settings(self, parser: argparse.ArgumentParser) -> Settings:
        """Settings of the run in this folder.

        Raises:
            FileNotFoundError: If there is no run.
            ValueError: If the file is damaged or has settings that this program does not know.
        """
        if not self.config.exists():
            raise FileNotFoundError(f"There is no run to continue in {self.path}: {self.config} is missing.")
        try:
            settings = dict(json.loads(self.config.read_text())["settings"])
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{self.config} is damaged: it holds no settings.") from None
        known = vars(parser.parse_args([])).keys() - set(NOT_STORED)
        if settings.keys() != known:
            odd = min(settings.keys() ^ known)
            raise ValueError(f"{self.config} belongs to another version of this program: see {odd!r}.")
        return settings

    def write_settings(self, args: argparse.Namespace) -> None:
        """Store the settings; the time of the start is kept when a run is continued."""
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        if self.config.exists():
            started = json.loads(self.config.read_text()).get("started", started)
        versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
        config = {"settings": settings_of(args), "started": started, "versions": versions}
        self._write(self.config, json.dumps(config, indent=2) + "\n")

    def append_metrics(self, record: Record) -> None:
        """Add one evaluation."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(_json_line(record))

    def write_metrics(self, records: Sequence[Record]) -> None:
        """Replace all evaluations."""
        self._write(self.metrics, "".join(map(_json_line, records)))

    def write_results(self, results: Mapping[str, Record]) -> None:
        """Store the last evaluation of each loss."""
        text = io.StringIO()
        writer = csv.DictWriter(text, RESULT_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({"loss": loss, **record} for loss, record in results.items())
        self._write(self.results, text.getvalue())

    @staticmethod
    def _write(path: Path, text: str) -> None:
        with atomic_write(path) as file:
            file.write(text.encode())


def _json_line(record: Record) -> str:
    # JSON has no nan.
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def _new_folder(args: argparse.Namespace) -> RunFolder:
    if args.output is not None:
        return RunFolder(Path(args.output))
    name = Path("runs") / f"{args.dataset}-{args.model}-{datetime.now():%Y%m%d-%H%M%S}"
    others = (name.with_name(f"{name.name}-{number}") for number in range(2, 1000))
    return RunFolder(next(path for path in (name, *others) if not path.exists()))


# -------------------------------------------------------------------------------------------------- machine


def resolve_device(name: str) -> torch.device:
    """The device of that name, made sure of.

    Args:
        name: ``auto`` (cuda if there is one, else cpu), ``cpu``, ``cuda``, ``cuda:1``, ... or ``mps``.

    Raises:
        ValueError: If the name is unknown or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (":" in name and not (kind == "cuda" and index.isdecimal())):
        raise ValueError(f"--device must be auto, cpu, cuda, cuda:1, ... or mps, got {name!r}.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name} is not there: torch finds {torch.cuda.device_count()} CUDA devices.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps is not there: torch finds no Apple GPU.")
    return torch.device(name)


def set_up_torch(args: argparse.Namespace, device: torch.device) -> None:
    """Number of threads and determinism, for the whole process."""
    threads = args.threads or (1 if device.type == "cpu" else None)
    if threads is not None:
        torch.set_num_threads(threads)
    if args.deterministic:
        # cuBLAS is deterministic only with a workspace of fixed size, chosen before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


# ----------------------------------------------------------------------------------------------- experiment


@dataclass(frozen=True)
class Experiment:
    """Settings, with the data and the device that they stand for."""

    args: argparse.Namespace
    data: ForecastData
    device: torch.device

    def network(self) -> nn.Module:
        """A network with the initial weights that all losses of a run start from."""
        torch.manual_seed(self.args.seed)
        data, args = self.data, self.args
        net = build_model(
            args.model,
            input_length=data.input_length,
            horizon=data.horizon,
            input_size=data.input_size,
            output_size=data.output_size,
            hidden_size=args.hidden_size,
            layers=args.layers,
            output_columns=_output_columns(args),
            gru=args.gru,
        )
        return net.to(self.device)

    def trained_network(self, path: str | Path) -> nn.Module:
        """A network with the weights of a checkpoint."""
        net = self.network()
        load_weights(net, load_checkpoint(path), path)
        return net


def prepare(args: argparse.Namespace) -> Experiment:
    """Load the data and find the device.

    Raises:
        ValueError, TypeError, OSError: As `data.load` and `resolve_device` say.
    """
    device = resolve_device(args.device)
    set_up_torch(args, device)
    return Experiment(args, _load_data(args), device)


def _load_data(args: argparse.Namespace) -> ForecastData:
    options = {option: getattr(args, setting) for option, setting in LOADER_FLAGS.items()}
    options = {option: value for option, value in options.items() if value is not None}
    known = inspect.signature(DATASETS[args.dataset]).parameters
    for option in options:
        if option not in known:
            raise ValueError(f"{_flag(LOADER_FLAGS[option])} cannot be given with --dataset {args.dataset}.")
    if args.dataset == "csv" and args.data_path is None:
        raise ValueError("--dataset csv needs --data-path, the CSV file.")
    if options.get("columns") == ["all"]:
        options["columns"] = "all"
    _output_columns(args)
    return load(args.dataset, **options)


def _output_columns(args: argparse.Namespace) -> list[int] | None:
    """Where the columns to forecast stand among the observed ones, if only some are to be forecast."""
    if args.csv_targets is None:
        return None
    observed = args.csv_columns or []
    for column in args.csv_targets:
        if column not in observed:
            raise ValueError(f"--csv-targets must be among --csv-columns, got {column!r}.")
    return [observed.index(column) for column in args.csv_targets]


def _plot_samples(args: argparse.Namespace, count: int) -> list[int]:
    chosen = args.plot_samples
    if chosen is None:
        return [index for index in DEFAULT_PLOT_SAMPLES if index < count] or [0]
    for index in chosen:
        if not 0 <= index < count:
            raise ValueError(f"--plot-samples must lie between 0 and {count - 1}, got {index}.")
    return chosen


# -------------------------------------------------------------------------------------------------- program


def main(args: argparse.Namespace) -> dict[str, Record]:
    """Run the experiment: train with each loss, print and store the metrics, draw the figures.

    Args:
        args: As `parse_args` returns them.

    Returns:
        Training loss -> last record (see `training.train_model`).

    Raises:
        SystemExit: 2 for a mistake of the user, 130 and 143 if interrupted by Ctrl-C or SIGTERM.
    """
    with complaints(ValueError, TypeError, OSError):
        experiment = prepare(args)
    if args.evaluate:
        return evaluate(experiment)
    with complaints(ValueError, OSError):
        samples = _plot_samples(args, len(experiment.data.test))
        folder = RunFolder(Path(args.resume)) if args.resume else _new_folder(args)
        histories = _earlier_histories(args, folder) if args.resume else folder.create()
        folder.write_settings(args)
        folder.write_metrics(_flattened(histories or {}))
    print(_introduction(experiment, folder))
    with interruptible(folder), complaints(OSError, CheckpointError, DivergenceError):
        histories = train_all(experiment, folder)
        if args.plots:
            draw(experiment, folder, histories, samples)
    results = {loss: history[-1] for loss, history in histories.items()}
    print(f"\n{results_table(experiment, results)}\n\nEverything is in {folder.path}")
    return results


def train_all(experiment: Experiment, folder: RunFolder) -> dict[str, list[Record]]:
    """Train one network with each loss, or what is left of it, and keep all metrics in the folder.

    Returns:
        Training loss -> its records.
    """
    args, data, histories = experiment.args, experiment.data, {}
    for number, loss in enumerate(args.losses, start=1):
        print(f"\n{loss} ({number} of {len(args.losses)})")
        histories[loss] = train_model(
            experiment.network(),
            CRITERIA[loss](args),
            data.train,
            data.test,
            learning_rate=args.learning_rate,
            epochs=args.epochs,
            batch_size=args.batch_size,
            print_every=args.eval_every or args.epochs,
            eval_every=args.eval_every,
            seed=args.seed,
            checkpoint=folder.checkpoint(loss),
            settings={"loss": loss, **settings_of(args)},
            on_eval=lambda record, loss=loss: folder.append_metrics({"loss": loss, **record}),
            progress=loss,
        )
        folder.write_results({loss: history[-1] for loss, history in histories.items()})
    return histories


def evaluate(experiment: Experiment) -> dict[str, Record]:
    """Measure one checkpoint on the test set, and print its row of the table."""
    path = experiment.args.evaluate
    with complaints(CheckpointError, OSError):
        checkpoint = load_checkpoint(path)
        net = experiment.trained_network(path)
    scores = eval_model(net, experiment.data.test, experiment.args.batch_size)
    name = checkpoint.get("settings", {}).get("loss", Path(path).stem)
    print(results_table(experiment, {name: scores}))
    return {name: scores}


def draw(
    experiment: Experiment, folder: RunFolder, histories: Mapping[str, list[Record]], samples: list[int]
) -> None:
    """Draw forecasts side by side, learning curves and one alignment per loss into the run's folder."""
    # Not at the top: matplotlib takes a second to import, which no run without figures needs.
    from plots import plot_alignment, plot_forecasts, plot_learning_curves

    args, test = experiment.args, experiment.data.test
    folder.figures.mkdir(exist_ok=True)
    inputs, targets = test[list(range(len(test)))][:2]
    forecasts = {loss: _forecast(experiment, folder, loss) for loss in histories}
    plot_forecasts(inputs, targets, forecasts, folder.figures / "forecasts.png", samples, show=args.show)
    plot_learning_curves(_flattened(histories), folder.figures / "learning_curves.png", show=args.show)
    first = samples[0]
    for loss, forecast in forecasts.items():
        path, title = folder.figures / f"alignment_{loss}.png", f"{loss}, test sample {first}"
        plot_alignment(targets[first], forecast[first], args.gamma, path, title=title, show=args.show)


def _forecast(experiment: Experiment, folder: RunFolder, loss: str) -> Tensor:
    net = experiment.trained_network(folder.checkpoint(loss))
    return predict(net, experiment.data.test, experiment.args.batch_size)[0]


def _earlier_histories(args: argparse.Namespace, folder: RunFolder) -> dict[str, list[Record]]:
    """Records of the losses that were trained before; the checkpoints, not metrics.jsonl, are the truth."""
    histories = {}
    for loss in args.losses:
        path = folder.checkpoint(loss)
        if not path.exists():
            continue
        checkpoint = load_checkpoint(path)
        histories[loss] = checkpoint.get("history", [])
        done = checkpoint.get("epoch", -1) + 1
        if done > args.epochs:
            raise ValueError(f"--epochs must be at least {done}, which {path} already has, got {args.epochs}.")
    return histories


def _flattened(histories: Mapping[str, list[Record]]) -> list[Record]:
    return [{"loss": loss, **record} for loss, history in histories.items() for record in history]


@contextmanager
def interruptible(folder: RunFolder) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a run with a sentence on how to continue it."""

    def terminate(signum: int, frame: object) -> NoReturn:
        raise Terminated

    # Python allows signal handlers in the main thread only.
    handles_signals = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if handles_signals else None
    try:
        yield
    except KeyboardInterrupt as interrupt:
        command = f"python main.py --resume {shlex.quote(str(folder.path))}"
        print(
            f"\nInterrupted; only the work since the last evaluation is lost, and this continues: {command}",
            file=sys.stderr,
        )
        raise SystemExit(143 if isinstance(interrupt, Terminated) else 130) from None
    finally:
        if handles_signals:
            signal.signal(signal.SIGTERM, before)


# --------------------------------------------------------------------------------------------------- tables


def _introduction(experiment: Experiment, folder: RunFolder) -> str:
    args, data = experiment.args, experiment.data
    parameters = sum(parameter.numel() for parameter in experiment.network().parameters())
    return (
        f"{data.name}: {len(data.train)} training and {len(data.test)} test series, "
        f"{data.input_length} -> {data.horizon} steps\n"
        f"{args.model}: {parameters:,} parameters on {experiment.device}\n"
        f"losses: {', '.join(args.losses)} (alpha {args.alpha:g}, gamma {args.gamma:g})\n"
        f"run folder: {folder.path}"
    )


def results_table(experiment: Experiment, results: Mapping[str, Mapping[str, float]]) -> str:
    """The final metrics, loss by loss, beside the paper's where the setting is the paper's.

    Args:
        experiment: What was run.
        results: Training loss -> ``mse``, ``dtw`` and ``tdi``, and ``epoch`` if known.
    """
    papers = {loss: paper_comparison(experiment, loss) for loss in results}
    rows = [["loss", *map(str.upper, METRICS)]]
    rows += [[loss, *(f"{record[metric]:#.4g}" for metric in METRICS)] for loss, record in results.items()]
    if any(papers.values()):
        rows[0] += [f"paper's {metric.upper()}" for metric in METRICS]
        for row, paper in zip(rows[1:], papers.values(), strict=True):
            row += _paper_cells(paper)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([_caption(experiment, results, any(papers.values())), *lines])


def _caption(experiment: Experiment, results: Mapping[str, Mapping[str, float]], with_paper: bool) -> str:
    units = "scaled units" if experiment.data.target_scaling is not None else "raw units"
    epochs = {record["epoch"] + 1 for record in results.values() if "epoch" in record}
    after = f" after {max(epochs)} epoch{'s' if max(epochs) > 1 else ''}" if epochs else ""
    paper = "; paper: Table 1, mean ± std of 10 runs" if with_paper else ""
    return f"{experiment.data.name}, {experiment.args.model}{after}, means over the test set in {units}{paper}"


def _paper_cells(paper: PaperRow | None) -> list[str]:
    if paper is None:
        return [""] * len(METRICS)
    pairs = zip(paper[::2], paper[1::2], strict=True)
    return [f"{mean:#.3g} ± {std:.3g}" for mean, std in pairs]


def paper_comparison(experiment: Experiment, loss: str) -> PaperRow | None:
    """The paper's numbers for this network, data and loss, if the setting is the paper's."""
    args, data = experiment.args, experiment.data
    ours = {
        "network": (args.hidden_size, args.layers),
        "windows": (data.input_length, data.horizon, args.stride or 1),
        "gamma": args.gamma if loss != "mse" else None,
        "alpha": args.alpha if loss == "dilate" else None,
    }
    papers = {
        "network": (PAPER_HIDDEN_SIZE, PAPER_LAYERS),
        "windows": (*PAPER_WINDOWS.get(args.dataset, ()), 1),
        "gamma": PAPER_GAMMA if loss != "mse" else None,
        "alpha": PAPER_ALPHA.get(args.dataset) if loss == "dilate" else None,
    }
    if ours != papers:
        return None
    return paper_row(args.dataset, args.model, loss)


if __name__ == "__main__":
    # Piped into a file or tee, the lines would otherwise come in large blocks, minutes late.
    sys.stdout.reconfigure(line_buffering=True)
    try:
        main(parse_args())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
