import math
import sys
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evaluation.metrics import _best_path, dtw_tdi, evaluate_forecasts, hausdorff, mse, ramp_score


def series(*values):
    return np.array(values, dtype=float).reshape(1, -1, 1)


def all_paths(k):
    """Every warping path from (0, 0) to (k-1, k-1)."""

    def extend(path):
        i, j = path[-1]
        if (i, j) == (k - 1, k - 1):
            yield path
        for step in ((1, 1), (1, 0), (0, 1)):
            nxt = (i + step[0], j + step[1])
            if max(nxt) < k:
                yield from extend([*path, nxt])

    return extend([(0, 0)])


def test_mse_is_per_series_over_steps_and_variables():
    target = np.zeros((2, 2, 2))
    prediction = np.stack([np.full((2, 2), 3.0), [[1.0, 0.0], [0.0, 1.0]]])
    np.testing.assert_array_equal(mse(prediction, target), [9.0, 0.5])


FORMS = [lambda array: array, list, tuple, lambda array: [list(one) for one in array]]


@pytest.mark.parametrize("metric", [mse, dtw_tdi, ramp_score])
@pytest.mark.parametrize("form", FORMS, ids=["array", "list", "tuple", "lists of lists"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_what_is_masked_is_nan_for_its_series_alone(metric, form, dtype):
    masked = np.ma.masked_greater(np.arange(12, dtype=dtype).reshape(2, 6, 1), 10)
    for prediction, target in ((form(masked + 1), masked), (masked + 1, form(masked))):
        scores = np.atleast_2d(metric(prediction, target))
        np.testing.assert_array_equal(np.isnan(scores), [[False, True]] * len(scores))


@pytest.mark.parametrize("values", [[[["1.5"]]], [[[1j]]], [[[None]]]])
def test_what_holds_no_real_numbers_is_refused(values):
    with pytest.raises(TypeError, match="Series must be of real numbers, got an array of"):
        mse(np.array(values), np.zeros((1, 1, 1)))
    with pytest.raises(TypeError, match="Series must be of real numbers, got an array of"):
        mse([np.ma.array(one) for one in values], np.zeros((1, 1, 1)))


def test_a_perfect_forecast_scores_zero():
    values = np.random.default_rng(0).standard_normal((3, 7, 2))
    np.testing.assert_array_equal(dtw_tdi(values, values), np.zeros((2, 3)))


def test_a_ramp_one_step_late_has_no_dtw_and_the_tdi_of_its_only_free_path():
    dtw, tdi = dtw_tdi(series(0, 0, 1, 2, 3), series(0, 1, 2, 3, 3))
    np.testing.assert_array_equal(dtw, [0.0])
    # (0,0) (0,1) (1,2) (2,3) (3,4) (4,4): four cells one step off the diagonal.
    np.testing.assert_allclose(tdi, [4 / 25])


def test_ties_are_broken_by_the_diagonal_seen_from_the_end():
    _, tdi = dtw_tdi(series(0, 0, 0, 1), series(0, 0, 1, 1))
    # (0,0) (0,1) (1,2) (2,3) (3,3), though entering the detour one cell later would be as cheap.
    np.testing.assert_allclose(tdi, [3 / 16])


def test_dtw_of_constant_series_is_the_root_of_the_summed_squares():
    dtw, tdi = dtw_tdi(np.full((1, 5, 2), 3.0), np.zeros((1, 5, 2)))
    np.testing.assert_allclose(dtw, [math.sqrt(5 * 2 * 9)])
    np.testing.assert_array_equal(tdi, [0.0])


@given(seed=st.integers(0, 1000), k=st.integers(1, 5), d=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_dtw_and_tdi_equal_the_best_of_all_paths(seed, k, d):
    x, y = np.random.default_rng(seed).standard_normal((2, 1, k, d))
    cost = np.square(x[0][:, None] - y[0][None]).sum(-1)
    best = min(all_paths(k), key=lambda path: sum(cost[i, j] for i, j in path))
    dtw, tdi = dtw_tdi(x, y)
    np.testing.assert_allclose(dtw, [math.sqrt(sum(cost[i, j] for i, j in best))])
    np.testing.assert_allclose(tdi, [sum((i - j) ** 2 for i, j in best) / k**2])


@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), d=st.integers(1, 2), levels=st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_paths_are_tslearns_cell_for_cell_with_all_their_ties(seed, k, d, levels):
    from tslearn.metrics import dtw_path

    # Whole numbers in a small range tie all the time; 1e200 has an infinite square, which ties with the borders.
    rng = np.random.default_rng(seed)
    target, prediction = rng.choice(
        [*range(levels), *rng.standard_normal(2), 1e200][: levels + seed % 4], (2, 3, k, d)
    )
    dtw, tdi = dtw_tdi(prediction, target)
    for s in range(3):
        theirs, distance = dtw_path(target[s], prediction[s], be="numpy")
        cost, path = np.empty((k + 1, k + 1)), np.empty((2 * k - 1, 2), dtype=np.int64)
        length, _ = _best_path(target[s], prediction[s], cost, path)
        assert [tuple(cell) for cell in path[:length][::-1]] == theirs
        assert dtw[s] == distance
        assert tdi[s] == pytest.approx(sum((i - j) ** 2 for i, j in theirs) / k**2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_forecast_that_is_not_finite_scores_nan_and_spares_the_others(bad):
    target = np.zeros((3, 4, 1))
    prediction = target + 1.0
    prediction[1, 2:] = bad
    dtw, tdi = dtw_tdi(prediction, target)
    np.testing.assert_array_equal(np.isnan(dtw), [False, True, False])
    np.testing.assert_array_equal(np.isnan(tdi), [False, True, False])
    np.testing.assert_array_equal(mse(prediction, target)[[0, 2]], [1.0, 1.0])
    assert math.isnan(evaluate_forecasts(prediction, target)["dtw"])


# --- change points (Eq. 6) ----------------------------


def test_hausdorff_is_how_late_a_step_is():
    target = series(0, 0, 0, 1, 1, 1, 1, 1)
    late = series(0, 0, 0, 0, 0, 1, 1, 1)
    np.testing.assert_array_equal(hausdorff(late, target), [2.0])
    np.testing.assert_array_equal(hausdorff(target, target), [0.0])


def test_hausdorff_of_several_change_points_is_the_farthest_nearest_one():
    target = series(0, 0, 0, 5, 5, 5, 5, 0, 0, 0)  # changes at 3 and 7
    forecast = series(0, 0, 5, 5, 0, 0, 0, 0, 0, 0)  # at 2 and 4: nobody is near 7
    np.testing.assert_array_equal(hausdorff(forecast, target, change_points=2), [3.0])
    np.testing.assert_array_equal(hausdorff(target, forecast, change_points=2), [3.0])


@given(seed=st.integers(0, 1000), k=st.integers(4, 20), d=st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_the_change_point_is_the_best_of_all(seed, k, d):
    x, y = np.random.default_rng(seed).standard_normal((2, 1, k, d))

    def cost(values, t):
        return sum(np.square(part - part.mean(axis=0)).sum() for part in (values[:t], values[t:]))

    best = [min(range(2, k - 1), key=lambda t, values=values[0]: cost(values, t)) for values in (x, y)]
    np.testing.assert_array_equal(hausdorff(x, y), [abs(best[0] - best[1])])


@pytest.mark.parametrize("change_points", [1, 3])
def test_hausdorff_equals_that_of_ruptures(change_points):
    from ruptures import KernelCPD
    from ruptures.metrics import hausdorff as distance

    prediction, target = np.random.default_rng(0).standard_normal((2, 20, 24, 1)).cumsum(axis=2)
    found, true = (
        [KernelCPD("linear").fit(values).predict(n_bkps=change_points) for values in series]
        for series in (prediction, target)
    )
    expected = [distance(*pair) for pair in zip(found, true, strict=True)]
    np.testing.assert_array_equal(hausdorff(prediction, target, change_points), expected)


@pytest.mark.parametrize("offset", [1e5, 1e8])
def test_the_hausdorff_distance_does_not_depend_on_an_offset(offset):
    prediction, target = np.random.default_rng(0).standard_normal((2, 50, 24, 1)).cumsum(axis=2)
    expected = hausdorff(prediction, target)
    np.testing.assert_array_equal(hausdorff(prediction + offset, target + offset), expected)


def test_without_ruptures_the_hausdorff_distance_names_the_file_that_has_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ruptures", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs ruptures: pip install -r experiments/requirements\.txt"):
        hausdorff(np.zeros((1, 8, 1)), np.zeros((1, 8, 1)))


def test_with_a_penalty_a_change_is_one_that_pays_and_the_end_another():
    step, flat = series(0, 0, 0, 1, 1, 1, 1, 1), np.zeros((1, 8, 1))  # 3 * 5 / 8 is what the change takes off
    np.testing.assert_array_equal(hausdorff(flat, step, penalty=1.87), [5.0])  # {8} and {3, 8}
    np.testing.assert_array_equal(hausdorff(flat, step, penalty=1.88), [0.0])
    np.testing.assert_array_equal(hausdorff(step, step, penalty=1.87), [0.0])


@given(seed=st.integers(0, 10**6), k=st.integers(4, 9), penalty=st.sampled_from([0.02, 0.1, 0.5]))
@example(seed=-1, k=5, penalty=0.1)
@settings(max_examples=60, deadline=None)
def test_with_a_penalty_the_partition_is_the_best_of_all(seed, k, penalty):
    numbers = (
        np.random.default_rng(seed).normal(0, 0.7, (2, k)) if seed >= 0 else [[-0.7, -0.4, -0.8, -1.7, 0.2], [0] * 5]
    )

    def best(values):
        """The ends of the segments of the cheapest partition into segments of two steps or more."""
        every = [(*ends, k) for n in range(k // 2) for ends in combinations(range(2, k - 1), n)]
        allowed = [ends for ends in every if min(np.diff((0, *ends))) >= 2]
        parts = {ends: np.split(values, ends[:-1]) for ends in allowed}
        error = {ends: sum(np.square(part - part.mean()).sum() for part in parts[ends]) for ends in allowed}
        return np.array(min(allowed, key=lambda ends: error[ends] + penalty * len(ends)))

    x, y = np.array(numbers, float)
    apart = np.abs(best(x)[:, None] - best(y))
    expected = max(apart.min(axis=0).max(), apart.min(axis=1).max())
    assert hausdorff(x[None, :, None], y[None, :, None], penalty=penalty).item() == expected


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan")])
def test_a_penalty_that_is_not_positive_is_refused(penalty):
    with pytest.raises(ValueError, match=f"penalty must be positive, got {penalty}"):
        hausdorff(np.zeros((1, 8, 1)), np.zeros((1, 8, 1)), penalty=penalty)


@pytest.mark.parametrize(("k", "change_points"), [(3, 1), (8, 0), (7, 3)])
def test_too_many_change_points_are_refused(k, change_points):
    with pytest.raises(ValueError, match=rf"segments of 2 of the {k} steps, got {change_points}"):
        hausdorff(np.zeros((1, k, 1)), np.zeros((1, k, 1)), change_points)


# --- ramps --------------------------------------------


def test_ramp_score_without_tolerance_is_the_distance_of_all_rises():
    target = series(0, 0, 0, 1, 1, 1)
    early = series(0, 0, 1, 1, 1, 1)
    np.testing.assert_allclose(ramp_score(early, target, tolerance=0), [2.0])
    np.testing.assert_array_equal(ramp_score(target, target), [0.0])


def test_ramp_score_of_series_compressed_by_hand():
    # From 0, the doors to .05 and 0 leave slopes from -.05 to .05; 1 needs at least .3. So 0 .05 0 is a line, and so
    # is 0 1 2.05, whose slopes from .975 to 1.075 meet .9 to 1.1. The straight line has the slope .5.
    bumpy, straight = series(0, 0.05, 0, 1, 2.05), series(0, 0.5, 1, 1.5, 2)
    expected = 2 * 0.5 + 2 * (2.05 / 2 - 0.5)
    np.testing.assert_allclose(ramp_score(bumpy, straight, tolerance=0.1), [expected])
    np.testing.assert_allclose(ramp_score(straight, bumpy, tolerance=0.1), [expected])
    np.testing.assert_allclose(ramp_score(bumpy, straight, tolerance=math.inf), [4 * (2.05 / 4 - 0.5)])


def swinging_door(values, tolerance):
    """Slopes of one series, sample by sample: the doors hang above and below the last knot."""
    knots, t = [0], 1
    while t < len(values):
        passed = range(knots[-1] + 1, t + 1)
        upper = max((values[i] - values[knots[-1]] - tolerance) / (i - knots[-1]) for i in passed)
        lower = min((values[i] - values[knots[-1]] + tolerance) / (i - knots[-1]) for i in passed)
        if upper > lower:
            knots.append(t - 1)
        else:
            t += 1
    knots.append(len(values) - 1)
    line = np.interp(np.arange(len(values)), knots, np.asarray(values)[knots])
    # some slope passes within the tolerance of all samples, and that to the last one is as near to it again
    assert np.abs(line - values).max() <= 2 * tolerance + 1e-12
    return np.diff(line)


@given(seed=st.integers(0, 1000), k=st.integers(1, 30), tolerance=st.sampled_from([0.25, 0.5, 1.0, 4.0]))
@settings(max_examples=50, deadline=None)
def test_ramp_score_equals_the_algorithm_sample_by_sample(seed, k, tolerance):
    x, y = np.random.default_rng(seed).integers(-8, 9, (2, 3, k, 2)) / 4
    slopes = [
        np.array([[swinging_door(values[:, v], tolerance) for v in range(2)] for values in series])
        for series in (x, y)
    ]
    expected = np.abs(slopes[0] - slopes[1]).sum(axis=2).mean(axis=1)
    np.testing.assert_allclose(ramp_score(x, y, tolerance), expected, atol=1e-12)


@pytest.mark.parametrize("tolerance", [-0.1, math.nan])
def test_a_tolerance_below_0_is_refused(tolerance):
    with pytest.raises(ValueError, match=f"tolerance must be at least 0, got {tolerance}"):
        ramp_score(np.zeros((1, 4, 1)), np.zeros((1, 4, 1)), tolerance)


# --- all of them --------------------------------------


@pytest.mark.parametrize("metric", [hausdorff, ramp_score])
def test_external_metrics_of_series_that_are_not_finite_are_nan(metric):
    prediction, target = np.random.default_rng(4).standard_normal((2, 3, 6, 2))
    spoilt = prediction.copy()
    spoilt[1, 3, 0] = math.nan
    np.testing.assert_array_equal(metric(spoilt, target)[[0, 2]], metric(prediction, target)[[0, 2]])
    assert math.isnan(metric(spoilt, target)[1])
    assert metric(torch.from_numpy(prediction), target) == pytest.approx(metric(prediction, target))


def test_tensors_lists_and_arrays_score_alike():
    target, prediction = np.random.default_rng(2).standard_normal((2, 4, 6, 1)).astype(np.float32)
    expected = evaluate_forecasts(prediction, target)
    given_tensors = evaluate_forecasts(torch.from_numpy(prediction).requires_grad_(), torch.from_numpy(target))
    assert given_tensors == expected
    assert evaluate_forecasts(prediction.tolist(), target.tolist()) == expected


def test_evaluate_forecasts_is_the_mean_over_series():
    target, prediction = np.random.default_rng(3).standard_normal((2, 5, 6, 2))
    dtw, tdi = dtw_tdi(prediction, target)
    scores = evaluate_forecasts(prediction, target)
    expected = {"mse": mse(prediction, target).mean(), "dtw": dtw.mean(), "tdi": tdi.mean()}
    assert scores == pytest.approx(expected)
    assert all(type(value) is float for value in scores.values())


@pytest.mark.parametrize("metric", [mse, dtw_tdi, hausdorff, ramp_score, evaluate_forecasts])
@pytest.mark.parametrize("shapes", [((2, 4, 1), (2, 4, 2)), ((2, 4, 1), (3, 4, 1))])
def test_series_of_different_shapes_are_refused_in_one_sentence(metric, shapes):
    with pytest.raises(ValueError, match=r"must both be of shape .* got"):
        metric(*map(np.zeros, shapes))


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 0, 1)])
def test_series_without_the_three_axes_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(series, steps, variables\)"):
        mse(np.zeros(shape), np.zeros(shape))


def test_no_series_at_all_has_no_mean():
    with pytest.raises(ValueError, match=r"at least one series, got shape \(0, 4, 1\)"):
        evaluate_forecasts(np.zeros((0, 4, 1)), np.zeros((0, 4, 1)))
