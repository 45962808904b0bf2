"""The experiment of main.py: settings, with the data, the network and the device that they stand for."""

import argparse
import inspect
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numba.core import event
from torch import nn
from tqdm import tqdm

from data import DATASETS, ForecastData, load
from data.arguments import called_by_flags
from data.csv_dataset import Histories, read_histories, shown_scale
from data.windows import Fingerprint, History, WindowDataset
from evaluation.metrics import evaluate_forecasts
from models import build_model

from . import data_parallel
from .checkpoint import load_checkpoint, load_weights
from .data_record import OWN_DATA_ONLY, DataRecord, check_unchanged, record_in
from .loop import check_can_record, warm_up
from .losses import LOSSES
from .units import check_season

__all__ = [
    "HOW_WRITTEN",
    "Experiment",
    "announced_compilation",
    "at_a_time",
    "beside_training",
    "compile_kernels",
    "cores",
    "flag",
    "mostly_filled",
    "prepare",
    "ran_out_of_memory",
    "read_past",
    "resolve_device",
    "set_up_torch",
]

LOADER_FLAGS = {
    "path": "data_path",
    "columns": "csv_columns",
    "targets": "csv_targets",
    "input_length": "input_length",
    "horizon": "horizon",
    "stride": "stride",
    "split": "split",
    "delimiter": "csv_delimiter",
    "decimal": "csv_decimal",
    "thousands": "csv_thousands",
    "encoding": "csv_encoding",
    "header": "csv_header",
    "time": "csv_time",
    "series": "csv_series",
    "missing": "csv_missing",
}
# Of a CSV file, which may be written in another way when an earlier network is used on it.
HOW_WRITTEN = ("delimiter", "decimal", "thousands", "encoding", "header", "missing")

VALIDATED = ("csv", "traffic")  # whose weights are chosen on the validation part, as the paper's are


def flag(setting: str) -> str:
    """The setting of that name, as it is written on the command line."""
    return "--" + setting.replace("_", "-")


FLAGS = {option: flag(setting) for option, setting in LOADER_FLAGS.items()}


def ran_out_of_memory(error: Exception) -> bool:
    """True if an error says that there is less memory than was asked for, on the CPU or on a GPU."""
    # torch has a kind of its own for this on GPUs only.
    said = isinstance(error, RuntimeError) and re.search(
        "can't allocate memory|not enough memory|out of memory|Storage size calculation overflowed", str(error)
    )
    return isinstance(error, MemoryError) or bool(said)


def resolve_device(name: str) -> torch.device:
    """The device of that name, made sure of.

    Args:
        name: ``auto`` (cuda if there is one, else cpu), ``cpu``, ``cuda``, ``cuda:1``, ... or ``mps``. Where several
            processes train together, ``cuda`` gives each its own GPU.

    Raises:
        ValueError: If the name is unknown, this machine has no such device, or it has too few.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    numbered = kind == "cuda" and re.fullmatch("[0-9]{1,4}", index)
    if kind not in ("cpu", "cuda", "mps") or (":" in name and not numbered):
        raise ValueError(f"--device must be auto, cpu, cuda, cuda:1, ... or mps, got {name!r}.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name} is not there: torch finds {torch.cuda.device_count()} CUDA devices.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps is not there: torch finds no Apple GPU.")
    if data_parallel.world_size() > 1 and name != "cpu":
        return torch.device("cuda", _own_gpu(name))
    return torch.device(name)


def _own_gpu(name: str) -> int:
    count, found = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if name != "cuda":
        raise ValueError(f"--device {name} is one device, and {count} processes cannot share it: give cuda or cpu.")
    if found < count:
        raise ValueError(f"--device cuda: {count} processes need a GPU each, and torch finds {found}.")
    return int(os.environ["LOCAL_RANK"])


def set_up_torch(args: argparse.Namespace, device: torch.device) -> None:
    """Number of threads and determinism, for the whole process."""
    if device.index is not None:
        torch.cuda.set_device(device)
    threads = args.threads or (1 if device.type == "cpu" else None)
    if threads is not None:
        torch.set_num_threads(threads)
    if args.deterministic:
        # cuBLAS is deterministic only with a workspace of fixed size, chosen before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


@dataclass(frozen=True)
class Experiment:
    """Settings, with the device and the data that they stand for; of the data a record is enough for a network."""

    args: argparse.Namespace
    data: ForecastData | DataRecord
    device: torch.device
    trained_on: DataRecord | None = None  # of a checkpoint that is evaluated, where it holds one

    def network(self) -> nn.Module:
        """A network with the initial weights that all losses of a run start from.

        Raises:
            ValueError: If there is not enough memory for it.
        """
        torch.manual_seed(self.args.seed)
        data, args = self.data, self.args
        try:
            net = build_model(
                args.model,
                input_length=data.input_length,
                horizon=data.horizon,
                input_size=data.input_size,
                output_size=data.output_size,
                hidden_size=args.hidden_size,
                layers=args.layers,
                output_columns=data.target_columns,
                gru=args.gru,
            )
            net.to(self.device)
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            size = f"--hidden-size {args.hidden_size} and --layers {args.layers}"
            raise ValueError(f"There is not enough memory for a network of {size}.") from None
        return net

    @property
    def valid(self) -> WindowDataset | None:
        """The part that chooses the weights, of csv and traffic; the others keep the last ones, as released."""
        return self.data.valid if self.args.dataset in VALIDATED else None

    def check_data(self, before: Fingerprint | None) -> None:
        """Make sure that the data are those of the same run, read earlier (see `check_unchanged`)."""
        check_unchanged(self.args.data_path or f"the data of {self.data.name}", before, self.data.fingerprint)

    def trained_network(self, path: str | Path) -> nn.Module:
        """A network with the weights of a checkpoint."""
        net, checkpoint = self.network(), load_checkpoint(path)
        net.to(next(iter(checkpoint["net"].values())).dtype)  # whatever the caller's default dtype is
        load_weights(net, checkpoint, path)
        return net


def prepare(args: argparse.Namespace) -> Experiment:
    """Load the data and find the device.

    Raises:
        ValueError, TypeError, OSError: As `data.load`, `resolve_device` and `training.check_can_record` say; or there
            is no validation part for --patience, or no season in the observed steps.
    """
    device = resolve_device(args.device)
    if args.cuda_graph and not args.evaluate:
        check_can_record("--cuda-graph", device)
    set_up_torch(args, device)
    trained_on = record_in(load_checkpoint(args.evaluate), args.evaluate) if args.evaluate else None
    data = _load_data(args, trained_on)
    check_season(data, args.season)
    if args.patience is not None and data.valid is None:
        raise ValueError(f"--patience {args.patience} needs a validation part, which --split leaves without rows.")
    return Experiment(args, data, device, trained_on)


def _load_data(args: argparse.Namespace, trained_on: DataRecord | None) -> ForecastData:
    """Load the data, for a network that was trained before by the scaling of its own."""
    options, path = _options(args), args.evaluate
    earlier = args.resume or (path if trained_on else None)
    if trained_on and trained_on.scaling is not None:
        options["scaling"] = trained_on.scaling
    if trained_on and trained_on.steps:
        options["steps"] = trained_on.known_steps
    if trained_on and not args.resume:
        options |= _settled_by(trained_on, args)
    with _reading(args, earlier, trained_on, scaling=f"the scaling in {path}"):
        data = load(args.dataset, **options)
    if trained_on:
        _check_columns(args, trained_on, data.columns, data.series)
    if trained_on and trained_on.target_columns not in (None, data.target_columns):
        now = ", ".join(data.columns[position] for position in data.target_columns)
        before = ", ".join(trained_on.targets)
        raise ValueError(f"--csv-targets are {now} in {args.data_path}, but {path} was trained to forecast {before}.")
    return data


@contextmanager
def _reading(
    args: argparse.Namespace, earlier: str | None, trained_on: DataRecord | None, **names: str
) -> Iterator[None]:
    """Let the errors of the loaders speak of flags; where an earlier run gave these, of that run and of the file.

    A training on numbers with decimal points settles for newer files that a point seldom groups thousands.
    """
    settled = set(LOADER_FLAGS) - {"path", *([] if args.resume else [*HOW_WRITTEN, "time"])}
    settled |= {"decimal"} if trained_on and trained_on.has_points else set()
    with called_by_flags({**FLAGS, **names}, fixed=settled if earlier else ()):
        try:
            yield
        except ValueError as problem:
            if not earlier or args.data_path is None:
                raise
            named = f"{args.data_path}, read with the settings of {earlier}: "
            text = str(problem) if args.data_path in str(problem) else f"{named}{problem}"
            if args.resume:  # which takes no flag that would help
                text = f"{text.partition('; ')[0]}; {OWN_DATA_ONLY}"
            raise ValueError(text) from None


def _settled_by(trained_on: DataRecord, args: argparse.Namespace) -> dict[str, object]:
    """What a training settled for other files: its columns by their names, wherever they are.

    Not where a name may be made up to tell two columns of one name apart (y.1): these have their places alone.
    """
    roles = {"time": (args.csv_time, trained_on.time_column), "series": (args.csv_series, trained_on.series_column)}
    settled = {role: name for role, (given, name) in roles.items() if name and re.fullmatch(r"-?\d+", given or "")}
    if not trained_on.columns or any(re.fullmatch(r".*\.\d+", name) for name in trained_on.columns):
        return settled
    names = list(trained_on.columns)
    return settled | {"columns": names, "targets": [names[place] for place in trained_on.target_positions]}


def _check_columns(
    args: argparse.Namespace, trained_on: DataRecord, columns: Sequence[str], series: Sequence[History]
) -> None:
    before, now = (", ".join(names) for names in (trained_on.columns, columns))
    path = args.evaluate or args.forecast
    if trained_on.columns != tuple(columns):
        raise ValueError(f"{args.data_path} has the columns {now}, but {path} was trained on {before}.")
    if series and trained_on.has_header not in (None, series[0].has_header):
        has = "names its columns" if series[0].has_header else "has no names of columns"
        were = "named" if trained_on.has_header else "counted"
        raise ValueError(f"{args.data_path} {has}, but {path} was trained on columns that are {were} {before}.")


def read_past(args: argparse.Namespace, trained_on: DataRecord) -> Histories:
    """Read the series that forecasts go on from: of any length, for nothing is trained or measured on them.

    Raises:
        ValueError, TypeError, OSError: If the file cannot be read, has other columns or steps in time than the
            training's, a series is shorter than the observed window, or more than half of a column in it was filled.
    """
    if args.dataset != "csv":
        raise ValueError(f"--forecast needs a checkpoint of --dataset csv, but {args.forecast} is of {args.dataset}.")
    known = inspect.signature(read_histories).parameters
    options = {option: value for option, value in _options(args).items() if option in known}
    options |= _settled_by(trained_on, args)
    with _reading(args, args.forecast, trained_on):
        read = read_histories(**options, steps=trained_on.known_steps, usual_time=trained_on.time_column)
    _check_columns(args, trained_on, read.names, read.series)
    length = trained_on.input_length
    for series in read.series:
        of = "" if series.name is None else f" of series {series.name!r}"
        if trained_on.series is not None and series.name not in trained_on.series:
            known = ", ".join(map(repr, trained_on.series))
            raise ValueError(
                f"{args.data_path} holds series {series.name!r}, but {args.forecast} knows only {known}."
            )
        if len(series.values) < length:
            needs = f"{args.forecast} needs at least {length}, the --input-length of its training"
            raise ValueError(f"{args.data_path} has {len(series.values)} rows{of}, but {needs}.")
    if reason := mostly_filled(args, trained_on, read.series):
        raise ValueError(reason)
    return read


def mostly_filled(args: argparse.Namespace, trained_on: DataRecord, past: Sequence[History]) -> str | None:
    """Why no forecast goes on from these series: more than half of a column of the last input was filled in."""
    length = trained_on.input_length
    for series in past:
        filled = np.zeros(1) if series.filled is None else series.filled[-length:].sum(axis=0)
        if 2 * filled.max() > length:
            of = "" if series.name is None else f" of series {series.name!r}"
            column = trained_on.columns[filled.argmax()]
            lacks = f"{filled.max()} of the last {length} values of column {column!r}{of}"
            return (
                f"{args.data_path} lacks {lacks}, more than half of what a forecast goes on from: fill them, or "
                "leave out the rows at the end that lack them."
            )
    return None


def beside_training(args: argparse.Namespace, trained_on: DataRecord, series: Sequence[History]) -> list[str]:
    """Lines that set a file beside that of the training: the scale of the columns there, and its unknown times."""
    scalings = [trained_on.scaling_of(one.name) for one in series]
    lines = []
    if None not in scalings:
        mean, std = (np.mean([getattr(one, name).numpy() for one in scalings], axis=0) for name in ("mean", "std"))
        scales = map(shown_scale, mean, std)
        lines.append(f"in the training: {', '.join(map(''.join, zip(trained_on.columns, scales, strict=True)))}")
    if trained_on.steps and series[0].times is None:
        steps = ", ".join(sorted({str(step) for step in trained_on.known_steps.values()}))
        lines.append(
            f"times: not known in {args.data_path}, so its rows are taken as the steps of the training, {steps}"
        )
    return lines


def _options(args: argparse.Namespace) -> dict[str, object]:
    """What the loader of the data is given."""
    options = {option: getattr(args, setting) for option, setting in LOADER_FLAGS.items()}
    options = {option: value for option, value in options.items() if value is not None}
    known = inspect.signature(DATASETS[args.dataset]).parameters
    for option in options:
        if option not in known:
            raise ValueError(f"{flag(LOADER_FLAGS[option])} cannot be given with --dataset {args.dataset}.")
    if args.dataset == "csv" and args.data_path is None:
        raise ValueError("--dataset csv needs --data-path, the CSV file.")
    if options.get("columns") == ["all"]:
        options["columns"] = "all"
    return options


# --------------------------------------------------------------------------------- processes and compilation


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_a_time(experiment: Experiment) -> int:
    """How many networks to train side by side."""
    args, shared = experiment.args, data_parallel.world_size() > 1
    if args.jobs is not None and shared:
        raise ValueError(f"--jobs {args.jobs} cannot be given with torchrun, whose processes train one network.")
    all_at_once = experiment.device.type == "cpu" and cores() > 1 and not shared
    return min(args.jobs or (len(args.losses) if all_at_once else 1), len(args.losses))


def compile_kernels(experiment: Experiment) -> None:
    """Let rank 0 compile the kernels, which all other processes of the run then find on disk."""
    args = experiment.args
    if data_parallel.rank() == 0 and experiment.device.type == "cpu":  # a GPU's take some seconds, not half a minute
        batch = experiment.data.train[: args.batch_size]
        for loss in args.losses:
            evaluate_forecasts(warm_up(experiment.network(), LOSSES[loss](args), batch), batch[1])
    data_parallel.barrier()


class _Compilation(event.Listener):
    said = False

    def on_start(self, event: event.Event) -> None:
        if not self.said:
            self.said = True
            tqdm.write("compiling the kernels, once: this takes up to a minute")

    def on_end(self, event: event.Event) -> None:
        pass


def announced_compilation() -> AbstractContextManager:
    """Print once that kernels are compiled, as soon as numba begins with a kernel that is not in its cache."""
    return event.install_listener("numba:compile", _Compilation())
