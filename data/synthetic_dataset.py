"""The paper's synthetic task, number for number as released: from two peaks, forecast a step (section 4.1).

Each series has two peaks of random position and height in its input; the size of the step that follows is the
difference of the heights, and its position continues the distance of the peaks, give or take three steps.
"""

from __future__ import annotations

import math
import random

import numpy as np
import torch
from torch import Tensor

from .windows import ForecastData, Index, WindowDataset, check_count, pick

_LAST_PEAK = 18  # the second peak is drawn from positions 10 to 18


def create_synthetic_dataset(
    N: int, N_input: int, N_output: int, sigma: float, rng: random.Random | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw N training and N test series of N_input + N_output steps.

    The order of the draws is the released code's, so that `random.seed(0)` gives the same numbers.

    Args:
        N: Series in each of the two parts.
        N_input: Observed steps.
        N_output: Steps to forecast; N_input + N_output is at least 19.
        sigma: Scale of the noise, which is sigma * U(0, 1) (the paper says Gaussian, its numbers do not).
        rng: Where to draw from; Python's global `random` by default.

    Returns:
        X_train_input (N, N_input), X_train_target (N, N_output), X_test_input, X_test_target (likewise), all
        float64, then train_bkp (N,) and test_bkp (N,): the int64 index of each step in its whole series.

    Raises:
        TypeError: N, N_input or N_output is not a whole number, or sigma not a number.
        ValueError: A count is below 1, the series would be too short for its peaks, or sigma is negative, infinite or
            nan.
    """
    series, breakpoints = _draw_series(2 * check_count("N", N), N_input, N_output, sigma, rng)
    train, test = series[:N], series[N:]
    return (
        train[:, :N_input],
        train[:, N_input:],
        test[:, :N_input],
        test[:, N_input:],
        breakpoints[:N],
        breakpoints[N:],
    )


def _draw_series(
    count: int, input_length: int, horizon: int, sigma: float, rng: random.Random | None
) -> tuple[np.ndarray, np.ndarray]:
    length = check_count("input_length", input_length) + check_count("horizon", horizon)
    if length <= _LAST_PEAK:
        lengths = f"input_length + horizon = {input_length} + {horizon} = {length}"
        raise ValueError(
            f"a synthetic series has peaks up to position {_LAST_PEAK} and so needs at least "
            f"{_LAST_PEAK + 1} steps, given {lengths}"
        )
    _check_sigma(sigma)
    rng = random if rng is None else rng
    series, breakpoints = np.empty((count, length)), np.empty(count, dtype=np.int64)
    for row, values in enumerate(series):
        breakpoints[row] = _draw_one(values, sigma, rng)
    return series, breakpoints


def _check_sigma(sigma: float) -> None:
    try:
        allowed = 0 <= sigma < math.inf
    except TypeError:
        raise TypeError(f"sigma must be a number of at least 0, given {sigma!r}") from None
    if not allowed:
        raise ValueError(f"sigma must be a finite number of at least 0, given {sigma!r}")


def _draw_one(values: np.ndarray, sigma: float, rng: random.Random) -> int:
    """Fill `values` (length,) with one series and return the index of its step."""
    values[:] = [sigma * rng.random() for _ in range(len(values))]
    i1, i2 = rng.randint(1, 10), rng.randint(10, _LAST_PEAK)
    j1, j2 = rng.random(), rng.random()
    breakpoint_ = i2 + abs(i2 - i1) + rng.randint(-3, 3)
    values[i1] += j1
    values[i2] += j2
    values[breakpoint_:] += j2 - j1
    return breakpoint_


class SyntheticDataset(WindowDataset):
    """Triples (input, target, breakpoint) of the synthetic task.

    Item `i` is `(input (N_input, 1), target (N_output, 1), breakpoint ())`, tensors of float32, float32 and
    int64; several indices give a batch at once, as in `WindowDataset`.

    Args:
        X_input: (n, N_input).
        X_target: (n, N_output).
        breakpoints: (n,), the index of each step in its whole series, input included.

    Raises:
        ValueError: An array has another shape.
    """

    def __init__(self, X_input: np.ndarray, X_target: np.ndarray, breakpoints: np.ndarray) -> None:
        super().__init__(_one_variable("X_input", X_input), _one_variable("X_target", X_target))
        self.breakpoints = torch.as_tensor(breakpoints, dtype=torch.int64)
        if self.breakpoints.shape != (len(self),):
            shape = tuple(self.breakpoints.shape)
            raise ValueError(f"breakpoints must be one per series, shape ({len(self)},), given {shape}")

    def __getitem__(self, index: Index) -> tuple[Tensor, ...]:
        return *super().__getitem__(index), pick(self.breakpoints, index)


def _one_variable(name: str, values: np.ndarray) -> Tensor:
    values = torch.as_tensor(values)
    if values.ndim != 2:
        raise ValueError(f"{name} must have shape (series, time steps), given {tuple(values.shape)}")
    return values.unsqueeze(-1)


def load_synthetic(
    n: int = 500, input_length: int = 20, horizon: int = 20, sigma: float = 0.01, seed: int = 0
) -> ForecastData:
    """Draw the synthetic task: n series each to train, to validate and to test.

    Training and test series are the released code's for the same seed; the validation series, which it
    does not have, are drawn after them. Python's global random state is neither read nor changed.

    Args:
        n: Series in each part.
        input_length: N_input, in time steps.
        horizon: N_output, in time steps; input_length + horizon is at least 19.
        sigma: Scale of the uniform noise, at least 0.
        seed: Seed of the draws, at least 0.

    Returns:
        The task; its three datasets are `SyntheticDataset`s.

    Raises:
        TypeError: A count or the seed is not a whole number, or sigma not a number.
        ValueError: A count is too small, the seed negative, or sigma negative, infinite or nan.
    """
    check_count("n", n)
    rng = random.Random(check_count("seed", seed, at_least=0))  # None would be another seed each time
    train_input, train_target, test_input, test_target, train_bkp, test_bkp = create_synthetic_dataset(
        n, input_length, horizon, sigma, rng
    )
    series, valid_bkp = _draw_series(n, input_length, horizon, sigma, rng)
    return ForecastData(
        "synthetic",
        SyntheticDataset(train_input, train_target, train_bkp),
        SyntheticDataset(series[:, :input_length], series[:, input_length:], valid_bkp),
        SyntheticDataset(test_input, test_target, test_bkp),
    )
