"""Train forecasters with MSE, soft-DTW and DILATE, and compare them (the paper's section 4, Table 1).

Without flags: the synthetic task, all three losses, 500 epochs. ``python main.py --help`` lists every setting
with the paper's value, and examples.
"""

import argparse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from torch import Tensor

from data.windows import Fingerprint
from training import (
    CheckpointError,
    DivergenceError,
    Record,
    TrainSettings,
    data_parallel,
    eval_model,
    load_checkpoint,
    load_forecaster,
    predict,
    train_model,
)
from training.data_record import record_of
from training.experiment import (
    Experiment,
    announced_compilation,
    at_a_time,
    compile_kernels,
    prepare,
    read_past,
    resolve_device,
    set_up_torch,
)
from training.forecaster import forecast_rows
from training.interruption import continuation, interruptible
from training.losses import LOSSES
from training.run_folder import RunFolder, flattened, new_folder
from training.settings import complaints, opened_folder, parse_args, settings_of
from training.side_by_side import train_side_by_side
from training.streams import usable_streams
from training.table import introduction, results_table, units_table, whose_scaling

DEFAULT_PLOT_SAMPLES = range(1, 6)


def main(args: argparse.Namespace) -> dict[str, Record]:
    """Run the experiment: train with each loss, print and store the metrics, draw the figures.

    Args:
        args: As `parse_args` returns them.

    Returns:
        Training loss -> last record (see `training.train_model`); nothing for a forecast.

    Raises:
        SystemExit: 2 for a mistake of the user, and as `training.interruption.interruptible` says.
    """
    if args.forecast:
        forecast(args)
        return {}
    with complaints(ValueError, TypeError, OSError):
        experiment = prepare(args)
    with announced_compilation():
        return evaluate(experiment) if args.evaluate else run(experiment)


def run(experiment: Experiment) -> dict[str, Record]:
    """Train, print and draw, in a folder that no other process works in meanwhile."""
    args = experiment.args
    with ExitStack() as stack:
        with complaints(ValueError, OSError):
            jobs = at_a_time(experiment)
            samples = _plot_samples(args, len(experiment.data.test))
            variable = _plot_variable(experiment)
            lines = introduction(experiment)
            folder = data_parallel.broadcast_from_rank0(lambda: stack.enter_context(opened_folder(experiment)))
        continued_by = continuation(folder, __file__)
        mistakes = complaints(OSError, CheckpointError, DivergenceError, continued_by=continued_by)
        with interruptible(continued_by), mistakes:
            print(f"{lines}\nrun folder: {folder.path}")
            histories = train_all(experiment, folder, jobs)
            forecasts = {loss: _forecast(experiment, folder, loss) for loss in histories}
            if args.plots and data_parallel.rank() == 0:
                draw(experiment, folder, histories, forecasts, samples, variable)
            results = {loss: history[-1] for loss, history in histories.items()}
            print("\n".join(["", results_table(experiment, results), *units_table(experiment, forecasts)]))
            print(f"\nEverything is in {folder.path}")
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
    args, histories = experiment.args, {}
    if jobs > 1 or data_parallel.world_size() > 1:
        compile_kernels(experiment)
    if jobs > 1:
        print(f"\n{', '.join(args.losses)}: {jobs} at a time, each in a process of its own")
        train = partial(_train_in_new_process, args, experiment.data.fingerprint, folder)
        trained = train_side_by_side(train, args.losses, jobs, args.epochs)
    else:
        trained = _one_by_one(experiment, folder)
    with closing(trained):
        for loss in trained:
            histories[loss] = load_checkpoint(folder.checkpoint(loss))["history"]
            if data_parallel.rank() == 0:
                folder.write_results({name: histories[name][-1] for name in args.losses if name in histories})
    return {loss: histories[loss] for loss in args.losses}


def _one_by_one(experiment: Experiment, folder: RunFolder) -> Iterator[str]:
    losses = experiment.args.losses
    for number, loss in enumerate(losses, start=1):
        print(f"\n{loss} ({number} of {len(losses)})")
        train_one(experiment, folder, loss, progress=loss)
        yield loss


def _train_in_new_process(
    args: argparse.Namespace, fingerprint: Fingerprint | None, folder: RunFolder, loss: str, on_epoch, write
) -> None:
    experiment = prepare(args)  # which reads the data again
    experiment.check_data(fingerprint)
    train_one(experiment, folder, loss, on_epoch=on_epoch, write=write)


def train_one(experiment: Experiment, folder: RunFolder, loss: str, **callbacks: object) -> list[Record]:
    """Train the network of one loss, or what is left of it, and return its records.

    Args:
        experiment: What to run.
        folder: Where its checkpoints and metrics go.
        loss: One of `LOSSES`.
        **callbacks: See `train_model`.
    """
    args, data = experiment.args, experiment.data
    settings = TrainSettings(
        learning_rate=args.learning_rate,
        clip_norm=args.clip_norm,
        epochs=args.epochs,
        batch_size=args.batch_size,
        eval_every=args.eval_every,
        print_every=args.eval_every or args.epochs,
        seed=args.seed,
        cuda_graph=args.cuda_graph,
    )
    return train_model(
        experiment.network(),
        LOSSES[loss](args),
        data.train,
        data.test,
        settings,
        checkpoint=folder.checkpoint(loss),
        metadata={"loss": loss, **settings_of(args), "data": record_of(data).plain},
        on_eval=lambda record: folder.append_metrics({"loss": loss, **record}),
        **callbacks,
    )


def evaluate(experiment: Experiment) -> dict[str, Record]:
    """Measure one checkpoint on the test set, and print its row of the table."""
    path = experiment.args.evaluate
    with complaints(ValueError, OSError):
        checkpoint = load_checkpoint(path)
        net = experiment.trained_network(path)
        batch_size = experiment.args.batch_size
        scores, predicted = eval_model(net, experiment.data.test, batch_size, return_predictions=True)
        name = checkpoint.get("settings", {}).get("loss", Path(path).stem)
        table = results_table(experiment, {name: scores})
        print("\n".join([*whose_scaling(experiment), table, *units_table(experiment, {name: predicted})]))
    return {name: scores}


def forecast(args: argparse.Namespace) -> None:
    """Forecast what follows the last row of a file, and write that to forecast.csv."""
    with complaints(ValueError, TypeError, OSError):
        device = resolve_device(args.device)
        set_up_torch(args, device)
        forecaster = load_forecaster(args.forecast, device)
        table = forecast_rows(forecaster, read_past(args, forecaster.data))
        path = data_parallel.broadcast_from_rank0(lambda: _forecast_folder(args).write_forecast(table))
    print(f"the {forecaster.data.horizon} steps after the last row of {args.data_path or args.dataset} are in {path}")


def _forecast_folder(args: argparse.Namespace) -> RunFolder:
    return RunFolder(Path(args.output)) if args.output else new_folder(f"{args.dataset}-forecast")


def draw(
    experiment: Experiment,
    folder: RunFolder,
    histories: Mapping[str, list[Record]],
    forecasts: Mapping[str, Tensor],
    samples: list[int],
    variable: int,
) -> None:
    """Draw forecasts side by side, learning curves and one alignment per loss into the run's folder."""
    args, test = experiment.args, experiment.data.test
    # Not at the top: matplotlib takes a second to import, which no run without figures needs.
    from evaluation.plots import plot_alignment, plot_forecasts, plot_learning_curves

    folder.figures.mkdir(exist_ok=True)
    inputs, targets = test[list(range(len(test)))][:2]
    record = record_of(experiment.data)
    shown = {"show": args.show, "variable": variable, "name": record.targets[variable] if record.targets else ""}
    if (scaling := experiment.data.target_scaling) is not None:
        shown |= {"mean": float(scaling.mean[variable]), "std": float(scaling.std[variable])}
    past = inputs[..., record.target_positions]
    plot_forecasts(past, targets, forecasts, folder.figures / "forecasts.png", samples, **shown)
    plot_learning_curves(flattened(histories), folder.figures / "learning_curves.png", show=args.show)
    first = samples[0]
    for loss, forecast in forecasts.items():
        path, title = folder.figures / f"alignment_{loss}.png", f"{loss}, test sample {first}"
        plot_alignment(targets[first], forecast[first], args.gamma, path, title=title, **shown)


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


def _plot_variable(experiment: Experiment) -> int:
    """Which of the variables to forecast is drawn."""
    chosen, names = experiment.args.plot_variable, record_of(experiment.data).targets
    if chosen is None:
        return 0
    if not names:
        raise ValueError(f"--plot-variable cannot be given with --dataset {experiment.data.name}, which names none.")
    if chosen not in names:
        raise ValueError(f"--plot-variable must be one of {', '.join(names)}, got {chosen!r}.")
    return names.index(chosen)


if __name__ == "__main__":
    with usable_streams():
        try:
            with data_parallel.process_group():
                main(parse_args())
        except KeyboardInterrupt as interrupt:
            raise SystemExit(getattr(interrupt, "exit_code", 130)) from None
