"""The paper's measures of a forecast, one value per series.

MSE, DTW and TDI are those of Table 1; the Hausdorff distance (Eq. 6) and the ramp score, of Table 2, are in no loss.
"""

import operator
from contextlib import suppress

import numpy as np
import torch
from numba import njit
from numpy.typing import ArrayLike, NDArray

__all__ = ["RAMP_TOLERANCE", "dtw_tdi", "evaluate_forecasts", "hausdorff", "mse", "ramp_score"]

RAMP_TOLERANCE = 0.05


def mse(prediction: ArrayLike | torch.Tensor, target: ArrayLike | torch.Tensor) -> NDArray[np.float64]:
    """Mean squared error of each series, over its steps and variables.

    Args:
        prediction: Forecasts, ``(S, k, d)``, of any real dtype and on any device.
        target: True futures, of the same shape.

    Returns:
        ``(S,)``, in the squared unit of the data.

    Raises:
        ValueError: If the shapes differ or are not ``(S, k, d)``.
    """
    prediction, target = _paired(prediction, target)
    return np.square(prediction - target).mean(axis=(1, 2))


def dtw_tdi(
    prediction: ArrayLike | torch.Tensor, target: ArrayLike | torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dynamic time warping and temporal distortion index of each series, from the best alignment path A*.

    DTW is the square root of the squared distances summed over A* (so it is not the value of a squared loss);
    TDI is Eq. 3, ``<A*, Omega>`` with ``Omega(i, j) = (i - j)^2 / k^2``, and can exceed 1. Where several paths are
    best, A* is the one that is diagonal as long as it can be, seen from the end: that of tslearn's
    ``dtw_path(target, prediction)``. Among ties, ``dtw_path(prediction, target)`` may find one of another TDI, and so
    may the same series in another unit: whole numbers tie exactly, tenths and standardised ones up to rounding.

    Args:
        prediction: Forecasts, ``(S, k, d)``, of any real dtype and on any device.
        target: True futures, of the same shape.

    Returns:
        DTW, in the unit of the data, and TDI, without unit, each ``(S,)``; both are nan for a series that
        holds nan or an infinity.

    Raises:
        ValueError: If the shapes differ or are not ``(S, k, d)``.
    """
    prediction, target = _paired(prediction, target)
    scores = np.full((2, len(target)), np.nan)
    finite = _finite(prediction, target)
    scores[:, finite] = _dtw_tdi_of_all(prediction[finite], target[finite])
    return scores[0], scores[1]


def hausdorff(
    prediction: ArrayLike | torch.Tensor,
    target: ArrayLike | torch.Tensor,
    change_points: int = 1,
    penalty: float | None = None,
) -> NDArray[np.float64]:
    """Hausdorff distance between the change points of each forecast and of its target (Eq. 6).

    The paper does not say how it finds change points. Here they are those of kernel change point detection (Arlot,
    Celisse and Harchaoui) with a linear kernel, by ruptures: the partition into segments of two steps or more with
    the least squared error around the segments' means, for a given number of them or a given price of each.

    Args:
        prediction: Forecasts, ``(S, k, d)``, of any real dtype and on any device.
        target: True futures, of the same shape.
        change_points: How many in each series; at least 1, and k must be at least twice as many and 2.
        penalty: Where given, a series has as many as each take more than this off the squared error, which may be
            none, and its end counts as another one, so that there is a distance in any case.

    Returns:
        ``(S,)``, in time steps; nan for a series that holds nan or an infinity.

    Raises:
        TypeError: If ``change_points`` is not a whole number.
        ValueError: If the shapes differ or are not ``(S, k, d)``, k is too short, or the penalty is not positive.
        ModuleNotFoundError: If ruptures is not installed, which is in ``experiments/requirements.txt``.
    """
    prediction, target = _paired(prediction, target)
    steps, change_points = target.shape[1], operator.index(change_points)
    if change_points < 1 or steps < 2 * (change_points + 1):
        raise ValueError(
            f"change_points must be at least 1 and leave segments of 2 of the {steps} steps, got {change_points}."
        )
    if penalty is not None and not (penalty := float(penalty)) > 0:
        raise ValueError(f"penalty must be positive, got {penalty}.")
    distance = np.full(len(target), np.nan)
    for sample in _finite(prediction, target):
        found, true = (_change_points(series[sample], change_points, penalty) for series in (prediction, target))
        apart = np.abs(found[:, None] - true)
        distance[sample] = max(apart.min(axis=1).max(), apart.min(axis=0).max())
    return distance


def ramp_score(
    prediction: ArrayLike | torch.Tensor, target: ArrayLike | torch.Tensor, tolerance: float = RAMP_TOLERANCE
) -> NDArray[np.float64]:
    """Ramp score of each series (Vallance et al. 2017): how much the slopes of forecast and target differ.

    Both are compressed to lines by the swinging door algorithm (Florita et al. 2013): a line goes on as long as some
    slope leads within ``tolerance`` of all samples since its start. The score is the absolute difference of the two
    slopes, summed over the steps of the horizon. The paper does not say its tolerance; ours is 0.05.

    Args:
        prediction: Forecasts, ``(S, k, d)``, of any real dtype and on any device.
        target: True futures, of the same shape.
        tolerance: Half the width of the door, in the unit of the data; 0 compares every rise with its counterpart.

    Returns:
        ``(S,)``, in the unit of the data, the mean over the variables; nan for a series that holds nan or an
        infinity.

    Raises:
        ValueError: If the shapes differ or are not ``(S, k, d)``, or the tolerance is negative or nan.
    """
    prediction, target = _paired(prediction, target)
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}.")
    score = np.full(len(target), np.nan)
    finite = _finite(prediction, target)
    slopes = [_slopes(np.moveaxis(series[finite], 1, 2), tolerance) for series in (prediction, target)]
    score[finite] = np.abs(slopes[0] - slopes[1]).sum(axis=2).mean(axis=1)
    return score


def evaluate_forecasts(prediction: ArrayLike | torch.Tensor, target: ArrayLike | torch.Tensor) -> dict[str, float]:
    """MSE, DTW and TDI, each the mean over all series.

    Args:
        prediction: Forecasts, ``(S, k, d)``, of any real dtype and on any device.
        target: True futures, of the same shape.

    Returns:
        ``{"mse": ..., "dtw": ..., "tdi": ...}``; nan where it is nan for any series.

    Raises:
        ValueError: If the shapes differ, are not ``(S, k, d)``, or there is no series.
    """
    squared_error = mse(prediction, target)
    if not squared_error.size:
        raise ValueError(f"prediction must hold at least one series, got shape {tuple(np.shape(prediction))}.")
    dtw, tdi = dtw_tdi(prediction, target)
    return {"mse": float(squared_error.mean()), "dtw": float(dtw.mean()), "tdi": float(tdi.mean())}


def _jit(function):
    """Compile, and cache on disk if numba finds a folder: tslearn's DTW compiles for five seconds in each process."""
    dispatcher = njit(nogil=True)(function)
    with suppress(RuntimeError):  # numba's "no locator available"
        dispatcher.enable_caching()
    return dispatcher


@_jit
def _best_path(target, prediction, cost, path):
    """Fill ``path`` with the cells of A*, from the last to the first, and return their number and summed cost."""
    k, d = target.shape
    cost[0, :], cost[:, 0] = np.inf, np.inf
    cost[0, 0] = 0.0
    for i in range(k):
        for j in range(k):
            distance = 0.0
            for v in range(d):
                distance += (target[i, v] - prediction[j, v]) ** 2
            cost[i + 1, j + 1] = distance + min(cost[i, j], cost[i, j + 1], cost[i + 1, j])
    i, j, length = k - 1, k - 1, 1
    path[0] = i, j
    while i > 0 or j > 0:
        diagonal, up, left = cost[i, j], cost[i, j + 1], cost[i + 1, j]  # the predecessors' costs
        if j == 0 or (i > 0 and up < diagonal and up <= left):
            i -= 1
        elif i == 0 or (left < diagonal and left < up):
            j -= 1
        else:
            i, j = i - 1, j - 1
        path[length] = i, j
        length += 1
    return length, cost[k, k]


@_jit
def _dtw_tdi_of_all(prediction, target):
    """DTW and TDI of finite series, ``(2, S)``."""
    samples, k, _ = target.shape
    scores = np.empty((2, samples))
    cost, path = np.empty((k + 1, k + 1)), np.empty((2 * k - 1, 2), dtype=np.int64)
    for sample in range(samples):
        length, squared = _best_path(target[sample], prediction[sample], cost, path)
        lag = path[:length, 0] - path[:length, 1]
        scores[0, sample], scores[1, sample] = np.sqrt(squared), np.sum(lag * lag) / k**2
    return scores


def _change_points(series: NDArray, count: int, penalty: float | None) -> NDArray[np.int64]:
    """First steps of all segments of ``series``, (k, d), but the first; with a penalty, its end too."""
    try:
        from ruptures import KernelCPD  # which imports scipy, and only these runs need both
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "The Hausdorff distance needs ruptures: pip install -r experiments/requirements.txt"
        ) from None

    # Centred, since the differences of squares within ruptures lose the digits of series that lie far from zero.
    centred = series - series.mean(axis=0)
    detector = KernelCPD(kernel="linear", min_size=2).fit(centred)
    if penalty is None:
        return np.array(detector.predict(n_bkps=count)[:-1])
    # The best of the best partitions into each number of segments: predict(pen=penalty) of ruptures 1.1.10 leaves out
    # partitions that are the best ones where segments have a least length.
    most = len(series) // 2 - 1
    partitions = [[len(series)], *([detector.predict(n_bkps=n) for n in range(most, 0, -1)][::-1])]

    def price(ends: list[int]) -> float:
        segments = np.split(centred, ends[:-1])
        return sum(np.square(part - part.mean(axis=0)).sum() for part in segments) + penalty * len(ends)

    return np.array(min(partitions, key=price))


def _slopes(series: NDArray, tolerance: float) -> NDArray[np.float64]:
    """Slopes ``(..., k - 1)`` of ``series``, (..., k), after its compression to lines."""
    steps = np.arange(series.shape[-1])
    knots = _swinging_door(series.reshape(-1, len(steps)), tolerance).reshape(series.shape)
    start = np.maximum.accumulate(np.where(knots, steps, 0), axis=-1)[..., :-1]
    backwards = np.where(knots, steps, steps[-1])[..., ::-1]
    end = np.minimum.accumulate(backwards, axis=-1)[..., ::-1][..., 1:]
    rise = np.take_along_axis(series, end, -1) - np.take_along_axis(series, start, -1)
    return rise / (end - start)


def _swinging_door(series: NDArray, tolerance: float) -> NDArray[np.bool_]:
    """Where the lines of each series, (n, k), begin and end."""
    rows, pivot = np.arange(len(series)), np.zeros(len(series), dtype=np.int64)
    low, high = np.full(len(series), -np.inf), np.full(len(series), np.inf)
    knots = np.zeros(series.shape, dtype=bool)
    knots[:, [0, -1]] = True
    for t in range(1, series.shape[1]):
        rise, run = series[:, t] - series[rows, pivot], t - pivot
        low, high = np.maximum(low, (rise - tolerance) / run), np.minimum(high, (rise + tolerance) / run)
        shut = low > high  # no slope is left that passes all samples since the pivot
        knots[shut, t - 1] = True
        pivot[shut] = t - 1
        rise = series[shut, t] - series[shut, t - 1]
        low[shut], high[shut] = rise - tolerance, rise + tolerance
    return knots


def _finite(prediction: NDArray, target: NDArray) -> NDArray[np.int64]:
    """Indices of the series without nan and infinity."""
    return np.flatnonzero((np.isfinite(prediction) & np.isfinite(target)).all(axis=(1, 2)))


def _paired(
    prediction: ArrayLike | torch.Tensor, target: ArrayLike | torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    prediction, target = as_array(prediction), as_array(target)
    if prediction.ndim != 3 or prediction.shape != target.shape or 0 in prediction.shape[1:]:
        raise ValueError(
            "prediction and target must both be of shape (series, steps, variables), "
            f"got {prediction.shape} and {target.shape}."
        )
    return prediction, target


def as_array(values: ArrayLike | torch.Tensor) -> NDArray[np.float64]:
    """A tensor of any device, or an array of real numbers, as float64, in which what is masked is nan."""
    if isinstance(values, torch.Tensor):
        # MPS tensors cannot become float64 before they are on the CPU.
        values = values.detach().cpu().double().numpy()
    array = np.asarray(_unmasked(values))
    if array.dtype.kind not in "biuf":
        raise TypeError(f"Series must be of real numbers, got an array of {array.dtype}.")
    return array.astype(np.float64)


def _unmasked(values: ArrayLike) -> ArrayLike:
    """Masked arrays, also those in lists, as arrays in which what is masked is nan."""
    if isinstance(values, (list, tuple)):
        return [_unmasked(part) for part in values]
    if np.ma.isMaskedArray(values) and values.dtype.kind in "biuf":
        return np.ma.filled(values.astype(np.float64), np.nan)
    return values
