"""Train forecasters with MSE, soft-DTW and DILATE, and compare them (the paper's section 4, Table 1).

Without flags: the synthetic task, all three losses, 500 epochs. ``python main.py --help`` lists every setting
with the paper's value, and examples.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from data.windows import Fingerprint, History
from evaluation.metrics import evaluate_forecasts
from training import (
    CheckpointError,
    DivergenceError,
    Record,
    TrainSettings,
    best_record,
    data_parallel,
    eval_model,
    load_checkpoint,
    load_forecaster,
    predict,
    train_model,
    units,
)
from training.data_record import record_of
from training.experiment import (
    VALIDATED,
    Experiment,
    announced_compilation,
    at_a_time,
    beside_training,
    compile_kernels,
    mostly_filled,
    prepare,
    read_past,
    resolve_device,
    set_up_torch,
)
from training.future import checkpoints_in, filled_values, forecast_curves, forecast_table
from training.interruption import continuation, interruptible
from training.loop import unfinished
from training.losses import LOSSES
from training.run_folder import RunFolder, flattened, new_folder
from training.settings import complaints, opened_folder, parse_args, settings_of
from training.side_by_side import train_side_by_side
from training.streams import say, usable_streams
from training.table import introduction, measured, results_table, whose_scaling

DEFAULT_PLOT_SAMPLES = range(1, 6)


def main(args: argparse.Namespace) -> dict[str, Record]:
    """Run the experiment: train with each loss, print and store the metrics, draw the figures.

    Args:
        args: As `parse_args` returns them.

    Returns:
        Training loss -> the record of the weights that are kept (see `training.best_record`); nothing for a forecast.

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
            samples = _plot_samples(experiment)
            variable = _plot_variable(experiment)
            lines = introduction(experiment)
            folder = data_parallel.broadcast_from_rank0(lambda: stack.enter_context(opened_folder(experiment)))
        stack.callback(_say_what_is_older, folder, folder.outputs())
        continued_by = continuation(folder, __file__)
        mistakes = complaints(OSError, CheckpointError, DivergenceError, continued_by=continued_by)
        with interruptible(continued_by), mistakes:
            print(f"{lines}\nrun folder: {folder.path}")
            histories = train_all(experiment, folder, jobs)
            forecasts = {loss: _forecast(experiment, folder, loss) for loss in histories}
            results = {loss: best_record(history) for loss, history in histories.items()}
            print(f"\n{report(experiment, results, forecasts, folder)}")
            if args.save_predictions and data_parallel.rank() == 0:
                folder.write_predictions(units.arrays(experiment.data, forecasts))
            if args.plots and data_parallel.rank() == 0:
                draw(experiment, folder, histories, forecasts, samples, variable)
            if args.dataset == "csv":
                checkpoints = {loss: folder.checkpoint(loss) for loss in histories}
                forecast_beyond(checkpoints, experiment.data.series, experiment.device, folder, args)
            print(f"\nEverything is in {folder.path}")
    return results


def _say_what_is_older(folder: RunFolder, before: dict[Path, int]) -> None:
    """Name the files that an earlier session wrote and this one has not, whose networks may have changed since."""
    now = folder.outputs()
    older = [str(path.relative_to(folder.path)) for path, written in before.items() if now.get(path) == written]
    if older and data_parallel.rank() == 0:
        say(f"Written by an earlier session of this run, and not by this one: {', '.join(older)}")


def report(
    experiment: Experiment,
    results: dict[str, Record],
    forecasts: Mapping[str, Tensor],
    folder: RunFolder | None = None,
) -> str:
    """The table of a run, which for a CSV file has naive forecasts and the file's units, also kept in the folder."""
    data = experiment.data
    if data.name != "csv":
        return results_table(experiment, results)
    naive, past = units.naive_steps(data, experiment.args.season), units.past_of(data)
    in_file = {loss: units.in_units(data, forecast) for loss, forecast in forecasts.items()}
    in_file |= {name: units.in_file(data, steps) for name, steps in naive.items()}
    errors = units.errors(data, in_file)
    if folder is not None and data_parallel.rank() == 0:
        folder.write_errors(errors)
    scores = {name: evaluate_forecasts(past[:, steps], data.test.targets) for name, steps in naive.items()}
    return results_table(experiment, {**results, **scores}, errors)


def train_all(experiment: Experiment, folder: RunFolder, jobs: int) -> dict[str, list[Record]]:
    """Train one network with each loss, or what is left of it, and keep all metrics in the folder.

    Args:
        experiment: What to run.
        folder: Where to keep it.
        jobs: How many networks to train at a time.

    Returns:
        Training loss -> its records.
    """
    args = experiment.args
    if jobs > 1 or data_parallel.world_size() > 1:
        compile_kernels(experiment)
    if jobs > 1:
        print(f"\n{', '.join(args.losses)}: {jobs} at a time, each in a process of its own")
        train = partial(_train_in_new_process, args, experiment.data.fingerprint, folder)
        trained = train_side_by_side(train, args.losses, jobs, args.epochs)
    else:
        trained = _one_by_one(experiment, folder)
    try:
        with closing(trained):
            for _ in trained:
                _write_results(folder, args.losses)
    finally:  # where the run is interrupted, a checkpoint may be newer than the last row written
        _write_results(folder, args.losses)
    return {loss: load_checkpoint(folder.checkpoint(loss))["history"] for loss in args.losses}


def _write_results(folder: RunFolder, losses: Sequence[str]) -> None:
    paths = {loss: folder.checkpoint(loss) for loss in losses}
    kept = {loss: best_record(load_checkpoint(path)["history"]) for loss, path in paths.items() if path.exists()}
    if kept and data_parallel.rank() == 0:
        folder.write_results(kept)


def _one_by_one(experiment: Experiment, folder: RunFolder) -> Iterator[str]:
    losses = experiment.args.losses
    for number, loss in enumerate(losses, start=1):
        print(f"\n{loss} ({number} of {len(losses)})")
        train_one(experiment, folder, loss, progress=loss)
        yield loss


def _train_in_new_process(
    args: argparse.Namespace, fingerprint: Fingerprint | None, folder: RunFolder, loss: str, on_epoch, write
) -> None:
    try:
        experiment = prepare(args)  # which reads the data again
    except ValueError as problem:
        raise CheckpointError(f"{args.data_path} changed since the run began: {problem}") from None
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
        patience=args.patience,
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
        valid_set=experiment.valid,
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
        scores, predicted = eval_model(net, experiment.data.test, batch_size, return_predictions=True, share_out=True)
        name = checkpoint.get("settings", {}).get("loss", Path(path).stem)
        table = report(experiment, {name: scores}, {name: predicted})
        print("\n".join([*unfinished(path), *measured(experiment), *whose_scaling(experiment), table]))
    return {name: scores}


def forecast(args: argparse.Namespace) -> None:
    """Forecast what follows the last row of a file, with one checkpoint or with all of a run."""
    with complaints(ValueError, TypeError, OSError):
        device = resolve_device(args.device)
        set_up_torch(args, device)
        checkpoints = checkpoints_in(args.forecast, args.losses)
        trained_on = load_forecaster(next(iter(checkpoints.values()))).data
        past = read_past(args, trained_on)
        warnings = [line for path in checkpoints.values() for line in unfinished(path)]
        folder = data_parallel.broadcast_from_rank0(lambda: _forecast_folder(args))
        print("\n".join([*warnings, *past.about, *beside_training(args, trained_on, past.series)]))
        forecast_beyond(checkpoints, past.series, device, folder, args)


def _forecast_folder(args: argparse.Namespace) -> RunFolder:
    folder = RunFolder(Path(args.output)) if args.output else new_folder(f"{args.dataset}-forecast")
    if folder.forecast.exists():
        raise FileExistsError(f"--output {folder.path} already holds {folder.forecast.name}: name another folder.")
    folder.path.mkdir(parents=True, exist_ok=True)
    return folder


def forecast_beyond(
    checkpoints: Mapping[str, Path],
    past: Sequence[History],
    device: torch.device,
    folder: RunFolder,
    args: argparse.Namespace,
) -> None:
    """Forecast what follows the last row of each series, and write that to forecast.csv and forecast.png.

    After a training on series whose last input was mostly filled in, this only says so.
    """
    forecasters = {loss: load_forecaster(path, device) for loss, path in checkpoints.items()}
    trained_on, file = next(iter(forecasters.values())).data, args.data_path or args.dataset
    if reason := mostly_filled(args, trained_on, past):
        print(f"\nNo forecast beyond the last row: {reason}")
        return
    table = forecast_table(forecasters, past)  # in all processes, which share the work
    if data_parallel.rank() == 0:
        folder.write_forecast(table)
    if args.plots and data_parallel.rank() == 0:
        from evaluation.plots import plot_future

        plot_future(forecast_curves(forecasters, past, table), folder.path / "forecast.png", show=args.show)
    print("\n".join(["", *filled_values(past, trained_on.input_length)]))
    drawn = "" if args.plots else "; --plots draws forecast.png, too"
    print(f"The {trained_on.horizon} steps after the last row of {file} are in {folder.forecast}{drawn}")


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
    from evaluation.plots import loss_label, plot_alignment, plot_forecasts, plot_learning_curves

    folder.figures.mkdir(exist_ok=True)
    data, names = experiment.data, record_of(experiment.data).targets
    places = [units.place_of(data, sample) for sample in samples]
    times = [of_one for _, of_one in places]
    titles = [(names[variable] if names else "", series) for series, _ in places]
    past, targets, *predicted = (
        units.in_units(data, values)[..., [variable]]
        for values in (units.past_of(data), test.targets, *forecasts.values())
    )
    in_units = dict(zip(forecasts, predicted, strict=True))
    path = folder.figures / "forecasts.png"
    shown = {"show": args.show, "name": titles, "times": None if None in times else times}
    plot_forecasts(past, targets, in_units, path, samples, **shown)
    path, scaled = folder.figures / "learning_curves.png", units.scaling_of(data) is not None
    plot_learning_curves(flattened(histories), path, show=args.show, units="in scaled units" if scaled else "")
    first, shown = samples[0], {"show": args.show, "name": titles[0], "variable": variable}
    if (scaling := units.scaling_of(data, first)) is not None:
        shown |= {"mean": float(scaling.mean.flatten()[variable]), "std": float(scaling.divisor.flatten()[variable])}
    for loss, forecast in forecasts.items():
        path = folder.figures / f"alignment_{loss}.png"
        plot_alignment(
            test.targets[first],
            forecast[first],
            args.gamma,
            path,
            title=f"{loss_label(loss)}, test sample {first}",
            **shown,
        )


def _forecast(experiment: Experiment, folder: RunFolder, loss: str) -> Tensor:
    net = experiment.trained_network(folder.checkpoint(loss))
    return predict(net, experiment.data.test, experiment.args.batch_size, share_out=True)[0]


def _plot_samples(experiment: Experiment) -> list[int]:
    chosen, count = experiment.args.plot_samples, len(experiment.data.test)
    if chosen is None and experiment.args.dataset in VALIDATED:  # series in time, whose neighbours overlap
        spread = len(DEFAULT_PLOT_SAMPLES)
        return sorted({(2 * number + 1) * count // (2 * spread) for number in range(spread)})
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
