"""Train forecasters with MSE, soft-DTW and DILATE, and compare them (the paper's section 4, Table 1).

Without flags: the synthetic task, all three losses, 500 epochs. ``python main.py --help`` lists every setting
with the paper's value, and examples.
"""

import argparse
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from numba.core import event
from torch import Tensor
from tqdm import tqdm

from evaluation.metrics import evaluate_forecasts
from evaluation.paper import PaperRow
from training import (
    CheckpointError,
    DivergenceError,
    Record,
    data_parallel,
    eval_model,
    load_checkpoint,
    predict,
    train_model,
    warm_up,
)
from training.experiment import CRITERIA, Experiment, paper_comparison, prepare
from training.run_folder import METRICS, RunFolder, new_folder
from training.settings import CHANGED_BY_RESUME, complaints, parse_args, settings_of
from training.side_by_side import LostProcessError, OnEpoch, cores, train_side_by_side
from training.streams import say, usable_streams

DEFAULT_PLOT_SAMPLES = range(1, 6)

Trained = Iterator[tuple[str, list[Record]]]  # losses and their records, as they come


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""

    exit_code = 143


class _Compilation(event.Listener):
    """Says once that kernels are compiled, as soon as numba begins with one that it has not kept on disk."""

    said = False

    def on_start(self, event: event.Event) -> None:
        if not self.said:
            self.said = True
            tqdm.write("compiling the kernels, once: this takes up to a minute")

    def on_end(self, event: event.Event) -> None:
        pass


def main(args: argparse.Namespace) -> dict[str, Record]:
    """Run the experiment: train with each loss, print and store the metrics, draw the figures.

    Args:
        args: As `parse_args` returns them.

    Returns:
        Training loss -> last record (see `training.train_model`).

    Raises:
        SystemExit: 2 for a mistake of the user, 130 and 143 if interrupted by Ctrl-C or SIGTERM, 141 if nobody reads
            the output any more, 1 if another process of the run is gone.
    """
    with complaints(ValueError, TypeError, OSError):
        experiment = prepare(args)
    with event.install_listener("numba:compile", _Compilation()):
        return evaluate(experiment) if args.evaluate else _run(experiment)


def _run(experiment: Experiment) -> dict[str, Record]:
    args = experiment.args
    with complaints(ValueError, OSError):
        jobs = _at_a_time(experiment)
        samples = _plot_samples(args, len(experiment.data.test))
        introduction = _introduction(experiment)
    with ExitStack() as stack:
        with complaints(ValueError, OSError):
            folder = data_parallel.agreed(lambda: stack.enter_context(_opened_folder(args)))
        mistakes = complaints(OSError, CheckpointError, DivergenceError, continued_by=_continuation(folder))
        with interruptible(folder), mistakes:
            print(f"{introduction}\nrun folder: {folder.path}")
            histories = train_all(experiment, folder, jobs)
            if args.plots:
                draw(experiment, folder, histories, samples)
            results = {loss: history[-1] for loss, history in histories.items()}
            print(f"\n{results_table(experiment, results)}\n\nEverything is in {folder.path}")
    return results


def train_all(experiment: Experiment, folder: RunFolder, jobs: int) -> dict[str, list[Record]]:
    """Train one network with each loss, or what is left of it, and keep all metrics in the folder.

    Args:
        experiment: What to run.
        folder: Where to keep it.
        jobs: How many networks to train at a time.

    Returns:
        Training loss -> its records.
    """
    losses, histories = experiment.args.losses, {}
    if jobs > 1 or data_parallel.processes() > 1:
        _compile_for_all(experiment)
    trained = _side_by_side(experiment, folder, jobs) if jobs > 1 else _one_by_one(experiment, folder)
    with closing(trained):
        for loss, history in trained:
            histories[loss] = history
            if data_parallel.is_first():
                folder.write_results({loss: histories[loss][-1] for loss in losses if loss in histories})
    return {loss: histories[loss] for loss in losses}


def _compile_for_all(experiment: Experiment) -> None:
    """Let one process compile the kernels, which those of the run then find on disk: they would all do the same."""
    args = experiment.args
    if data_parallel.is_first() and experiment.device.type == "cpu":  # those of a GPU are not kept
        batch = experiment.data.train[: args.batch_size]
        for loss in args.losses:
            evaluate_forecasts(warm_up(experiment.network(), CRITERIA[loss](args), batch), batch[1])
    data_parallel.barrier()


def _one_by_one(experiment: Experiment, folder: RunFolder) -> Trained:
    losses = experiment.args.losses
    for number, loss in enumerate(losses, start=1):
        print(f"\n{loss} ({number} of {len(losses)})")
        yield loss, train_one(experiment, folder, loss)


def _side_by_side(experiment: Experiment, folder: RunFolder, jobs: int) -> Trained:
    args = experiment.args
    print(f"\n{', '.join(args.losses)}: {jobs} at a time, each in a process of its own")
    train = partial(_train_in_new_process, args, folder)
    with closing(train_side_by_side(train, args.losses, jobs, args.epochs)) as finished:
        for loss in finished:
            yield loss, load_checkpoint(folder.checkpoint(loss))["history"]


def _train_in_new_process(args: argparse.Namespace, folder: RunFolder, loss: str, on_epoch: OnEpoch) -> None:
    train_one(prepare(args), folder, loss, on_epoch)


def _at_a_time(experiment: Experiment) -> int:
    """How many networks to train side by side."""
    args, shared = experiment.args, data_parallel.processes() > 1
    if args.jobs is not None and shared:
        raise ValueError(f"--jobs {args.jobs} cannot be given with torchrun, whose processes train one network.")
    all_at_once = experiment.device.type == "cpu" and cores() > 1 and not shared
    return min(args.jobs or (len(args.losses) if all_at_once else 1), len(args.losses))


def train_one(experiment: Experiment, folder: RunFolder, loss: str, on_epoch: OnEpoch | None = None) -> list[Record]:
    """Train the network of one loss, or what is left of it, and return its records.

    Args:
        experiment: What to run.
        folder: Where its checkpoints and metrics go.
        loss: One of `CRITERIA`.
        on_epoch: Called with epoch and loss, in place of a progress bar.
    """
    args, data = experiment.args, experiment.data
    return train_model(
        experiment.network(),
        CRITERIA[loss](args),
        data.train,
        data.test,
        learning_rate=args.learning_rate,
        clip_norm=args.clip_norm,
        cuda_graph=args.cuda_graph,
        epochs=args.epochs,
        batch_size=args.batch_size,
        print_every=args.eval_every or args.epochs,
        eval_every=args.eval_every,
        seed=args.seed,
        checkpoint=folder.checkpoint(loss),
        settings={"loss": loss, **settings_of(args)},
        on_eval=lambda record: folder.append_metrics({"loss": loss, **record}),
        on_epoch=on_epoch,
        progress=on_epoch is None and loss,
    )


def evaluate(experiment: Experiment) -> dict[str, Record]:
    """Measure one checkpoint on the test set, and print its row of the table."""
    path = experiment.args.evaluate
    with complaints(ValueError, OSError):
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
    args, test = experiment.args, experiment.data.test
    forecasts = {loss: _forecast(experiment, folder, loss) for loss in histories}
    if not data_parallel.is_first():
        return
    # Not at the top: matplotlib takes a second to import, which no run without figures needs.
    from evaluation.plots import plot_alignment, plot_forecasts, plot_learning_curves

    folder.figures.mkdir(exist_ok=True)
    inputs, targets = test[list(range(len(test)))][:2]
    plot_forecasts(inputs, targets, forecasts, folder.figures / "forecasts.png", samples, show=args.show)
    plot_learning_curves(_flattened(histories), folder.figures / "learning_curves.png", show=args.show)
    first = samples[0]
    for loss, forecast in forecasts.items():
        path, title = folder.figures / f"alignment_{loss}.png", f"{loss}, test sample {first}"
        plot_alignment(targets[first], forecast[first], args.gamma, path, title=title, show=args.show)


def _forecast(experiment: Experiment, folder: RunFolder, loss: str) -> Tensor:
    net = experiment.trained_network(folder.checkpoint(loss))
    return predict(net, experiment.data.test, experiment.args.batch_size)[0]


def _plot_samples(args: argparse.Namespace, count: int) -> list[int]:
    chosen = args.plot_samples
    if chosen is None:
        return [index for index in DEFAULT_PLOT_SAMPLES if index < count] or [0]
    for index in chosen:
        if not 0 <= index < count:
            raise ValueError(f"--plot-samples must lie between 0 and {count - 1}, got {index}.")
    return chosen


@contextmanager
def _opened_folder(args: argparse.Namespace) -> Iterator[RunFolder]:
    """The run's folder, a new one or that of an earlier run, with the settings and the metrics so far in it."""
    if args.resume:
        folder = RunFolder(Path(args.resume))
    elif args.output:
        folder = RunFolder(Path(args.output))
        folder.create()
    else:
        folder = new_folder(f"{args.dataset}-{args.model}")
    with folder.locked():
        histories = _earlier_histories(args, folder)
        folder.write_settings(settings_of(args))
        folder.write_metrics(_flattened(histories))
        yield folder


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
        now = {"loss": loss, **settings_of(args)}
        for name, before in checkpoint.get("settings", {}).items():
            if name in now and name not in ("losses", *CHANGED_BY_RESUME) and now[name] != before:
                raise ValueError(f"{path} was trained with {name} {before!r} and cannot go on with {now[name]!r}.")
    return histories


def _flattened(histories: Mapping[str, list[Record]]) -> list[Record]:
    return [{"loss": loss, **record} for loss, history in histories.items() for record in history]


@contextmanager
def interruptible(folder: RunFolder) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and the loss of another process end a run with a sentence on how to continue it."""

    def terminate(signum: int, frame: object) -> NoReturn:
        raise Terminated

    # Python allows signal handlers in the main thread only.
    handles_signals = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if handles_signals else None
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if data_parallel.is_first():
            _say_how_to_continue(str(interrupt) or "Interrupted", folder)
        raise SystemExit(getattr(interrupt, "exit_code", 130)) from None
    except RuntimeError as error:
        if not (isinstance(error, LostProcessError) or data_parallel.lost_a_process(error)):
            raise
        _say_how_to_continue("Another process of this run is gone, so it ends", folder)
        raise SystemExit(1) from None
    finally:
        if handles_signals:
            signal.signal(signal.SIGTERM, before)


def _say_how_to_continue(what: str, folder: RunFolder) -> None:
    continued_by = _continuation(folder)
    say(f"\n{what}; only the work since the last evaluation is lost, and this continues: {continued_by}")


def _continuation(folder: RunFolder) -> str:
    """The command that continues a run."""
    command = [sys.executable]
    if data_parallel.processes() > 1:  # what torchrun calls, whether that is on the PATH or not
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(data_parallel.local_processes())]
    # As it was started; where another program imports this one, it is not its own file.
    started_here = os.path.realpath(sys.argv[0]) == os.path.realpath(__file__)
    command += [sys.argv[0] if started_here else __file__, "--resume", str(folder.path)]
    return shlex.join(command)


# --------------------------------------------------------------------------------------------------- tables


def _introduction(experiment: Experiment) -> str:
    args, data = experiment.args, experiment.data
    parameters = sum(parameter.numel() for parameter in experiment.network().parameters())
    count = data_parallel.processes()
    where = f"{experiment.device}" if count == 1 else f"{experiment.device.type} in {count} processes"
    return (
        f"{data.name}: {len(data.train)} training and {len(data.test)} test series, "
        f"{data.input_length} -> {data.horizon} steps\n"
        f"{args.model}: {parameters:,} parameters on {where}\n"
        f"losses: {', '.join(args.losses)} (alpha {args.alpha:g}, gamma {args.gamma:g})"
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


if __name__ == "__main__":
    with usable_streams():
        try:
            with data_parallel.process_group():
                main(parse_args())
        except KeyboardInterrupt as interrupt:
            raise SystemExit(getattr(interrupt, "exit_code", 130)) from None
