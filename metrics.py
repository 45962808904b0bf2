"""What the paper's section 4.1 measures a forecast by: MSE, DTW and TDI, one value per series."""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

__all__ = ["dtw_tdi", "evaluate_forecasts", "mse"]


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
    """Dynamic time warping and temporal distortion index of each series, from tslearn's best path A*.

    DTW is the square root of the squared distances summed over A* (so it is not the value of a squared loss);
    TDI is Eq. 3, ``<A*, Omega>`` with ``Omega(i, j) = (i - j)^2 / k^2``, and can exceed 1. Where several
    paths are best, tslearn prefers the diagonal.

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
    finite = np.isfinite(prediction) & np.isfinite(target)
    for sample in np.flatnonzero(finite.all(axis=(1, 2))):
        scores[:, sample] = _dtw_tdi_of_one(prediction[sample], target[sample])
    return scores[0], scores[1]


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


def _dtw_tdi_of_one(prediction: NDArray, target: NDArray) -> tuple[float, float]:
    path, dtw = _dtw_path()(target, prediction)
    i, j = np.transpose(path)
    return dtw, np.square(i - j).sum() / len(target) ** 2


@cache
def _dtw_path() -> Callable[[NDArray, NDArray], tuple[list[tuple[int, int]], float]]:
    # tslearn takes seconds to import: only evaluation pays. Not told its backend, it looks for one at every
    # call, which costs ten times the warping itself.
    from tslearn.backend import instantiate_backend
    from tslearn.metrics import dtw_path

    return partial(dtw_path, be=instantiate_backend("numpy"))


def _paired(
    prediction: ArrayLike | torch.Tensor, target: ArrayLike | torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    prediction, target = _as_array(prediction), _as_array(target)
    if prediction.ndim != 3 or prediction.shape != target.shape or 0 in prediction.shape[1:]:
        raise ValueError(
            "prediction and target must both be of shape (series, steps, variables), "
            f"got {prediction.shape} and {target.shape}."
        )
    return prediction, target


def _as_array(values: ArrayLike | torch.Tensor) -> NDArray[np.float64]:
    if isinstance(values, torch.Tensor):
        # MPS tensors cannot become float64 before they are on the CPU.
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)
