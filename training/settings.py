"""The command line of main.py: its flags, and what an earlier run brings along."""

import argparse
import math
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from data import DATASETS
from evaluation.paper import PAPER_ALPHA, PAPER_GAMMA, PAPER_HIDDEN_SIZE, PAPER_LAYERS, PAPER_WINDOWS
from models import GRUS, MODELS

from . import data_parallel
from .checkpoint import Record, load_checkpoint
from .data_record import record_in
from .experiment import HOW_WRITTEN, LOADER_FLAGS, VALIDATED, Experiment, flag, ran_out_of_memory
from .losses import LOSSES_OF_TABLE_1
from .run_folder import RunFolder, Settings, flattened, new_folder
from .streams import say

__all__ = ["complaints", "fail", "get_args_parser", "opened_folder", "parse_args", "settings_of"]

MODES = ("resume", "evaluate", "forecast")  # of an earlier run
NOT_STORED = (*MODES, "output", "jobs")
MOVED = ("data_path", "device")  # what may be elsewhere on another machine
REPORT = ("plot_samples", "plot_variable", "plots", "save_predictions", "season", "show")
CHANGED_BY_RESUME = ("cuda_graph", "epochs", "jobs", "patience", *REPORT, "threads", *MOVED)
WRITTEN = tuple(LOADER_FLAGS[option] for option in HOW_WRITTEN)
CHANGED_BY_EVALUATE = ("batch_size", "data_path", "device", "gru", "season", "threads", *WRITTEN, "csv_time")
# A file of nothing but weights does not say what its data and network are.
CHANGED_BY_EVALUATE_WEIGHTS = ("dataset", *LOADER_FLAGS.values(), "model", "hidden_size", "layers", "gru")
CHANGED_BY_EVALUATE_WEIGHTS += ("batch_size", "deterministic", "device", "season", "threads")
CHANGED_BY_FORECAST = ("data_path", "device", "output", "plots", "show", "threads", *WRITTEN, "csv_time")
# Before there was a flag.
DEFAULTS_OF_MISSING_KEYS = {
    "gru": "torch",
    "cuda_graph": False,
    "save_predictions": False,
    **dict.fromkeys(("clip_norm", "patience", "season", "plot_variable", "split")),
    **dict.fromkeys(("csv_delimiter", "csv_decimal", "csv_thousands", "csv_encoding", "csv_header")),
    **dict.fromkeys(("csv_time", "csv_series", "csv_missing")),
}
REMOVED = ("bf16", "compile")  # switches of earlier versions, off unless given

EVAL_EVERY = {"synthetic": 50, "ecg5000": 50, "traffic": 1, "csv": 1}

PAPER = "paper and default: %(default)s"
RELEASED = "released code and default: %(default)s"
EXAMPLES = """examples:
  python main.py --epochs 50 --losses dilate
  python main.py --dataset ecg5000 --data-path folder/with/ECG5000
  python main.py --dataset traffic --data-path traffic.csv --model mlp
  python main.py --dataset csv --data-path ETTh1.csv --csv-columns OT --input-length 96 --horizon 24
  python main.py --resume runs/synthetic-seq2seq-20260102-030405 --epochs 1000
  python main.py --evaluate runs/synthetic-seq2seq-20260102-030405/checkpoints/dilate.pt
  python main.py --forecast runs/csv-seq2seq-20260102-030405/checkpoints/dilate.pt --data-path newer.csv
  torchrun --nproc-per-node 2 main.py --hidden-size 1024 --batch-size 1600

exit codes:
  0 all is done; 2 a mistake in the flags, the data or the files, said in one sentence; 130 ended by Ctrl-C,
  143 by SIGTERM, a training with the command that continues it; 141 nobody reads the output any more;
  1 a process of the run was lost, or an error of this program
"""


def fail(message: object) -> NoReturn:
    """End the program with one sentence on stderr and exit code 2."""
    data_parallel.wait_for_rank0_message()
    say(f"main.py: error: {message}")
    raise SystemExit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(message)

    def checked(self, setting: str, value: object) -> object:
        """A stored value of a setting, held to what its flag allows.

        Raises:
            argparse.ArgumentError: If the flag does not allow it.
        """
        action = self._option_string_actions[flag(setting)]
        if value is None and action.default is None:
            return None
        if action.nargs == 0:
            if isinstance(value, bool):
                return value
            raise argparse.ArgumentError(action, f"must be true or false, got {value!r}")
        several = action.nargs == "+"
        if isinstance(value, list) != several or value == []:
            raise argparse.ArgumentError(action, f"must be {'a list' if several else 'one value'}, got {value!r}")
        return self._get_values(action, list(map(str, value if several else [value])))


class _Help(argparse.RawDescriptionHelpFormatter):
    """Breaks no flag at its hyphens."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def get_args_parser() -> argparse.ArgumentParser:
    """All flags, in groups, with units and the paper's values in the help."""
    parser = _Parser(
        prog="main.py",
        usage="python main.py [flags]",
        description="Train forecasters with MSE, soft-DTW and DILATE, and compare them (paper, Table 1).",
        epilog=EXAMPLES,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    _add_data_flags(parser.add_argument_group("data").add_argument)
    _add_network_flags(parser.add_argument_group("network and losses").add_argument)
    _add_training_flags(parser.add_argument_group("training").add_argument)
    _add_output_flags(parser.add_argument_group("output").add_argument)
    _add_continuation_flags(parser.add_argument_group("earlier runs").add_argument)
    return parser


def _add_data_flags(add: Callable) -> None:
    column, length = {"nargs": "+", "metavar": "COLUMN"}, {"type": _count(), "metavar": "STEPS"}
    add("--dataset", choices=list(DATASETS), default="synthetic", help="The data to train on; default: %(default)s.")
    path = "The file or folder of the data; csv needs one, synthetic takes none, ecg5000 is downloaded without one."
    add("--data-path", type=_path, metavar="PATH", help=path)
    observed = "Columns that the network observes: names, positions from 0, or all that hold numbers"
    add("--csv-columns", **column, help=f"{observed}; default: --csv-targets, else the last column of numbers.")
    add(
        "--csv-targets",
        **column,
        help="Columns that the network forecasts, some of --csv-columns; default: all of these.",
    )
    _add_csv_flags(add)
    lengths = ", ".join(f"{name} {observed}" for name, (observed, _) in PAPER_WINDOWS.items())
    horizons = ", ".join(f"{name} {forecast}" for name, (_, forecast) in PAPER_WINDOWS.items())
    add("--input-length", **length, help=f"Steps observed; paper and default: {lengths}; csv: 168 rows.")
    add("--horizon", **length, help=f"Steps forecast, the paper's k; paper and default: {horizons}; csv: 24 rows.")
    add("--stride", **length, help="Steps from one window of traffic or csv to the next; default: 1.")
    parts = "Training, validation and test part of csv, three shares or numbers of rows; default: 0.6 0.2 0.2."
    add("--split", nargs="+", type=_part, metavar="PART", help=parts)


def _add_csv_flags(add: Callable) -> None:
    """How a CSV file is written, and what its rows are."""
    mark, column = {"type": _character, "metavar": "MARK"}, {"metavar": "COLUMN"}
    delimiter = "The mark between cells, tab or space spelled out; default: the tab, ; or | or comma that fits."
    time = "The column of time stamps, or none if rows are equal steps; default: the first column of dates as text. "
    time += "A file without one needs this flag, unless --csv-columns or --csv-targets name all of its columns."
    series = "The column that names the series of each row, if a file holds several of them; default: none."
    missing = "Refuse missing values and rows, interpolate them, or repeat the last value; default: refuse."
    encoding = "The encoding of the text, such as latin-1; default: UTF-8, or UTF-16 if the file's mark says so."
    header = "The first row holds names, or does not; default: it does, and must hold no numbers or dates."
    add("--csv-delimiter", **mark, help=delimiter)
    add(
        "--csv-decimal",
        choices=[".", ","],
        metavar="MARK",
        help="The decimal mark, . or , as it stands in the file; default: the point.",
    )
    add("--csv-thousands", **mark, help="The mark between groups of three digits; default: none.")
    add("--csv-encoding", metavar="NAME", help=encoding)
    add("--csv-header", action=argparse.BooleanOptionalAction, help=header)
    add("--csv-time", **column, help=time)
    add("--csv-series", **column, help=series)
    add("--csv-missing", choices=["refuse", "interpolate", "last"], help=missing)


def _add_network_flags(add: Callable) -> None:
    models, losses = list(MODELS), list(LOSSES_OF_TABLE_1)
    count = {"type": _count(), "metavar": "N"}
    gru = (
        "How the GRU is computed, with the same weights to the same numbers: fused is the fastest on the CPU, "
        "torch is nn.GRU, written-out follows its equations in models/gru.py; default: %(default)s."
    )
    add("--model", choices=models, default="seq2seq", help="The network; the paper has both; default: %(default)s.")
    add("--hidden-size", **count, default=PAPER_HIDDEN_SIZE, help=f"Units per layer; {PAPER}.")
    layers = {"type": _count(at_most=1000), "metavar": "N"}
    add("--layers", **layers, default=PAPER_LAYERS, help=f"Layers of each GRU, or hidden layers of the MLP; {PAPER}.")
    add("--gru", choices=list(GRUS), default="fused", help=gru)
    one_each = "The losses to train with, one network for each; paper and default: all of them."
    add("--losses", nargs="+", choices=losses, default=losses, help=one_each)
    alpha = "DILATE's weight of shape against time, from 0 to 1; paper and default: 0.5, traffic 0.8."
    add("--alpha", type=_fraction, metavar="A", help=alpha)
    gamma = f"The smoothing of soft-DTW and DILATE, in squared units of the scaled data; {PAPER}."
    add("--gamma", type=_positive, metavar="G", default=PAPER_GAMMA, help=gamma)


def _add_training_flags(add: Callable) -> None:
    count, from_0 = {"type": _count(), "metavar": "N"}, {"type": _count(at_least=0), "metavar": "N"}
    switch = {"action": argparse.BooleanOptionalAction, "default": False}
    epochs = f"Passes over the training part; paper: at most 1000, stopped early; {RELEASED}."
    every = (
        "Epochs from one evaluation to the next, each with a checkpoint; 0 evaluates after the last epoch only; "
        "released code and default: 50; default for csv and traffic: 1."
    )
    patience = (
        "Stop after N evaluations without a lower loss on the validation part of csv or traffic; default: never. "
        "Networks on csv and traffic end with the weights that had the lowest, those without a validation part, "
        "and on synthetic and ecg5000, with the last ones."
    )
    seed = "Seeds initial weights and batches, while the data stay the same; paper: 10 runs; default: %(default)s."
    device = "Where to compute: auto (cuda if there, else cpu), cpu, cuda, cuda:1, ... or mps; default: %(default)s."
    jobs = "Networks to train at a time, each in its own process; default: all on a CPU of several cores, else 1."
    threads = "Threads of each process; default on the CPU: 1, for a second gains a fifth at most here."
    clip = "Shorten gradients that are longer than this Euclidean norm; default: none."
    graph = "On CUDA, record network and loss once and replay them; default: no."
    add("--epochs", **count, default=500, help=epochs)
    add("--batch-size", **count, default=100, help=f"Windows per step, of all processes together; {RELEASED}.")
    add("--learning-rate", type=_positive, metavar="X", default=1e-3, help=f"Adam's step size; {RELEASED}.")
    add("--clip-norm", type=_positive, metavar="X", help=clip)
    add("--cuda-graph", **switch, help=graph)
    add("--eval-every", **from_0, help=every)
    add("--patience", **count, help=patience)
    add("--seed", type=_count(at_least=0, at_most=2**64 - 1), metavar="N", default=0, help=seed)
    add("--device", default="auto", help=device)
    add("--jobs", **count, help=jobs)
    add("--threads", type=_count(at_most=1024), metavar="N", help=threads)
    add("--deterministic", action="store_true", help="Use deterministic algorithms only, if a GPU has a choice.")


def _add_output_flags(add: Callable) -> None:
    switch = {"action": argparse.BooleanOptionalAction, "default": True}
    folder = "The folder to write to, without an earlier run; default: runs/<dataset>-<model>-<timestamp>."
    season = "Compare csv with a forecast that repeats the last N observed steps, such as 24 hours; default: none."
    save = "Write the forecasts of the test part to predictions.npz; default: no."
    samples = "Windows of the test part to plot, from 0; default: 1 2 3 4 5, of csv and traffic 5 spread evenly."
    variable = "The column to plot, one of those that are forecast; default: the first."
    add("--output", type=_path, metavar="FOLDER", help=folder)
    add("--season", type=_count(), metavar="N", help=season)
    add("--save-predictions", action=argparse.BooleanOptionalAction, default=False, help=save)
    add("--plot-samples", nargs="+", type=_count(at_least=0), metavar="I", help=samples)
    add("--plot-variable", metavar="NAME", help=variable)
    add("--plots", **switch, help="Draw figures at the end; default: yes.")
    add("--show", **switch, help="Show the figures on screen, if there is a display; default: yes.")


def _add_continuation_flags(add: Callable) -> None:
    changeable = (CHANGED_BY_RESUME, CHANGED_BY_EVALUATE, CHANGED_BY_FORECAST)
    resume, measure, forecast = (" ".join(map(flag, names)) for names in changeable)
    continued = f"Continue the run in that folder on the same data; these may be changed: {resume}."
    measured = (
        f"Only measure that network on the test part; these may be changed: {measure}. With a file that holds "
        "nothing but weights, all flags of its data and network may be given, too."
    )
    beyond = (
        "Only forecast what follows the last row of the CSV file, with one checkpoint or all of a run's folder, into "
        f"forecast.csv and forecast.png; these may be changed: {forecast}."
    )
    add("--resume", type=_path, metavar="FOLDER", help=continued)
    add("--evaluate", type=_path, metavar="CHECKPOINT", help=measured)
    add("--forecast", type=_path, metavar="PATH", help=beyond)


def _path(text: str) -> str:
    # Empty where a variable of the shell is not set.
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"must be a path, got {text!r}")
    return text


def _character(text: str) -> str:
    character = {"tab": "\t", r"\t": "\t", "space": " "}.get(text, text)
    if len(character) != 1:
        raise argparse.ArgumentTypeError(f"must be one character, tab or space, got {text!r}")
    return character


def _part(text: str) -> int | float:
    if text.isascii() and text.isdecimal():
        return int(text)
    return _number(text, "must be a share or a number of rows", lambda value: 0 <= value <= 1)


def _count(at_least: int = 1, at_most: int = 2**31 - 1) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or int(text) < at_least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {at_least}, got {text!r}")
        if int(text) > at_most:
            raise argparse.ArgumentTypeError(f"must be at most {at_most}, got {text!r}")
        return int(text)

    return count


def _positive(text: str) -> float:
    # Smaller numbers are denormal, and count as 0 while a network is trained.
    least = sys.float_info.min
    if _number(text, "must be a positive number", lambda value: 0 < value < math.inf) < least:
        raise argparse.ArgumentTypeError(f"must be at least {least:.3g}, got {text!r}")
    return float(text)


def _fraction(text: str) -> float:
    return _number(text, "must lie between 0 and 1", lambda value: 0 <= value <= 1)


def _number(text: str, rule: str, allowed: Callable[[float], bool]) -> float:
    try:
        # Python also reads 1_000, and digits of other scripts.
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not allowed(value):
        raise argparse.ArgumentTypeError(f"{rule}, got {text!r}")
    return value


# ------------------------------------------------------------------------------------------------- settings


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; an earlier run that is continued or evaluated brings its own settings.

    Args:
        argv: Flags; the command line of the process if not given.

    Returns:
        One attribute per setting, complete and checked.
    """
    parser = get_args_parser()
    args = parser.parse_args(argv)
    modes = [mode for mode in MODES if getattr(args, mode)]
    if len(modes) > 1:
        fail(f"{flag(modes[0])} and {flag(modes[1])} cannot be given together.")
    if args.data_path is not None:
        # A run may be continued from another folder than the one it was started in.
        args.data_path = str(Path(args.data_path).expanduser().absolute())
    given = _given(parser, argv)
    with complaints(ValueError, OSError):
        if args.resume:
            folder = RunFolder(Path(args.resume))
            stored = _checked(parser, _settings_to_resume(parser, folder), folder.config)
            _adopt(args, stored, given, "resume", CHANGED_BY_RESUME)
        elif args.forecast and Path(args.forecast).is_dir():
            folder = RunFolder(Path(args.forecast))
            stored = _checked(parser, _settings_to_resume(parser, folder), folder.config)
            _adopt(args, stored, given, "forecast", CHANGED_BY_FORECAST)
        elif modes:
            path = args.evaluate or args.forecast
            settings = load_checkpoint(path).get("settings", {})
            for name in _removed(settings):
                print(f"{path} was trained with {flag(name)}, which was removed; it is evaluated without.")
            stored = _checked(parser, settings, path)
            changeable = CHANGED_BY_EVALUATE if args.evaluate else CHANGED_BY_FORECAST
            if not stored:  # nothing but weights, from which no forecast can be made: load_forecaster says why
                changeable = CHANGED_BY_EVALUATE_WEIGHTS if args.evaluate else vars(args)
            _adopt(args, stored, given, modes[0], changeable)
    if args.eval_every is None:
        args.eval_every = EVAL_EVERY[args.dataset]
    if args.patience is not None and args.dataset not in VALIDATED:
        fail(f"--patience cannot be given with --dataset {args.dataset}, only with {' and '.join(VALIDATED)}.")
    if args.patience is not None and args.eval_every == 0 and not (args.evaluate or args.forecast):
        fail(
            f"--patience {args.patience} needs evaluations on the way, but --eval-every 0 has only the last one: "
            "give --eval-every of at least 1."
        )
    if args.alpha is None:
        args.alpha = PAPER_ALPHA.get(args.dataset, 0.5)
    if "gru" in given and args.model == "mlp":
        fail(f"--gru {args.gru} cannot be given with --model mlp, which has no GRU.")
    if "alpha" in given and "dilate" not in args.losses:
        fail(f"--alpha {args.alpha} cannot be given with --losses {' '.join(args.losses)}, only with dilate.")
    if len(set(args.losses)) < len(args.losses):
        fail(f"--losses must name each loss once, got {' '.join(args.losses)}.")
    return args


def _given(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> set[str]:
    """Names of the settings that the command line itself sets."""
    unset = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args([]))))
    return {name for name, value in vars(parser.parse_args(argv, unset)).items() if value is not None}


def _settings_to_resume(parser: argparse.ArgumentParser, folder: RunFolder) -> Settings:
    settings = {**DEFAULTS_OF_MISSING_KEYS, **folder.read_settings()}
    for name in _removed(settings):
        raise ValueError(f"{folder.config} has {flag(name)}, which was removed, so the run cannot be continued.")
    settings = {name: value for name, value in settings.items() if name not in REMOVED}
    known = vars(parser.parse_args([])).keys() - set(NOT_STORED)
    if settings.keys() != known:
        odd = min(settings.keys() ^ known)
        raise ValueError(f"{folder.config} belongs to another version of this program: see {odd!r}.")
    return settings


def _removed(stored: Mapping) -> list[str]:
    """The removed switches that an earlier run was trained with."""
    return [name for name in REMOVED if stored.get(name, False) is not False]


def _checked(parser: _Parser, stored: Mapping, path: str | Path) -> Settings:
    """The settings of an earlier run that this program has, each held to what its flag allows."""
    known = vars(parser.parse_args([]))
    try:
        return {name: parser.checked(name, value) for name, value in stored.items() if name in known}
    except argparse.ArgumentError as error:
        raise ValueError(f"{path} holds a setting that no run can have: {error}.") from None


def _adopt(args: argparse.Namespace, stored: Mapping, given: set[str], mode: str, changeable: Sequence[str]) -> None:
    """Replace the settings of the command line by stored ones, except for changeable ones that were given."""
    fixed = sorted(given - {mode, *changeable})
    if fixed:
        allowed = ", ".join(map(flag, changeable))
        fail(f"{flag(fixed[0])} cannot be given with {flag(mode)}, only {allowed} can.")
    for name, value in stored.items():
        if name not in given:
            setattr(args, name, value)


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that a run stores: plain values only."""
    return {name: value for name, value in vars(args).items() if name not in NOT_STORED}


@contextmanager
def opened_folder(experiment: Experiment) -> Iterator[RunFolder]:
    """The run's folder, a new one or that of an earlier run, with the settings and the metrics so far in it."""
    args = experiment.args
    if args.resume:
        folder = RunFolder(Path(args.resume))
    elif args.output:
        folder = RunFolder(Path(args.output))
        folder.create()
    else:
        folder = new_folder(f"{args.dataset}-{args.model}")
    with folder.locked():
        histories = _earlier_histories(experiment, folder)
        folder.write_settings(settings_of(args))
        folder.write_metrics(flattened(histories))
        yield folder


def _earlier_histories(experiment: Experiment, folder: RunFolder) -> dict[str, list[Record]]:
    """Records of the losses that were trained before; the checkpoints, not metrics.jsonl, are the truth."""
    args, histories = experiment.args, {}
    for loss in args.losses:
        path = folder.checkpoint(loss)
        if not path.exists():
            continue
        checkpoint = load_checkpoint(path)
        histories[loss] = checkpoint.get("history", [])
        done = checkpoint.get("epoch", -1) + 1
        if done > args.epochs:
            raise ValueError(f"--epochs must be at least {done}, which {path} already has, got {args.epochs}.")
        now = {"loss": loss, **settings_of(args)}
        for name, before in checkpoint.get("settings", {}).items():
            if name in now and name not in ("losses", *CHANGED_BY_RESUME) and now[name] != before:
                raise ValueError(f"{path} was trained with {name} {before!r} and cannot go on with {now[name]!r}.")
        record = record_in(checkpoint, path)
        experiment.check_data(record and record.fingerprint)
    return histories


@contextmanager
def complaints(*kinds: type[Exception], continued_by: str | None = None) -> Iterator[None]:
    """Turn errors that the user can mend, a lack of memory among them, into one sentence and exit code 2.

    Args:
        kinds: Of these errors.
        continued_by: Command that continues the run once there is space on a disk again.
    """
    try:
        yield
    except Exception as error:
        if ran_out_of_memory(error):
            fail(
                "There is not enough memory for this run: a smaller --hidden-size, --layers, --batch-size, "
                "--input-length or --horizon needs less."
            )
        if not isinstance(error, kinds):
            raise
        message = str(error)
        if isinstance(error, OSError) and error.errno is not None:
            # Of the files of a run, all have their names; what writes others, such as numba's cache, gives none.
            file = error.filename or "a file outside of the run's folder, such as numba's cache"
            message = f"Cannot read or write {file}: {error.strerror}."
        if isinstance(error, OSError) and continued_by is not None:
            message = f"{message.removesuffix('.')}; this continues: {continued_by}"
        fail(message)
