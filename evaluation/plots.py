"""Figures of an experiment: forecasts side by side, learning curves, soft alignments.

Every figure is built without pyplot, so drawing needs no display, selects no backend and leaves no figure open. Each
figure is written to a file and then, if asked for and if a display exists, shown.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends import backend_registry
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from loss import ctc_alignment, ctc_loss, pairwise_distances, soft_path

from .metrics import as_array, dtw_tdi, mse

__all__ = ["loss_label", "plot_alignment", "plot_ctc_alignment", "plot_forecasts", "plot_future"]
__all__ += ["plot_learning_curves", "show_available"]

DPI = 100
ROWS_PER_FIGURE = 5
# The paper's Figure 4 shows as much input before a forecast: 48 of the 168 steps of Traffic.
VIEWED_HORIZONS = 2
MAX_POINTS_WITH_MARKERS = 25
MAX_CELLS = 250
MAX_NAMED_STATES = 41
MAX_NAME = 24
LOG_METRICS = ("mse", "dtw", "valid_loss")
Name = str | Sequence[str | None]  # or its parts, such as those of a variable and of its series
INPUTS, FUTURES = ("S", "N_input", "input_size"), ("S", "N_output", "output_size")
METRIC_LABELS = {"mse": "MSE", "dtw": "DTW", "tdi": "TDI"}

# Okabe and Ito's palette, then Tol's: told apart with every common kind of colour blindness.
ROLE_COLOURS = {"input": "#5A5A5A", "target": "#0072B2", "prediction": "#D55E00"}
LOSS_LOOKS = {
    "mse": {"label": "MSE", "color": "#E69F00", "marker": "o"},
    "softdtw": {"label": "soft-DTW", "color": "#009E73", "marker": "s"},
    "dilate": {"label": "DILATE", "color": "#CC79A7", "marker": "^"},
}
OTHER_LOOKS = (
    {"color": "#56B4E9", "marker": "D"},
    {"color": "#000000", "marker": "v"},
    {"color": "#882255", "marker": "<"},
    {"color": "#999933", "marker": ">"},
    {"color": "#332288", "marker": "P"},
)
LABEL_COLOURS = [look["color"] for look in (*LOSS_LOOKS.values(), *OTHER_LOOKS)]

STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 10,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


def plot_forecasts(
    inputs: ArrayLike | torch.Tensor,
    targets: ArrayLike | torch.Tensor,
    forecasts: Mapping[str, ArrayLike | torch.Tensor],
    path: str | os.PathLike[str],
    sample_ids: Sequence[int],
    show: bool = False,
    variable: int = 0,
    name: str | Sequence[Name] = "",
    times: Sequence[Sequence[str]] | None = None,
) -> list[Path]:
    """Draw the forecasts of several networks side by side: a row per sample, a panel per training loss.

    Time counts the steps of the window: the input lies on 0..N_input-1, target and forecast on
    N_input..N_input+N_output-1, joined to the last input value. Of a longer input, the last two horizons are
    drawn, as in the paper's Figure 4. Panels of one row share the value axis. Each title gives the sample's
    MSE, DTW and TDI (section 4.1), taken over all variables; the curves show one variable.

    Args:
        inputs: Observed windows, ``(S, N_input, input_size)``, of any real dtype; their first variables are those of
            the targets, in the same order.
        targets: True futures, ``(S, N_output, output_size)``.
        forecasts: Training loss -> forecasts, shaped like ``targets``; panels keep this order. A forecast
            with NaN is drawn as far as it is finite.
        path: File to write; its suffix chooses the format (none: PNG). Missing folders are made.
        sample_ids: Indices along S of the samples to draw.
        show: Also show the figures on screen, one after the other, where `show_available`.
        variable: Which of the targets' variables to draw, counted from 0.
        name: Its name, put beside each row; or a name, or its parts, for each of ``sample_ids``.
        times: For each of ``sample_ids`` the times of its N_input + N_output steps, put below its row.

    Returns:
        The files written, five samples each: ``path``, then with ``-2``, ``-3``, ... before its suffix.

    Raises:
        ValueError: If shapes disagree, nothing is given to draw, an index is outside of 0..S-1, there is no such
            variable or the format is unknown.
        TypeError: If the series are not numbers or ``forecasts`` is no mapping.
        OSError: If a file cannot be written.
    """
    inputs, targets = _array("inputs", inputs, INPUTS), _array("targets", targets, FUTURES)
    if len(inputs) != len(targets):
        raise ValueError(f"inputs and targets must hold the same samples, not {len(inputs)} and {len(targets)}.")
    forecasts = _forecast_arrays(forecasts, targets.shape)
    _check_variable(variable, min(inputs.shape[2], targets.shape[2]))
    ids = _check_sample_ids(sample_ids, len(targets))
    if not isinstance(name, str) and len(name) != len(ids):
        raise ValueError(f"name must be one, or one for each of the {len(ids)} samples, not {len(name)} names.")
    path, written = Path(path), []
    for first in range(0, len(ids), ROWS_PER_FIGURE):
        page = ids[first : first + ROWS_PER_FIGURE]
        chosen = {loss: series[page] for loss, series in forecasts.items()}
        names = name if isinstance(name, str) else name[first : first + ROWS_PER_FIGURE]
        stamps = None if times is None else times[first : first + ROWS_PER_FIGURE]
        file = path.with_name(f"{path.stem}-{len(written) + 1}{path.suffix}") if written else path
        with _house_style():
            figure = _forecast_figure(inputs[page], targets[page], chosen, page, variable, names, stamps)
            written.append(_finish(figure, file, show))
    return written


def plot_future(
    curves: Mapping[str | tuple[str | None, ...], tuple[ArrayLike, Mapping[str, ArrayLike], Sequence[str] | None]],
    path: str | os.PathLike[str],
    show: bool = False,
) -> list[Path]:
    """Draw forecasts of what nobody has observed yet, joined to the recent past: a panel per variable.

    Args:
        curves: Name of a variable, or its name and that of its series -> its recent past, ``(T,)``, training loss ->
            forecast, ``(N_output,)``, and the times of these T + N_output steps, None for steps without times.
        path: File to write; its suffix chooses the format (none: PNG). Missing folders are made.
        show: Also show the figures on screen, where `show_available`.

    Returns:
        The files written, five panels each: ``path``, then with ``-2``, ``-3``, ... before its suffix.

    Raises:
        ValueError: If there is nothing to draw, or the format is unknown.
        OSError: If a file cannot be written.
    """
    if not curves:
        raise ValueError("curves must hold at least one variable, got none.")
    panels, path, written = [], Path(path), []
    for name, (past, forecasts, times) in curves.items():
        arrays = as_array(past), {loss: as_array(forecast) for loss, forecast in forecasts.items()}
        panels.append((name, (*arrays, times)))
    for first in range(0, len(panels), ROWS_PER_FIGURE):
        file = path.with_name(f"{path.stem}-{len(written) + 1}{path.suffix}") if written else path
        with _house_style():
            written.append(_finish(_future_figure(panels[first : first + ROWS_PER_FIGURE]), file, show))
    return written


def plot_learning_curves(
    history: Sequence[Mapping[str, object]], path: str | os.PathLike[str], show: bool = False, units: str = ""
) -> Path:
    """Draw the test metrics over training: a panel each for MSE, DTW and TDI, a line per training loss.

    Where the weights were chosen on a validation part, a fourth panel shows each training loss on that part.

    Args:
        history: One record per evaluation, with the keys ``loss`` (name of the training loss), ``epoch``,
            ``mse``, ``dtw``, ``tdi`` and, if there is one, ``valid_loss``; other keys are ignored. A metric that is
            absent is left out of its line, which breaks where one is None or not finite; of two records of one loss
            and epoch the later one counts.
        path: File to write; its suffix chooses the format (none: PNG). Missing folders are made.
        show: Also show the figure on screen, where `show_available`.
        units: Those of the metrics, in words.

    Returns:
        The file written.

    Raises:
        ValueError: If there is no record, one lacks ``loss`` or ``epoch``, or the format is unknown.
        OSError: If the file cannot be written.
    """
    _check_history(history)
    with _house_style():
        return _finish(_learning_curve_figure(history, units), path, show)


def plot_alignment(
    target: ArrayLike | torch.Tensor,
    prediction: ArrayLike | torch.Tensor,
    gamma: float,
    path: str | os.PathLike[str],
    title: str = "",
    show: bool = False,
    variable: int = 0,
    name: Name = "",
    mean: float = 0.0,
    std: float = 1.0,
) -> Path:
    """Draw the soft alignment A*_gamma of one forecast and its target (the paper's section 3.2).

    Rows are the steps h of the prediction, growing upwards, and columns the steps j of the target, so weight
    above the dashed diagonal means that the prediction is late. The series stand along the margins. Series
    with several variables are aligned in all of them; the margins show one. Beyond 250 steps a cell of
    the picture shows the largest weight of a block.

    Args:
        target: True future, ``(M, d)``.
        prediction: Forecast, ``(N, d)``. If either holds a value that is not finite, the picture says so in
            place of the alignment.
        gamma: Smoothing of the soft minimum, > 0, in the units of the squared values.
        path: File to write; its suffix chooses the format (none: PNG). Missing folders are made.
        title: Put above the picture, before the line that names gamma.
        show: Also show the figure on screen, where `show_available`.
        variable: Which of the d variables the margins show, counted from 0.
        name: Its name, or the parts of that, put below the title.
        mean: Of that variable, where the series are standardised: the margins show it in the units that it had
            before. The alignment is that of the series as they are given.
        std: Its deviation, likewise.

    Returns:
        The file written.

    Raises:
        TypeError: If the series or gamma are not numbers.
        ValueError: If the series are not 2-D with the same d, gamma is not positive, there is no such variable or the
            format is unknown.
        OSError: If the file cannot be written.
    """
    target, prediction = _array("target", target, ("M", "d")), _array("prediction", prediction, ("N", "d"))
    if target.shape[1] != prediction.shape[1]:
        raise ValueError(
            f"target and prediction must have the same number of variables d, not {target.shape[1]} and "
            f"{prediction.shape[1]}."
        )
    _check_variable(variable, target.shape[1])
    title = "\n".join(filter(None, (title, ", ".join(_parts(name)))))
    with _house_style():
        return _finish(_alignment_figure(target, prediction, gamma, title, variable, mean, std), path, show)


def plot_ctc_alignment(
    log_probs: ArrayLike | torch.Tensor,
    target: Sequence[int] | torch.Tensor,
    path: str | os.PathLike[str],
    blank: int = 0,
    names: Sequence[str] | None = None,
    title: str = "",
    show: bool = False,
) -> Path:
    """Draw how CTC aligns one sequence with its target: `loss.ctc_alignment`, below the network's probabilities.

    Columns are time steps and rows the states of the label lattice, growing upwards: the labels of the target, with
    a blank before, between and after them, each named in the colour of its curve above. These curves are the
    probabilities of the target's labels and, dotted, of the blank. Beyond 250 steps or states a cell of the picture
    shows the largest probability of a block; more than 41 states are numbered and not named.

    Args:
        log_probs: Logarithms of the classes' probabilities, ``(T, C)``.
        target: Labels, ``(L,)``. If none of its alignments has a probability above zero, the picture says so.
        path: File to write; its suffix chooses the format (none: PNG). Missing folders are made.
        blank: The class of the blank.
        names: Names of the C classes; by default their numbers, and a dash for the blank.
        title: Put above the picture, before the line with the loss.
        show: Also show the figure on screen, where `show_available`.

    Returns:
        The file written.

    Raises:
        TypeError: If log_probs are not numbers or the labels are not whole numbers.
        ValueError: If log_probs are not 2-D, a label is no class or the blank, names are not as many as classes,
            or the format is unknown.
        OSError: If the file cannot be written.
    """
    log_probs = torch.tensor(_array("log_probs", log_probs, ("T", "C")))
    if np.ndim(target) != 1:
        raise ValueError(f"target must be shaped (L,), not {np.shape(target)}.")
    with _house_style():
        figure = _ctc_figure(log_probs, target, blank, _class_names(names, log_probs.shape[1], blank), title)
        return _finish(figure, path, show)


def show_available() -> bool:
    """Tell whether figures can be shown: the backend of matplotlib opens windows and a display is there."""
    _, gui = backend_registry.resolve_backend(matplotlib.get_backend())
    if gui is None:
        return False
    windowing_is_built_in = sys.platform in ("darwin", "win32", "cygwin")
    return windowing_is_built_in or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


# Forecasts


def _forecast_figure(
    inputs: NDArray,
    targets: NDArray,
    forecasts: dict[str, NDArray],
    sample_ids: Sequence[int],
    variable: int = 0,
    name: str | Sequence[Name] = "",
    times: Sequence[Sequence[str]] | None = None,
) -> Figure:
    rows, columns = len(targets), len(forecasts)
    size = (max(3.7 * columns + 0.3, 6.0), (2.1 if times is None else 2.4) * rows + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True if times is None else "row", sharey="row", squeeze=False)
    for column, (loss, series) in zip(panels.T, forecasts.items(), strict=True):
        for row, (axes, scores) in enumerate(zip(column, _score_lines(series, targets), strict=True)):
            _draw_forecast(axes, *(values[row, :, variable] for values in (inputs, targets, series)))
            axes.set_title(scores)
            if times is not None:
                _label_times(axes, times[row])
        head = loss_label(loss)
        place = {"xytext": (0, 20), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        column[0].annotate(head, (0.5, 1), xycoords="axes fraction", fontsize=12, fontweight="bold", **place)
        column[-1].set_xlabel("time step" if times is None else "")
    names = [name] * rows if isinstance(name, str) else name
    for axes, sample, of_row in zip(panels[:, 0], sample_ids, names, strict=True):
        lines = [f"test sample {sample}", *_parts(of_row), _which(variable, targets)]
        axes.set_ylabel("\n".join(filter(None, lines)))
    figure.align_ylabels(panels[:, 0])
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _draw_forecast(axes: Axes, observed: NDArray, target: NDArray, prediction: NDArray) -> None:
    last = len(observed) - 1
    past = np.arange(max(0, len(observed) - VIEWED_HORIZONS * len(target)), last + 1)
    future = np.arange(last, last + len(target) + 1)
    width = _line_width(len(past) + len(target))
    curves = {
        "input": (past, observed[past]),
        "target": (future, np.append(observed[-1], target)),
        "prediction": (future, np.append(observed[-1], prediction)),
    }
    axes.axvline(last, color="0.6", linewidth=0.8, linestyle=(0, (4, 3)))
    for role, (steps, values) in curves.items():
        look = {"color": ROLE_COLOURS[role], "linewidth": width, "label": role}
        _draw_line(axes, steps, values, joined=role != "input", **look)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(_whole_steps(10))


def _label_times(axes: Axes, times: Sequence[str]) -> None:
    """Write the times of the steps below an axis of steps: the days, where the view shows some, or any."""
    midnight, (low, high) = " 00:00", axes.get_xlim()
    seen = [step for step, time in enumerate(times) if low <= step <= high and time.endswith(midnight)]
    if 1 < len(seen) < high - low:
        ticks = seen[:: -(-len(seen) // 5)]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
    else:
        widest = max(len(line) for time in times for line in time.split(" "))  # 48 characters fit side by side
        axes.xaxis.set_major_locator(MaxNLocator(nbins=max(1, min(4, 48 // widest)), integer=True))
    if all(time.endswith(midnight) for time in times):
        times = [time.removesuffix(midnight) for time in times]
    axes.xaxis.set_major_formatter(
        lambda step, _: times[int(step)].replace(" ", "\n") if 0 <= step < len(times) else ""
    )
    axes.tick_params(axis="x", labelsize=8, labelbottom=True)


def _score_lines(prediction: NDArray, target: NDArray) -> list[str]:
    scores = zip(mse(prediction, target), *dtw_tdi(prediction, target), strict=True)
    return [f"MSE {a:.3g}   DTW {b:.3g}   TDI {c:.3g}" for a, b, c in scores]


# Forecasts beyond the data


def _future_figure(
    curves: Sequence[tuple[Name, tuple[NDArray, Mapping[str, NDArray], Sequence[str] | None]]],
) -> Figure:
    figure = Figure(figsize=(9, 2.6 * len(curves) + 0.7), layout="constrained")
    panels = figure.subplots(len(curves), squeeze=False)[:, 0]
    looks = _looks(next(iter(curves))[1][1])
    observed = {"color": ROLE_COLOURS["input"], "linewidth": 1.5, "label": "observed"}
    for axes, (name, (past, forecasts, times)) in zip(panels, curves, strict=True):
        last = 0 if times is None else len(past) - 1  # without times, steps count from the last row of the file
        _draw_line(axes, np.arange(len(past)) - len(past) + 1 + last, past, **observed)
        axes.axvline(last, color="0.6", linewidth=0.8, linestyle=(0, (4, 3)))
        for loss, forecast in forecasts.items():
            look = looks[loss] | {"marker": ""}
            steps = np.arange(last, last + len(forecast) + 1)
            _draw_line(axes, steps, np.append(past[-1], forecast), joined=True, linewidth=2, **look)
        axes.set_ylabel("\n".join(_parts(name)))
        axes.margins(x=0.02)
        if times is None:
            axes.set_xlabel("step after the last row of the file")
            axes.xaxis.set_major_locator(_whole_steps(10))
        else:
            _label_times(axes, times)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure


# Learning curves


def _learning_curve_figure(history: Sequence[Mapping[str, object]], units: str = "") -> Figure:
    validated = any("valid_loss" in record for record in history)
    labels = METRIC_LABELS | ({"valid_loss": "validation loss"} if validated else {})
    figure = Figure(figsize=(3.8 * len(labels), 3.8), layout="constrained")
    panels = figure.subplots(1, len(labels), sharex=True)
    looks = _loss_looks(history)
    for axes, (metric, label) in zip(panels, labels.items(), strict=True):
        curves = {loss: _curve(history, loss, metric) for loss in looks}
        for loss, (epochs, values) in curves.items():
            marker_size = 5 if len(epochs) <= MAX_POINTS_WITH_MARKERS else 0
            _draw_line(axes, epochs, values, linewidth=2, markersize=marker_size, **looks[loss])
            if metric == "valid_loss" and np.isfinite(values).any():
                best, ring = (
                    np.nanargmin(values),
                    {"markersize": 12, "fillstyle": "none", "color": looks[loss]["color"]},
                )
                axes.plot(epochs[best], values[best], "o", **ring)
        axes.set_title(label, fontsize=12, fontweight="bold")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(_whole_steps(7))
        values = np.concatenate([values for _, values in curves.values()])
        _scale_values(axes, metric, values[np.isfinite(values)])
    panels[0].set_ylabel("\n".join(filter(None, ("mean over the test set", units))))
    if validated:
        panels[-1].set_ylabel("mean over the validation part\nring: weights kept")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6), title="training loss")
    return figure


def _scale_values(axes: Axes, metric: str, values: NDArray) -> None:
    """Make the value axis of an MSE or DTW that falls far logarithmic: the first epochs would flatten the rest."""
    if not len(values):
        _note(axes, "no finite value")
        axes.yaxis.set_major_locator(NullLocator())
    elif metric in LOG_METRICS and 0 < 3 * values.min() <= values.max():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=_ticks_per_decade(values.max() / values.min())))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def _ticks_per_decade(span: float) -> tuple[float, ...]:
    if span < 6:
        return (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    if span < 20:
        return (1, 2, 3, 5, 7)
    return (1, 2, 5) if span < 1000 else (1,)


def _curve(history: Sequence[Mapping[str, object]], loss: str, metric: str) -> tuple[NDArray, NDArray]:
    """Give the epochs, ascending, and the values of one metric of one loss, nan where they are not finite."""
    records = {record["epoch"]: record for record in history if str(record["loss"]) == loss}
    points = [(epoch, record[metric]) for epoch, record in sorted(records.items()) if metric in record]
    epochs, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return epochs, np.where(np.isfinite(values), values, np.nan)


def _loss_looks(history: Sequence[Mapping[str, object]]) -> dict[str, dict[str, str]]:
    """Give each loss of the history, in order of appearance, its label, colour and marker."""
    return _looks(dict.fromkeys(str(record["loss"]) for record in history))


def _looks(losses: Iterable[str]) -> dict[str, dict[str, str]]:
    others = cycle(OTHER_LOOKS)
    return {loss: LOSS_LOOKS.get(_loss_key(loss)) or {"label": loss} | next(others) for loss in losses}


# Alignment


def _alignment_figure(
    target: NDArray,
    prediction: NDArray,
    gamma: float,
    title: str,
    variable: int = 0,
    mean: float = 0.0,
    std: float = 1.0,
) -> Figure:
    figure = Figure(figsize=(6.8, 6.6))
    # Fixed places: a layout engine would keep room beside the picture for the values of the upper margin.
    box = {"left": 0.09, "right": 0.84, "bottom": 0.1, "top": 0.88, "wspace": 0.12, "hspace": 0.08}
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 4.5), height_ratios=(1, 4.5), **box)
    picture = figure.add_subplot(grid[1, 1])
    above, beside = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 0])
    if np.isfinite(target).all() and np.isfinite(prediction).all():
        cost = pairwise_distances(torch.tensor(prediction), torch.tensor(target))
        alignment = soft_path(cost[None], gamma)[0].detach().numpy()
        _draw_weights(picture, alignment, "weight of the pair ($h$, $j$)")
        ends = [0, len(target) - 1], [0, len(prediction) - 1]
        picture.plot(*ends, color="#009E73", linewidth=1, linestyle=(0, (6, 4)))
    else:
        _note(picture, "no alignment:\na value is not finite")
    curves = (series[:, variable] * std + mean for series in (target, prediction))
    _draw_margins(above, beside, *curves, _which(variable, target))
    _share_steps(picture, above, beside, len(target), len(prediction))
    _entitle(figure, title, f"soft alignment $A^*_\\gamma$ with $\\gamma$ = {gamma:g}")
    return figure


def _draw_margins(above: Axes, beside: Axes, target: NDArray, prediction: NDArray, which: str) -> None:
    width = 0.7 * _line_width(max(len(target), len(prediction)))
    target_colour, prediction_colour = ROLE_COLOURS["target"], ROLE_COLOURS["prediction"]
    for axes, x, y, colour in (
        (above, np.arange(len(target)), target, target_colour),
        (beside, prediction, np.arange(len(prediction)), prediction_colour),
    ):
        _draw_line(axes, x, y, color=colour, linewidth=width)
    # One value scale for both.
    low, high = np.sort([*above.get_ylim(), *beside.get_xlim()])[[0, -1]]
    above.set_ylim(low, high)
    beside.set_xlim(low, high)
    above.set_ylabel(f"target\n{which}".rstrip(), color=target_colour)
    beside.set_title(f"prediction\n{which}".rstrip(), color=prediction_colour)
    above.yaxis.set_major_locator(MaxNLocator(nbins=4))
    beside.xaxis.set_major_locator(MaxNLocator(nbins=2))
    above.ticklabel_format(axis="y", scilimits=(-3, 4))
    beside.ticklabel_format(axis="x", scilimits=(-3, 4))
    above.yaxis.set_ticks_position("right")
    above.yaxis.set_label_position("right")
    above.spines[["left", "right"]].set_visible(False)


def _share_steps(picture: Axes, above: Axes, beside: Axes, columns: int, rows: int) -> None:
    above.sharex(picture)
    beside.sharey(picture)
    picture.set(xlabel="target step $j$", xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
    beside.set_ylabel("prediction step $h$")
    for axis in (picture.xaxis, picture.yaxis):
        axis.set_major_locator(_whole_steps(8))
    above.tick_params(labelbottom=False)
    beside.tick_params(axis="x", labelsize=8)
    picture.tick_params(labelleft=False)
    picture.grid(False)


def _draw_weights(picture: Axes, weights: NDArray, meaning: str) -> None:
    blocks, extent = pooled(weights)
    # The square root keeps visible the small weights of a path that spreads over a flat stretch.
    colours = {"cmap": "Greys", "norm": PowerNorm(0.5, 0, 1), "interpolation": "nearest"}
    image = picture.imshow(blocks, extent=extent, origin="lower", aspect="auto", **colours)
    bar_axes = picture.inset_axes((1.04, 0, 0.035, 1))
    bar = picture.figure.colorbar(image, cax=bar_axes, ticks=(0, 0.05, 0.2, 0.5, 1), format="{x:g}")
    bar.set_label(meaning)
    bar.outline.set_linewidth(0.5)


def pooled(weights: NDArray, most: int = MAX_CELLS) -> tuple[NDArray, tuple[float, float, float, float]]:
    """Give the largest weight of each block, with at most so many blocks a side, and the blocks' extent in cells.

    A long path, one cell wide, would otherwise fade between the pixels.
    """
    rows, columns = weights.shape
    height, width = -(-rows // most), -(-columns // most)
    padded = np.pad(weights, ((0, -rows % height), (0, -columns % width)))
    rows, columns = padded.shape
    blocks = padded.reshape(rows // height, height, columns // width, width).max(axis=(1, 3))
    return blocks, (-0.5, columns - 0.5, -0.5, rows - 0.5)


# CTC


def _ctc_figure(
    log_probs: torch.Tensor, target: Sequence[int] | torch.Tensor, blank: int, names: Sequence[str], title: str
) -> Figure:
    arguments = (log_probs, target, len(log_probs), len(target), blank)
    posterior, loss = ctc_alignment(*arguments).T.numpy(), ctc_loss(*arguments, "sum").item()
    states = [blank, *(k for label in target for k in (int(label), blank))]
    colours = dict(zip(sorted({*states} - {blank}), cycle(LABEL_COLOURS), strict=False))
    colours[blank] = ROLE_COLOURS["input"]
    figure = Figure(figsize=(6.8, 5.6))
    box = {"left": 0.1, "right": 0.84, "bottom": 0.1, "top": 0.88, "hspace": 0.08}
    above, picture = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.6), gridspec_kw=box)
    for k, colour in colours.items():
        look = {"linewidth": 0.7 * _line_width(len(log_probs)), "linestyle": (0, (1, 1.5)) if k == blank else "-"}
        _draw_line(above, np.arange(len(log_probs)), log_probs[:, k].exp().numpy(), color=colour, **look)
    above.set(ylabel="probability", ylim=(-0.03, 1.03))
    if np.isfinite(posterior).all():
        _draw_weights(picture, posterior, "probability of the state")
    else:
        _note(picture, "no alignment: the input is too short,\na probability is zero or a value is not a number")
    _name_states(picture, states, names, colours)
    picture.set(xlabel="time step $t$", ylabel="state of the lattice", xlim=(-0.5, len(log_probs) - 0.5))
    picture.xaxis.set_major_locator(_whole_steps(10))
    picture.grid(False)
    _entitle(figure, title, f"CTC: $-\\log\\,p$(target) = {loss:.4g}")
    return figure


def _name_states(picture: Axes, classes: Sequence[int], names: Sequence[str], colours: Mapping[int, str]) -> None:
    """Write the name of each state in the colour of its curve, small where many stand above each other."""
    picture.set_ylim(-0.5, len(classes) - 0.5)
    if len(classes) > MAX_NAMED_STATES:
        picture.yaxis.set_major_locator(_whole_steps(8))
        return
    picture.set_yticks(range(len(classes)), [names[k] for k in classes])
    for text, k in zip(picture.get_yticklabels(), classes, strict=True):
        text.set(color=colours[k], fontweight="bold", fontsize=min(9, 230 / len(classes)))


def _class_names(names: Sequence[str] | None, classes: int, blank: int) -> list[str]:
    if names is None:
        return ["–" if k == blank else str(k) for k in range(classes)]
    if len(names) != classes:
        raise ValueError(f"names must be as many as the {classes} classes of log_probs, but there are {len(names)}.")
    return [str(name) for name in names]


# Looks


@contextmanager
def _house_style() -> Iterator[None]:
    """Draw independently of the user's matplotlibrc, whose dark or large styles would not fit our colours."""
    with style.context(["default", STYLE]):
        yield


def _line_width(steps: int) -> float:
    """Give 3 points at 40 steps, as in the released figures, and less where more steps crowd together."""
    return float(np.clip(3 * np.sqrt(40 / steps), 1.2, 3))


def _draw_line(axes: Axes, x: NDArray, y: NDArray, joined: bool = False, **look: object) -> None:
    """Draw a line that breaks where a value is not finite, with a mark where it would have a single point.

    If it is joined to another line, its first point is of that one.
    """
    (line,) = axes.plot(x, y, **look)
    finite = np.isfinite(x) & np.isfinite(y)
    beside = np.pad(finite, 1)
    alone = finite & ~beside[:-2] & ~beside[2:]
    alone[:1] &= not joined
    if alone.any():
        marker = look.get("marker") or "o"
        axes.plot(x[alone], y[alone], color=line.get_color(), linestyle="", marker=marker, markersize=5)


def _whole_steps(count: int) -> MaxNLocator:
    return MaxNLocator(nbins=count, integer=True, steps=(1, 2, 5, 10), min_n_ticks=1)


def _which(variable: int, series: NDArray) -> str:
    return "" if series.shape[-1] == 1 else f"variable {variable + 1} of {series.shape[-1]}"


def _parts(name: Name) -> list[str]:
    """The parts of a name of any length and characters, as texts that fit beside a panel and hold no formula.

    Long ones lack their middle: the names of one file often begin alike.
    """
    texts = [" ".join((part or "").split()) for part in ([name] if isinstance(name, str) else name)]
    half = MAX_NAME // 2
    shortened = (text if len(text) <= MAX_NAME else f"{text[: half - 1]}…{text[-half:]}" for text in texts)
    return [text.replace("$", r"\$") for text in shortened if text]


def loss_label(loss: str) -> str:
    """The name of a training loss in figures."""
    return LOSS_LOOKS.get(_loss_key(loss), {"label": loss})["label"]


def _loss_key(loss: str) -> str:
    return loss.lower().translate({ord(mark): None for mark in "-_ "})


def _entitle(figure: Figure, title: str, caption: str) -> None:
    figure.suptitle(f"{title}\n{caption}" if title else caption, fontsize=11)


def _note(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.4")


# Checks and files


def _array(name: str, value: ArrayLike | torch.Tensor, axes: tuple[str, ...]) -> NDArray[np.float64]:
    try:
        array = as_array(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a regular array or tensor of numbers ({error}).") from error
    if array.ndim != len(axes) or 0 in array.shape:
        raise ValueError(f"{name} must be shaped ({', '.join(axes)}), none of them 0, not {array.shape}.")
    return array


def _forecast_arrays(
    forecasts: Mapping[str, ArrayLike | torch.Tensor], shape: tuple[int, ...]
) -> dict[str, NDArray[np.float64]]:
    if not isinstance(forecasts, Mapping):
        raise TypeError(f"forecasts must map training losses to forecasts, not be a {type(forecasts).__name__}.")
    if not forecasts:
        raise ValueError("forecasts must hold the forecasts of at least one training loss, but it is empty.")
    arrays = {str(loss): _array(f"forecasts[{loss!r}]", series, FUTURES) for loss, series in forecasts.items()}
    for loss, array in arrays.items():
        if array.shape != shape:
            raise ValueError(f"forecasts[{loss!r}] must be shaped like targets, {shape}, not {array.shape}.")
    return arrays


def _check_sample_ids(sample_ids: Sequence[int], samples: int) -> list[int]:
    ids = np.asarray(sample_ids)
    allowed = f"sample_ids must be a list of one or more integers from 0 to {samples - 1}"
    if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu":
        raise ValueError(f"{allowed}, not {sample_ids!r}.")
    outside = ids[(ids < 0) | (ids >= samples)]
    if len(outside):
        raise ValueError(f"{allowed}, but {outside[0]} is among them.")
    return ids.tolist()


def _check_variable(variable: int, variables: int) -> None:
    if variable not in range(variables):
        raise ValueError(f"variable must be a whole number from 0 to {variables - 1}, not {variable!r}.")


def _check_history(history: Sequence[Mapping[str, object]]) -> None:
    if not history:
        raise ValueError("history must hold at least one evaluation, but it is empty.")
    for number, record in enumerate(history):
        for key in ("loss", "epoch"):
            if key not in record:
                raise ValueError(f"history[{number}] must have the key {key!r}, but has only {sorted(record)}.")


def _finish(figure: Figure, path: str | os.PathLike[str], show: bool) -> Path:
    """Write the figure, then show it if that is asked for and possible."""
    path = _write(figure, Path(path))
    if show and show_available():
        from matplotlib import pyplot as plt

        plt.figure(figure)
        try:
            plt.show()
        finally:
            plt.close(figure)
    return path


def _write(figure: Figure, path: Path) -> Path:
    """Write to a temporary file first, so that a failure leaves the figure of an earlier run whole."""
    if path.is_dir():
        raise IsADirectoryError(f"Cannot write the figure {path}: it is a folder, give the name of a file.")
    path = path if path.suffix else path.with_suffix(".png")
    formats = sorted(figure.canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in formats:
        raise ValueError(f"path must end in one of .{', .'.join(formats)}, but it is {path}.")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(temporary, dpi=DPI)
        os.replace(temporary, path)
    except OSError as error:
        raise type(error)(f"Cannot write the figure {path}: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path
