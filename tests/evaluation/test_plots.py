import gc
import os
import subprocess
import sys
import weakref
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image as mpl_image
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from evaluation import plots
from evaluation.plots import (
    plot_alignment,
    plot_ctc_alignment,
    plot_forecasts,
    plot_future,
    plot_learning_curves,
    show_available,
)
from loss import ctc_alignment, ctc_loss
from tests.helpers import ROOT


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def forecast_task(rng, samples=3, n_input=20, n_output=20, variables=1, losses=("mse", "soft_dtw", "dilate")):
    inputs = rng.normal(size=(samples, n_input, variables))
    targets = rng.normal(size=(samples, n_output, variables))
    return inputs, targets, {loss: targets + 0.1 * rng.normal(size=targets.shape) for loss in losses}


def history_of(losses=("mse", "soft_dtw", "dilate"), epochs=range(0, 500, 50)):
    return [
        {"loss": loss, "epoch": epoch, "train_loss": 1.0, "seconds": 2.0}
        | {"mse": (k + 1) / (epoch + 1), "dtw": (k + 2) / (epoch + 1), "tdi": k + epoch / 100}
        for k, loss in enumerate(losses)
        for epoch in epochs
    ]


def panels_of(figure):
    return [axes for axes in figure.axes if axes.get_title()]


def curve_of(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return line


def marks_on(axes):
    """The points that stand alone, as their neighbours are not finite."""
    return {point for line in axes.lines if line.get_linestyle() == "None" for point in map(tuple, line.get_xydata())}


def assert_picture(path, least_pixels=300):
    assert Path(path).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = mpl_image.imread(path)
    assert min(picture.shape[:2]) >= least_pixels
    assert max(picture.shape[:2]) <= 2000
    assert picture[..., :3].std() > 0.01


def tslearn_scores(prediction, target):
    from tslearn.metrics import dtw_path

    path, dtw = dtw_path(target, prediction)
    tdi = sum((i - j) ** 2 for i, j in path) / len(target) ** 2
    return [np.mean((prediction - target) ** 2), dtw, tdi]


def numbers_in(title):
    words = title.split()
    assert words[::2] == ["MSE", "DTW", "TDI"]
    return [float(word) for word in words[1::2]]


# Forecasts


@pytest.mark.parametrize("losses", [("dilate",), ("mse", "soft_dtw", "dilate")], ids=len)
def test_forecasts_are_written_as_a_png(rng, tmp_path, losses):
    inputs, targets, forecasts = forecast_task(rng, n_input=168, n_output=24, losses=losses)
    written = plot_forecasts(inputs, targets, forecasts, tmp_path / "f.png", [2])
    assert written == [tmp_path / "f.png"]
    assert_picture(written[0])


def test_each_panel_shows_its_sample_and_loss(rng):
    inputs, targets, forecasts = forecast_task(rng, samples=2, n_input=30, n_output=20)
    panels = panels_of(plots._forecast_figure(inputs, targets, forecasts, [4, 7]))
    cells = [(row, loss) for row in range(2) for loss in forecasts]
    assert len(panels) == len(cells)
    for axes, (row, loss) in zip(panels, cells, strict=True):
        last = inputs[row, -1, 0]
        assert curve_of(axes, "input").get_xydata() == pytest.approx(np.c_[np.arange(30), inputs[row, :, 0]])
        for role, series in (("target", targets), ("prediction", forecasts[loss])):
            expected = np.c_[np.arange(29, 50), np.append(last, series[row, :, 0])]
            assert curve_of(axes, role).get_xydata() == pytest.approx(expected)


def test_columns_are_headed_by_the_losses_in_the_given_order_and_rows_by_the_samples(rng):
    inputs, targets, forecasts = forecast_task(rng, samples=2, losses=("dilate", "my_loss", "soft-DTW", "mse"))
    panels = panels_of(plots._forecast_figure(inputs, targets, forecasts, [4, 7]))
    assert [axes.texts[0].get_text() for axes in panels[:4]] == ["DILATE", "my_loss", "soft-DTW", "MSE"]
    assert [axes.get_ylabel() for axes in panels[::4]] == ["test sample 4", "test sample 7"]


def test_titles_hold_the_metrics_of_the_sample_over_all_variables(rng):
    inputs, targets, forecasts = forecast_task(rng, samples=2, variables=3, losses=("mse", "dilate"))
    panels = panels_of(plots._forecast_figure(inputs, targets, forecasts, [0, 1]))
    cells = [(row, loss) for row in range(2) for loss in forecasts]
    for axes, (row, loss) in zip(panels, cells, strict=True):
        expected = tslearn_scores(forecasts[loss][row], targets[row])
        assert numbers_in(axes.get_title()) == pytest.approx(expected, rel=6e-3)


def test_each_sample_may_have_a_name_of_its_own(rng, tmp_path):
    inputs, targets, forecasts = forecast_task(rng, samples=7, variables=1)
    figure = plots._forecast_figure(inputs[:2], targets[:2], {"mse": forecasts["mse"][:2]}, [4, 7], 0, ["a", "b"])
    assert [axes.get_ylabel() for axes in panels_of(figure)] == ["test sample 4\na", "test sample 7\nb"]
    mse, names = {"mse": forecasts["mse"]}, [f"shop {number}" for number in range(7)]
    assert len(plots.plot_forecasts(inputs, targets, mse, tmp_path / "a.png", range(7), name=names)) == 2
    with pytest.raises(ValueError, match="one for each of the 7 samples, not 6 names"):
        plots.plot_forecasts(inputs, targets, mse, tmp_path / "a.png", range(7), name=names[:6])


def test_panels_of_long_names_that_begin_alike_are_told_apart(rng):
    load, panels = "Global_active_power_of_all_rooms", [f"household_electricity_meter_{n}" for n in (101, 102)]
    inputs, targets, forecasts = forecast_task(rng, samples=2, variables=1)
    names, shown = [[load, series] for series in panels], ["household_e…ty_meter_101", "household_e…ty_meter_102"]
    figure = plots._forecast_figure(inputs, targets, forecasts, [0, 1], 0, names)
    labels = [axes.get_ylabel() for axes in panels_of(figure) if axes.get_ylabel()]
    assert labels == [f"test sample {row}\nGlobal_acti…of_all_rooms\n{of}" for row, of in enumerate(shown)]
    curves = [(name, (np.zeros(4), {"mse": np.zeros(2)}, None)) for name in ((load, panels[0]), (load, panels[1]))]
    labels = [axes.get_ylabel() for axes in plots._future_figure(curves).axes]
    assert labels == [f"Global_acti…of_all_rooms\n{of}" for of in shown]


def test_the_title_of_an_alignment_of_long_names_fits(rng, tmp_path, monkeypatch):
    series, drawn = rng.normal(size=(20, 1)), []
    monkeypatch.setattr(plots, "_write", lambda figure, path: drawn.append(figure) or path)
    names = ["GLOBAL_ACTIVE_POWER_KILOWATT", "HOUSEHOLD_ELECTRICITY_METER_101"]
    plot_alignment(series, series, 0.1, tmp_path / "a.png", title="soft-DTW, test sample 12345", name=names)
    assert_nothing_overlaps(*drawn)
    title, width = drawn[0]._suptitle.get_window_extent(), drawn[0].get_window_extent().width
    assert 0 < title.x0 < title.x1 < width


@pytest.mark.parametrize("time", ["11:00", "11:00:00", "11:00+01:00", "11:00:00+01:00", "11:00:00.000025+01:00"])
def test_times_below_panels_do_not_overlap(rng, time):
    inputs, targets, forecasts = forecast_task(rng, samples=2, losses=("mse", "soft_dtw", "dilate"))
    times = [[f"2026-01-01 {time}"] * (inputs.shape[1] + targets.shape[1])] * 2
    with plots._house_style():
        figure = plots._forecast_figure(inputs, targets, forecasts, [0, 1], times=times)
        assert_nothing_overlaps(figure)
        for axes in panels_of(figure):
            texts = [text for text in axes.get_xticklabels() if text.get_text()]
            boxes = sorted((text.get_window_extent() for text in texts), key=lambda box: box.x0)
            assert len(boxes) >= 2
            assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_times_below_a_panel_are_written_whole():
    times = [f"2026-01-01 11:{minute:02d}:00.025+01:00" for minute in range(12)]
    (axes,) = plots._future_figure([("load", (np.zeros(8), {"mse": np.zeros(4)}, times))]).axes
    axes.figure.draw_without_rendering()
    stamps = [text.get_text() for text in axes.get_xticklabels() if text.get_text()]
    assert stamps
    assert {stamp.replace("\n", " ") for stamp in stamps} <= {*times}


@pytest.mark.parametrize("variable", [0, 1, 2])
def test_the_variable_that_is_asked_for_is_drawn_and_named(rng, variable):
    inputs, targets, forecasts = forecast_task(rng, samples=2, variables=3)
    figure = plots._forecast_figure(inputs, targets, forecasts, [4, 7], variable, "price in $")
    for number, axes in enumerate(panels_of(figure)):
        row = number // len(forecasts)
        assert curve_of(axes, "input").get_ydata() == pytest.approx(inputs[row, :, variable])
        future = np.append(inputs[row, -1, variable], targets[row, :, variable])
        assert curve_of(axes, "target").get_ydata() == pytest.approx(future)
    lines = ["test sample 4", r"price in \$", f"variable {variable + 1} of 3"]
    assert panels_of(figure)[0].get_ylabel().split("\n") == lines
    target, prediction = targets[0], forecasts["mse"][0]
    _, above, beside, *_ = plots._alignment_figure(target, prediction, 0.1, "", variable).axes
    assert above.lines[0].get_ydata() == pytest.approx(target[:, variable])
    assert beside.lines[0].get_xdata() == pytest.approx(prediction[:, variable])
    assert f"variable {variable + 1} of 3" in above.get_ylabel()
    assert f"variable {variable + 1} of 3" in beside.get_title()


def test_margins_of_an_alignment_are_drawn_in_units_and_its_path_is_that_of_the_given_series(rng):
    _, targets, forecasts = forecast_task(rng, samples=1, variables=2, losses=("mse",))
    series = targets[0], forecasts["mse"][0], 0.1, ""
    figures = [plots._alignment_figure(*series, 1, *units).axes for units in ((), (5000, 300))]
    (plain, above, beside, *_), (picture, above_in_units, beside_in_units, *_) = figures
    assert (picture.images[0].get_array() == plain.images[0].get_array()).all()
    assert above_in_units.lines[0].get_ydata() == pytest.approx(300 * above.lines[0].get_ydata() + 5000)
    assert beside_in_units.lines[0].get_xdata() == pytest.approx(300 * beside.lines[0].get_xdata() + 5000)


def written_below(axes):
    """Position and text of the labels of the time axis."""
    axes.figure.canvas.draw()
    return {round(tick.get_position()[0]): tick.get_text() for tick in axes.get_xticklabels() if tick.get_text()}


def test_times_stand_below_the_steps_of_their_window(rng):
    inputs, targets, forecasts = forecast_task(rng, samples=2, n_input=30, n_output=20)
    times = [[f"day{sample} {step}:00" for step in range(50)] for sample in range(2)]
    figure = plots._forecast_figure(inputs, targets, forecasts, [4, 7], times=times)
    for number, axes in enumerate(panels_of(figure)):
        labels = written_below(axes)
        assert len(labels) > 2
        row = number // len(forecasts)
        assert labels == {step: f"day{row}\n{step}:00" for step in labels}


@pytest.mark.parametrize(("hours", "labels"), [(1, ["2025-03-02", "2025-03-03", "2025-03-04"]), (24, None)])
def test_days_are_labelled_where_the_view_shows_some(rng, hours, labels):
    times = [str(np.datetime64("2025-03-01T20:00") + np.timedelta64(hours * step, "h")) for step in range(72)]
    times = [time.replace("T", " ").replace("20:00", "00:00" if hours == 24 else "20:00") for time in times]
    inputs, targets, forecasts = forecast_task(rng, samples=1, n_input=48, n_output=24)
    axes = panels_of(plots._forecast_figure(inputs, targets, forecasts, [0], times=[times]))[0]
    found = written_below(axes)
    if labels:
        assert [*found.values()] == [f"{day}\n00:00" for day in labels]
    assert all(times[step].startswith(text.split("\n")[0]) for step, text in found.items())
    assert 2 < len(found) < 7


@pytest.mark.parametrize("with_times", [True, False])
def test_forecasts_beyond_the_data_go_on_from_the_past(rng, tmp_path, with_times):
    past, forecasts = rng.normal(size=30), {loss: rng.normal(size=10) for loss in ("mse", "dilate")}
    times = [f"hour {step}" for step in range(40)] if with_times else None
    figure = plots._future_figure([("load in $", (past, forecasts, times)), ("wind", (past + 1, forecasts, times))])
    for level, axes in enumerate(figure.axes):
        assert curve_of(axes, "observed").get_ydata() == pytest.approx(past + level)
        for loss, label in (("mse", "MSE"), ("dilate", "DILATE")):
            steps = np.arange(11) + (29 if with_times else 0)
            expected = np.c_[steps, np.append(past[-1] + level, forecasts[loss])]
            assert curve_of(axes, label).get_xydata() == pytest.approx(expected)
        if with_times:
            labels = written_below(axes)
            assert labels == {step: f"hour\n{step}" for step in labels}
    assert figure.axes[0].get_ylabel() == r"load in \$"
    curves = {str(number): (past, forecasts, times) for number in range(7)}
    written = plot_future(curves, tmp_path / "new" / "f.png")
    assert [path.name for path in written] == ["f.png", "f-2.png"]
    for path in written:
        assert_picture(path)
    with pytest.raises(ValueError, match="curves must hold at least one variable"):
        plot_future({}, tmp_path / "f.png")


def test_learning_curves_show_the_validation_part_where_there_is_one_and_the_epoch_that_was_kept():
    losses = {0: 3.0, 1: 1.0, 2: 2.0}
    history = [
        {"loss": "dilate", "epoch": epoch, "valid_loss": value, "mse": value, "dtw": 1.0, "tdi": 1.0}
        for epoch, value in losses.items()
    ]
    *_, axes = panels_of(plots._learning_curve_figure(history))
    assert axes.get_title() == "validation loss"
    line, ring = axes.lines
    assert line.get_xydata() == pytest.approx(np.array([*losses.items()]))
    assert ring.get_xydata() == pytest.approx(np.array([[1, 1.0]]))
    for record in history:
        del record["valid_loss"]
    assert len(panels_of(plots._learning_curve_figure(history))) == 3


@pytest.mark.parametrize("name", ["$x$", "$\\nonsense", "a\n b", "very " * 20, "", "_^{}"])
def test_any_name_of_a_variable_can_be_drawn(rng, tmp_path, name):
    inputs, targets, forecasts = forecast_task(rng, samples=1, losses=("mse",))
    assert_picture(plot_forecasts(inputs, targets, forecasts, tmp_path / "f.png", [0], name=name)[0])
    assert_picture(plot_alignment(targets[0], targets[0], 0.1, tmp_path / "a.png", name=name))
    with plots._house_style():
        assert_nothing_overlaps(plots._forecast_figure(inputs, targets, forecasts, [0], 0, name))


def test_of_several_variables_the_first_is_drawn_and_said(rng):
    inputs, targets, forecasts = forecast_task(rng, samples=1, variables=3, losses=("dilate",))
    (axes,) = panels_of(plots._forecast_figure(inputs, targets, forecasts, [0]))
    assert curve_of(axes, "target").get_ydata()[1:] == pytest.approx(targets[0, :, 0])
    assert "variable 1 of 3" in axes.get_ylabel()


def test_of_a_long_input_the_last_two_horizons_are_drawn_at_their_steps(rng):
    inputs, targets, forecasts = forecast_task(rng, samples=1, n_input=168, n_output=24, losses=("dilate",))
    (axes,) = panels_of(plots._forecast_figure(inputs, targets, forecasts, [0]))
    expected = np.c_[np.arange(120, 168), inputs[0, 120:, 0]]
    assert curve_of(axes, "input").get_xydata() == pytest.approx(expected)
    assert curve_of(axes, "target").get_xdata() == pytest.approx(np.arange(167, 192))


def test_roles_keep_their_colours_and_the_legend_comes_once(rng):
    inputs, targets, forecasts = forecast_task(rng, samples=2)
    figure = plots._forecast_figure(inputs, targets, forecasts, [0, 1])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["input", "target", "prediction"]
    assert all(axes.get_legend() is None for axes in figure.axes)
    for role, colour in plots.ROLE_COLOURS.items():
        assert all(same_color(curve_of(axes, role).get_color(), colour) for axes in panels_of(figure))


def test_lines_get_finer_where_steps_crowd_together(rng):
    widths = []
    for n_input, n_output in ((20, 20), (84, 56), (400, 400)):
        inputs, targets, forecasts = forecast_task(rng, 1, n_input, n_output, losses=("mse",))
        (axes,) = panels_of(plots._forecast_figure(inputs, targets, forecasts, [0]))
        widths.append(curve_of(axes, "target").get_linewidth())
    assert widths[0] == 3
    assert widths[0] > widths[1] > widths[2] >= 1


def test_chosen_samples_are_those_drawn(rng, tmp_path):
    inputs, targets, forecasts = forecast_task(rng, samples=6, losses=("mse",))
    chosen = [5, 2]
    picked = {"mse": forecasts["mse"][chosen]}
    with plots._house_style():
        figure = plots._forecast_figure(inputs[chosen], targets[chosen], picked, chosen)
        plots._write(figure, tmp_path / "expected.png")
    (written,) = plot_forecasts(inputs, targets, forecasts, tmp_path / "f.png", chosen)
    assert written.read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_more_than_five_samples_go_to_further_files(rng, tmp_path):
    inputs, targets, forecasts = forecast_task(rng, samples=7, losses=("mse",))
    written = plot_forecasts(inputs, targets, forecasts, tmp_path / "f.png", range(7))
    assert [path.name for path in written] == ["f.png", "f-2.png"]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    heights = [mpl_image.imread(path).shape[0] for path in written]
    assert heights[0] - heights[1] == pytest.approx(3 * 2.1 * plots.DPI, abs=2)


def test_tensors_that_require_a_gradient_give_the_same_picture_as_arrays(rng, tmp_path):
    inputs, targets, forecasts = forecast_task(rng, losses=("dilate",))
    inputs, targets, forecast = (x.astype(np.float32) for x in (inputs, targets, forecasts["dilate"]))
    of_arrays = plot_forecasts(inputs, targets, {"dilate": forecast}, tmp_path / "a.png", [1])
    tensors = {"dilate": torch.tensor(forecast, requires_grad=True)}
    of_tensors = plot_forecasts(torch.tensor(inputs), torch.tensor(targets), tensors, tmp_path / "t.png", [1])
    assert of_arrays[0].read_bytes() == of_tensors[0].read_bytes()


def test_a_diverged_forecast_is_drawn_as_far_as_it_is_finite(rng, tmp_path):
    inputs, targets, forecasts = forecast_task(rng, samples=1, losses=("mse", "dilate"))
    forecasts["mse"][0, 5:] = np.nan
    forecasts["dilate"][0, 5:] = np.inf
    assert_picture(plot_forecasts(inputs, targets, forecasts, tmp_path / "f.png", [0])[0])
    for axes in panels_of(plots._forecast_figure(inputs, targets, forecasts, [0])):
        assert np.isnan(numbers_in(axes.get_title())[1:]).all()
        assert np.isfinite(axes.get_ylim()).all()


def holed(rng, length):
    """A series in which values alone, pairs and none are finite, and the steps of those alone."""
    finite = rng.random(length) < 0.5
    series = np.where(finite, rng.normal(size=length), np.nan)
    beside = [False, *finite, False]
    return series, {step for step in range(length) if finite[step] and not (beside[step] or beside[step + 2])}


@pytest.mark.parametrize("seed", range(5))
def test_a_finite_value_between_others_that_are_not_is_marked(seed):
    rng = np.random.default_rng(seed)
    series, alone = holed(rng, 30)
    other = np.full(10, np.nan)
    (axes,) = plots._future_figure([("y", (series, {"mse": other}, None))]).axes
    assert marks_on(axes) == {(step - 29, series[step]) for step in alone}
    inputs, targets = series[None, :20, None], series[None, 20:, None]
    (axes,) = panels_of(plots._forecast_figure(inputs, targets, {"mse": other[None, :, None]}, [0]))
    assert marks_on(axes) - {(19, series[19])} == {(step, series[step]) for step in alone if step != 19}
    _, _, above, beside = alignment_axes(series[:, None], series[:, None])
    assert marks_on(above) == {(step, series[step]) for step in alone}
    assert marks_on(beside) == {(series[step], step) for step in alone}


@pytest.mark.parametrize("hidden", [[0], [3, 4], [28, 29], range(30)])
def test_what_is_masked_is_not_drawn_as_going_on(tmp_path, monkeypatch, hidden):
    drawn, past = [], np.ma.array(np.arange(30.0), mask=np.isin(np.arange(30), hidden))
    forecast = np.ma.array(np.arange(30.0, 40.0), mask=np.arange(10) == 4)
    monkeypatch.setattr(
        plots, "_future_figure", lambda panels, draw=plots._future_figure: drawn.extend(panels) or draw(panels)
    )
    plot_future({("y", None): (past, {"mse": forecast}, None)}, tmp_path / "f.png")
    ((name, (values, forecasts, _)),) = drawn
    assert name == ("y", None)
    assert np.flatnonzero(np.isnan(values)).tolist() == list(hidden)
    assert np.flatnonzero(np.isnan(forecasts["mse"])).tolist() == [4]


@pytest.mark.parametrize(("n_input", "n_output", "samples"), [(20, 20, 5), (84, 56, 1), (168, 24, 2)])
def test_nothing_overlaps_in_a_figure_of_forecasts(rng, n_input, n_output, samples):
    inputs, targets, forecasts = forecast_task(rng, samples, n_input, n_output, variables=2)
    with plots._house_style():
        figure = plots._forecast_figure(inputs * 1e4, targets, forecasts, range(4499, 4499 - samples, -1))
        assert_nothing_overlaps(figure)


def assert_nothing_overlaps(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    boxes += [artist.get_window_extent(renderer) for artist in (*figure.legends, *figure.texts)]
    for k, box in enumerate(boxes):
        # A pixel of play: boxes are exact, glyphs rounded.
        assert all(not box.padded(-1).overlaps(other.padded(-1)) for other in boxes[k + 1 :])
        assert figure.bbox.padded(1).contains(box.x0, box.y0)
        assert figure.bbox.padded(1).contains(box.x1, box.y1)


def test_one_step_in_and_one_step_out_can_be_drawn(rng, tmp_path):
    inputs, targets, forecasts = forecast_task(rng, n_input=1, n_output=1)
    assert_picture(plot_forecasts(inputs, targets, forecasts, tmp_path / "f.png", [0])[0])


# Learning curves


def test_learning_curves_are_written_as_a_png(tmp_path):
    assert plot_learning_curves(history_of(), tmp_path / "c.png") == tmp_path / "c.png"
    assert_picture(tmp_path / "c.png")


def test_each_metric_has_a_panel_with_the_values_of_each_loss():
    history = history_of()
    panels = panels_of(plots._learning_curve_figure(history))
    assert [axes.get_title() for axes in panels] == ["MSE", "DTW", "TDI"]
    for axes, metric in zip(panels, ("mse", "dtw", "tdi"), strict=True):
        for loss, label in (("mse", "MSE"), ("soft_dtw", "soft-DTW"), ("dilate", "DILATE")):
            expected = [(r["epoch"], r[metric]) for r in history if r["loss"] == loss]
            assert curve_of(axes, label).get_xydata() == pytest.approx(np.array(expected))


def test_a_loss_keeps_its_colour_whatever_else_was_trained():
    all_of_them = panels_of(plots._learning_curve_figure(history_of()))[0]
    alone = panels_of(plots._learning_curve_figure(history_of(["dilate"])))[0]
    assert curve_of(alone, "DILATE").get_color() == curve_of(all_of_them, "DILATE").get_color()
    assert len({line.get_color() for line in all_of_them.lines}) == 3


def test_losses_without_a_name_of_ours_get_colours_of_their_own():
    losses = ["mse", "soft_dtw", "dilate", "huber", "tangled", "band"]
    axes = panels_of(plots._learning_curve_figure(history_of(losses)))[0]
    assert len({line.get_color() for line in axes.lines}) == len(losses)
    assert [line.get_label() for line in axes.lines][3:] == ["huber", "tangled", "band"]


def test_a_line_breaks_where_a_value_is_not_finite_and_leaves_out_absent_ones():
    history = history_of(["dilate"], epochs=[0, 50, 100, 150, 200])
    history[1]["mse"] = float("nan")
    history[2]["mse"] = None
    del history[3]["mse"]
    mse, dtw, _ = panels_of(plots._learning_curve_figure(history))
    assert list(curve_of(mse, "DILATE").get_xdata()) == [0, 50, 100, 200]
    assert np.isnan(curve_of(mse, "DILATE").get_ydata()).tolist() == [False, True, True, False]
    assert marks_on(mse) == {(0, history[0]["mse"]), (200, history[4]["mse"])}
    assert list(curve_of(dtw, "DILATE").get_xdata()) == [0, 50, 100, 150, 200]


def test_records_are_put_in_the_order_of_epochs_and_the_later_of_two_counts():
    history = history_of(["dilate"], epochs=[100, 0, 50, 100])
    history[-1]["tdi"] = 42.0
    tdi = panels_of(plots._learning_curve_figure(history))[2]
    assert curve_of(tdi, "DILATE").get_xydata() == pytest.approx(np.array([[0, 0], [50, 0.5], [100, 42]]))


def test_a_single_evaluation_is_visible_as_a_marker(tmp_path):
    axes = panels_of(plots._learning_curve_figure(history_of(epochs=[499])))[0]
    line = curve_of(axes, "DILATE")
    assert line.get_marker() not in ("", "None")
    assert line.get_markersize() > 0
    assert_picture(plot_learning_curves(history_of(epochs=[499]), tmp_path / "c.png"))


def test_many_evaluations_are_drawn_without_markers():
    axes = panels_of(plots._learning_curve_figure(history_of(epochs=range(200))))[0]
    assert {line.get_markersize() for line in axes.lines} == {0}


def scales_of(history):
    return [axes.get_yscale() for axes in panels_of(plots._learning_curve_figure(history))]


def test_errors_that_fall_far_are_on_a_logarithmic_axis_unless_one_is_zero():
    history = history_of(["dilate"])
    assert scales_of(history) == ["log", "log", "linear"]
    history[0]["mse"] = 0.0
    assert scales_of(history) == ["linear", "log", "linear"]
    assert scales_of(history_of(["dilate"], epochs=[499])) == ["linear"] * 3


@pytest.mark.parametrize("span", [1, 1.05, 1.5, 3, 6, 19, 21, 900, 1e5, 1e12])
def test_the_axis_of_an_error_has_between_three_and_ten_labels_whatever_it_spans(span):
    history = [{"loss": "dilate", "epoch": k, "mse": 0.013 * span**k} for k in (0, 1)]
    axes = panels_of(plots._learning_curve_figure(history))[0]
    axes.figure.draw_without_rendering()
    low, high = axes.get_ylim()
    labels = [label.get_text() for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert 3 <= len(labels) <= 10
    assert len(set(labels)) == len(labels)


def test_a_metric_without_any_finite_value_says_so(tmp_path):
    history = [{"loss": "dilate", "epoch": 0, "mse": 1.0, "dtw": float("inf")}]
    mse, dtw, tdi = panels_of(plots._learning_curve_figure(history))
    assert [text.get_text() for text in dtw.texts + tdi.texts] == ["no finite value"] * 2
    assert not mse.texts
    assert_picture(plot_learning_curves(history, tmp_path / "c.png"))


@pytest.mark.parametrize("epochs", [[499], range(0, 500, 50), range(500)], ids=len)
def test_nothing_overlaps_in_the_learning_curves(epochs):
    with plots._house_style():
        assert_nothing_overlaps(plots._learning_curve_figure(history_of(epochs=epochs)))


# Alignment


def alignment_axes(target, prediction, gamma=1e-7, title=""):
    figure = plots._alignment_figure(target, prediction, gamma, title)
    return figure, *figure.axes[:3]


@pytest.mark.parametrize("steps", [20, 300])
def test_the_alignment_is_written_as_a_png(rng, tmp_path, steps):
    series = rng.normal(size=(2, steps, 1))
    path = plot_alignment(series[0], series[1], 0.01, tmp_path / "a.png", title="a sample")
    assert path == tmp_path / "a.png"
    assert_picture(path)


@pytest.mark.parametrize("variables", [1, 3])
def test_at_a_small_gamma_the_picture_is_the_best_path(rng, variables):
    from tslearn.metrics import dtw_path

    target, prediction = rng.normal(size=(24, variables)), rng.normal(size=(18, variables))
    expected = np.zeros((18, 24))
    expected[tuple(np.transpose(dtw_path(prediction, target)[0]))] = 1
    _, picture, _, _ = alignment_axes(target, prediction)
    assert np.asarray(picture.images[0].get_array()) == pytest.approx(expected, abs=1e-6)
    assert picture.images[0].get_extent() == [-0.5, 23.5, -0.5, 17.5]
    assert picture.images[0].origin == "lower"


def test_weight_above_the_diagonal_means_a_late_prediction():
    def step(at):
        return (np.arange(20)[:, None] >= at).astype(float)

    _, picture, _, _ = alignment_axes(target=step(5), prediction=step(9))
    weights = np.asarray(picture.images[0].get_array())
    assert weights[9, 5] == pytest.approx(1)
    assert np.tril(weights, -1).sum() > 1
    assert "target" in picture.get_xlabel()


def test_the_margins_show_both_series_on_the_steps_of_the_picture(rng):
    target, prediction = rng.normal(size=(20, 2)), 3 * rng.normal(size=(20, 2))
    _, picture, above, beside = alignment_axes(target, prediction)
    assert above.lines[0].get_xydata() == pytest.approx(np.c_[np.arange(20), target[:, 0]])
    assert beside.lines[0].get_xydata() == pytest.approx(np.c_[prediction[:, 0], np.arange(20)])
    assert above.get_xlim() == picture.get_xlim() == (-0.5, 19.5)
    assert beside.get_ylim() == picture.get_ylim() == (-0.5, 19.5)
    assert beside.get_xlim() == above.get_ylim()
    assert "variable 1 of 2" in above.get_ylabel()
    assert "variable 1 of 2" in beside.get_title()
    assert "prediction step" in beside.get_ylabel()
    assert same_color(above.lines[0].get_color(), plots.ROLE_COLOURS["target"])
    assert same_color(beside.lines[0].get_color(), plots.ROLE_COLOURS["prediction"])


def test_the_diagonal_runs_from_corner_to_corner(rng):
    _, picture, _, _ = alignment_axes(rng.normal(size=(24, 1)), rng.normal(size=(18, 1)))
    assert picture.lines[0].get_xydata().tolist() == [[0, 0], [23, 17]]


def test_the_title_stands_above_the_line_that_names_gamma(rng):
    series = rng.normal(size=(10, 1))
    figure, *_ = alignment_axes(series, series, gamma=0.25, title="DILATE, sample 3")
    first, second = figure.get_suptitle().split("\n")
    assert first == "DILATE, sample 3"
    assert second.endswith("= 0.25")
    untitled, *_ = alignment_axes(series, series, gamma=0.25)
    assert untitled.get_suptitle() == second


def test_a_series_that_is_not_finite_has_no_alignment_but_a_picture(rng, tmp_path):
    target, prediction = rng.normal(size=(2, 20, 1))
    prediction[3] = np.nan
    _, picture, _, _ = alignment_axes(target, prediction)
    assert not picture.images
    assert "not finite" in picture.texts[0].get_text()
    assert_picture(plot_alignment(target, prediction, 0.01, tmp_path / "a.png"))


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), most=st.integers(1, 45), seed=st.integers(0, 9))
def test_a_large_alignment_keeps_the_largest_weight_of_each_block(rows, columns, most, seed):
    weights = np.random.default_rng(seed).random((rows, columns))
    blocks, (left, right, bottom, top) = plots.pooled(weights, most)
    assert max(blocks.shape) <= most
    height, width = (top - bottom) / blocks.shape[0], (right - left) / blocks.shape[1]
    assert (height, width) == (-(-rows // most), -(-columns // most))
    expected = np.zeros_like(blocks)
    for h in range(rows):
        for j in range(columns):
            cell = int(h // height), int(j // width)
            expected[cell] = max(expected[cell], weights[h, j])
    assert np.array_equal(blocks, expected)
    if max(rows, columns) <= most:
        assert np.array_equal(blocks, weights)


@pytest.mark.parametrize("scale", [1e-3, 1, 1e5])
def test_nothing_overlaps_around_the_alignment(rng, scale):
    target, prediction = scale * rng.normal(size=(2, 56, 3))
    with plots._house_style():
        figure = plots._alignment_figure(target, prediction, 0.01, "DILATE, test sample 4499")
        assert_nothing_overlaps(figure)


# CTC


def ctc_task(rng, steps=40, classes=6, labels=(1, 4, 4, 2)):
    logits = torch.from_numpy(rng.normal(size=(steps, classes)))
    return (3 * logits).log_softmax(-1), torch.tensor(labels)


def ctc_axes(log_probs, target, blank=0, names=None, title=""):
    names = plots._class_names(names, log_probs.shape[1], blank)
    figure = plots._ctc_figure(log_probs, target, blank, names, title)
    return figure, *figure.axes[:2]


@pytest.mark.parametrize(("steps", "labels"), [(40, 4), (600, 60)])
def test_the_ctc_alignment_is_written_as_a_png(rng, tmp_path, steps, labels):
    log_probs, target = ctc_task(rng, steps, labels=rng.integers(1, 6, labels))
    for kind in (lambda a: a, lambda a: a.tolist(), lambda a: a.numpy()):
        path = plot_ctc_alignment(kind(log_probs), kind(target), tmp_path / "ctc.png", title="a sample")
        assert path == tmp_path / "ctc.png"
        assert_picture(path)


def test_the_picture_is_the_posterior_with_a_row_for_each_state(rng):
    log_probs, target = ctc_task(rng)
    _, _, picture = ctc_axes(log_probs, target)
    posterior = ctc_alignment(log_probs, target, 40, 4)
    assert np.asarray(picture.images[0].get_array()) == pytest.approx(posterior.T.numpy())
    assert picture.images[0].get_extent() == [-0.5, 39.5, -0.5, 8.5]
    assert picture.images[0].origin == "lower"
    assert [text.get_text() for text in picture.get_yticklabels()] == [*"–1–4–4–2–"]


def test_the_panel_above_shows_the_probabilities_in_the_colours_of_the_states(rng):
    log_probs, target = ctc_task(rng)
    _, above, picture = ctc_axes(log_probs, target, blank=3, names="abcdef")
    curves = {line.get_color(): line.get_xydata() for line in above.lines}
    assert len(curves) == len(above.lines) == 4
    labels = picture.get_yticklabels()
    assert [text.get_text() for text in labels] == [*"dbdededcd"]
    for text in labels:
        k = "abcdef".index(text.get_text())
        assert curves[text.get_color()] == pytest.approx(np.c_[np.arange(40), log_probs[:, k].exp()])
    assert above.get_xlim() == picture.get_xlim() == (-0.5, 39.5)


def test_the_title_stands_above_the_line_with_the_loss(rng):
    log_probs, target = ctc_task(rng)
    figure, *_ = ctc_axes(log_probs, target, title="step 10")
    first, second = figure.get_suptitle().split("\n")
    assert first == "step 10"
    loss = ctc_loss(log_probs, target, 40, 4, reduction="sum").item()
    assert float(second.split("=")[1]) == pytest.approx(loss, rel=1e-3)
    assert ctc_axes(log_probs, target)[0].get_suptitle() == second


def test_the_states_of_a_long_target_are_numbered(rng):
    log_probs, target = ctc_task(rng, 100, labels=rng.integers(1, 6, 30))
    _, _, picture = ctc_axes(log_probs, target)
    picture.figure.draw_without_rendering()
    assert picture.get_ylim() == (-0.5, 60.5)
    assert [text.get_text() for text in picture.get_yticklabels()][1:-1] == ["0", "10", "20", "30", "40", "50", "60"]


@pytest.mark.parametrize("labels", [[1] * 21, [1, 2]], ids=["too long", "NaN"])
def test_a_target_without_alignment_has_a_picture_all_the_same(rng, tmp_path, labels):
    log_probs, target = ctc_task(rng, labels=labels)
    log_probs[3, 2] = np.nan
    _, _, picture = ctc_axes(log_probs, target)
    assert not picture.images
    assert "no alignment" in picture.texts[0].get_text()
    assert_picture(plot_ctc_alignment(log_probs, target, tmp_path / "ctc.png"))


def test_an_empty_target_can_be_drawn(rng, tmp_path):
    log_probs, _ = ctc_task(rng)
    assert_picture(plot_ctc_alignment(log_probs, [], tmp_path / "ctc.png"))


@pytest.mark.parametrize("labels", [3, 20])
def test_nothing_overlaps_around_the_ctc_alignment(rng, labels):
    log_probs, target = ctc_task(rng, 90, labels=rng.integers(1, 6, labels))
    with plots._house_style():
        assert_nothing_overlaps(ctc_axes(log_probs, target, title="step 4499")[0])


# On screen


@pytest.fixture
def draw_everything(rng, tmp_path):
    inputs, targets, forecasts = forecast_task(rng, samples=6, losses=("dilate",))

    def draw(show):
        plot_forecasts(inputs, targets, forecasts, tmp_path / "f.png", range(6), show=show)
        plot_learning_curves(history_of(["dilate"]), tmp_path / "c.png", show=show)
        plot_alignment(targets[0], forecasts["dilate"][0], 0.01, tmp_path / "a.png", show=show)
        plot_ctc_alignment(*ctc_task(rng), tmp_path / "ctc.png", show=show)

    return draw


def test_without_a_display_nothing_is_shown(draw_everything, monkeypatch, tmp_path):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("plt.show was called without a display"))
    monkeypatch.setattr(plots, "show_available", lambda: False)
    draw_everything(show=True)
    assert len(list(tmp_path.glob("*.png"))) == 5


def test_with_a_display_nothing_is_shown_unless_asked_for(draw_everything, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("plt.show was called unasked"))
    monkeypatch.setattr(plots, "show_available", lambda: True)
    draw_everything(show=False)


def test_with_a_display_each_figure_is_shown_once_after_it_was_written(draw_everything, monkeypatch, tmp_path):
    seen = []

    def show():
        seen.append((len(plt.get_fignums()), len(list(tmp_path.glob("*.png")))))

    monkeypatch.setattr(plt, "show", show)
    monkeypatch.setattr(plots, "show_available", lambda: True)
    draw_everything(show=True)
    assert seen == [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]
    assert plt.get_fignums() == []


def test_a_window_that_fails_leaves_no_figure_open_and_the_file_written(monkeypatch, tmp_path):
    def show():
        raise RuntimeError("no window")

    monkeypatch.setattr(plt, "show", show)
    monkeypatch.setattr(plots, "show_available", lambda: True)
    with pytest.raises(RuntimeError, match="no window"):
        plot_learning_curves(history_of(), tmp_path / "c.png", show=True)
    assert plt.get_fignums() == []
    assert_picture(tmp_path / "c.png")


def test_figures_are_freed_once_written(monkeypatch, tmp_path):
    written, savefig = [], Figure.savefig

    def save_and_remember(figure, *args, **options):
        written.append(weakref.ref(figure))
        savefig(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", save_and_remember)
    for _ in range(2):
        plot_learning_curves(history_of(), tmp_path / "c.png")
    gc.collect()
    assert len(written) == 2
    assert all(figure() is None for figure in written)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("backend", "platform", "display", "available"),
    [
        ("agg", "linux", ":0", False),
        ("pdf", "darwin", None, False),
        ("tkagg", "linux", None, False),
        ("tkagg", "linux", "", False),
        ("tkagg", "linux", ":0", True),
        ("qtagg", "linux", ":0", True),
        ("tkagg", "win32", None, True),
        ("macosx", "darwin", None, True),
    ],
)
def test_showing_needs_a_backend_with_windows_and_a_display(monkeypatch, backend, platform, display, available):
    monkeypatch.setattr(matplotlib, "get_backend", lambda: backend)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if display is None:
        monkeypatch.delenv("DISPLAY", raising=False)
    else:
        monkeypatch.setenv("DISPLAY", display)
    assert show_available() is available


def test_importing_and_drawing_select_no_backend(tmp_path):
    program = (
        "import sys, matplotlib\nfrom evaluation import plots\n"
        f"plots.plot_learning_curves([dict(loss='mse', epoch=0, mse=1)], {str(tmp_path / 'c.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.get_backend(auto_select=False) is None\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_users_matplotlib_settings_neither_change_the_figure_nor_are_changed(tmp_path):
    plain = plot_learning_curves(history_of(), tmp_path / "plain.png").read_bytes()
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "savefig.dpi": 30}):
        assert plot_learning_curves(history_of(), tmp_path / "dark.png").read_bytes() == plain
        assert matplotlib.rcParams["font.size"] == 30


# Bad input and files


def call_forecasts(tmp_path, **changes):
    inputs, targets, forecasts = forecast_task(np.random.default_rng(0))
    arguments = {"inputs": inputs, "targets": targets, "forecasts": forecasts, "sample_ids": [0]}
    return plot_forecasts(path=tmp_path / "f.png", **(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"sample_ids": [0, 3]}, ValueError, "sample_ids must be .* from 0 to 2, but 3 is among them"),
        ({"sample_ids": [-1]}, ValueError, "from 0 to 2, but -1 is among them"),
        ({"sample_ids": []}, ValueError, r"sample_ids must be a list of one or more integers .* not \[\]"),
        ({"sample_ids": 1}, ValueError, "sample_ids must be a list .* not 1"),
        ({"sample_ids": [0.5]}, ValueError, r"sample_ids must be .* not \[0.5\]"),
        ({"sample_ids": [True]}, ValueError, r"sample_ids must be .* not \[True\]"),
        ({"forecasts": {}}, ValueError, "forecasts must hold .* but it is empty"),
        ({"forecasts": np.zeros((3, 20, 1))}, TypeError, "forecasts must map .* not be a ndarray"),
        (
            {"forecasts": {"mse": np.zeros((3, 19, 1))}},
            ValueError,
            r"forecasts\['mse'\] must be shaped like targets, \(3, 20, 1\), not \(3, 19, 1\)",
        ),
        ({"variable": 1}, ValueError, "variable must be a whole number from 0 to 0, not 1"),
        ({"variable": -1}, ValueError, "variable must be a whole number from 0 to 0, not -1"),
        ({"inputs": np.zeros((2, 20, 1))}, ValueError, "inputs and targets .* same samples, not 2 and 3"),
        (
            {"inputs": np.zeros((3, 20))},
            ValueError,
            r"inputs must be shaped \(S, N_input, input_size\), none of them 0, not \(3, 20\)",
        ),
        ({"targets": np.zeros((3, 0, 1))}, ValueError, r"targets must be shaped .* not \(3, 0, 1\)"),
        ({"targets": "abc"}, TypeError, "targets must be a regular array or tensor of numbers"),
        ({"targets": [[1], [2, 3]]}, TypeError, "targets must be a regular array or tensor of numbers"),
    ],
)
def test_bad_forecast_arguments_are_named_in_one_sentence(tmp_path, changes, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        call_forecasts(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        ([], "history must hold at least one evaluation, but it is empty"),
        (
            [{"epoch": 0, "mse": 1.0}],
            r"history\[0\] must have the key 'loss', but has only \['epoch', 'mse'\]",
        ),
        ([{"loss": "mse", "epoch": 0}, {"loss": "mse"}], r"history\[1\] must have the key 'epoch'"),
    ],
)
def test_a_bad_history_is_named_in_one_sentence(tmp_path, history, sentence):
    with pytest.raises(ValueError, match=sentence):
        plot_learning_curves(history, tmp_path / "c.png")


@pytest.mark.parametrize(
    ("target", "prediction", "gamma", "sentence"),
    [
        (
            np.zeros(20),
            np.zeros((20, 1)),
            0.01,
            r"target must be shaped \(M, d\), none of them 0, not \(20,\)",
        ),
        (np.zeros((20, 1)), np.zeros((1, 20, 1)), 0.01, r"prediction must be shaped \(N, d\)"),
        (np.zeros((20, 1)), np.zeros((20, 2)), 0.01, "same number of variables d, not 1 and 2"),
        (np.zeros((20, 1)), np.zeros((20, 1)), 0, "gamma must be .* 0"),
        (np.zeros((20, 1)), np.zeros((20, 1)), float("nan"), "gamma must be .* nan"),
    ],
)
def test_bad_alignment_arguments_are_named_in_one_sentence(tmp_path, target, prediction, gamma, sentence):
    with pytest.raises(ValueError, match=sentence):
        plot_alignment(target, prediction, gamma, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"log_probs": np.zeros((2, 5, 4))}, ValueError, r"log_probs must be shaped \(T, C\), none of them 0"),
        ({"log_probs": "abc"}, TypeError, "log_probs must be a regular array or tensor of numbers"),
        ({"target": [1, 4]}, ValueError, "targets must be classes from 0 to 3 other than the blank, 0, but 4"),
        ({"target": [[1, 2]]}, ValueError, r"target must be shaped \(L,\), not \(1, 2\)"),
        ({"target": [1.5]}, TypeError, "targets must be whole numbers"),
        ({"blank": 4}, ValueError, "blank must be a class from 0 to 3, but it is 4"),
        ({"names": "abc"}, ValueError, "names must be as many as the 4 classes of log_probs, but there are 3"),
    ],
)
def test_bad_arguments_of_a_ctc_alignment_are_named_in_one_sentence(tmp_path, changes, error, sentence):
    arguments = {"log_probs": np.zeros((5, 4)), "target": [1, 2], "path": tmp_path / "ctc.png"}
    with pytest.raises(error, match=sentence) as caught:
        plot_ctc_alignment(**(arguments | changes))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_missing_folders_are_made_and_a_missing_suffix_means_png(tmp_path):
    written = plot_learning_curves(history_of(), str(tmp_path / "runs" / "1" / "curves"))
    assert written == tmp_path / "runs" / "1" / "curves.png"
    assert_picture(written)


def test_the_suffix_chooses_the_format(tmp_path):
    assert plot_learning_curves(history_of(), tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")


def test_an_unknown_format_is_refused_with_those_that_are_known(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in one of .*\.png.*, but it is .*c\.docx"):
        plot_learning_curves(history_of(), tmp_path / "c.docx")


def test_a_path_below_a_file_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match=r"^Cannot write the figure .*c\.png: (Not a directory|File exists)\.$"):
        plot_learning_curves(history_of(), tmp_path / "file" / "c.png")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("name", ["", "folder.png"])
def test_a_folder_in_place_of_a_file_is_refused_in_one_sentence(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError, match=r"^Cannot write the figure .* it is a folder"):
        plot_learning_curves(history_of(), tmp_path / name)


def test_a_failed_write_is_one_sentence_and_keeps_the_figure_that_was_there(tmp_path, monkeypatch):
    path = plot_learning_curves(history_of(), tmp_path / "c.png")
    before = path.read_bytes()

    def run_out_of_space(self, file, **options):
        Path(file).write_bytes(b"half a figure")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", run_out_of_space)
    with pytest.raises(OSError, match=r"^Cannot write the figure .*c\.png: No space left on device\.$"):
        plot_learning_curves(history_of(["mse"]), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_forbidden_folder_is_refused_as_a_permission_error(tmp_path, monkeypatch):
    def forbid(self, file, **options):
        raise PermissionError(13, "Permission denied", file)

    monkeypatch.setattr(Figure, "savefig", forbid)
    with pytest.raises(PermissionError, match=r"^Cannot write the figure .*c\.png: Permission denied\.$"):
        plot_learning_curves(history_of(), tmp_path / "c.png")
