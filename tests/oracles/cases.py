"""The series and smoothings at which soft-DTW implementations lose their digits, and some at which they do not.

`tests/loss/test_numerics.py` checks them and `benchmarks/numerics.py` makes a table of them.
"""

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """A prediction, a target, and the smoothing they are compared with."""

    name: str
    words: str  # what it is, for the table
    x: np.ndarray  # (N, 1) float32
    y: np.ndarray  # (M, 1) float32
    gamma: float


def _case(name, words, x, y, gamma):
    return Case(name, words, *(np.asarray(s, np.float32).reshape(-1, 1) for s in (x, y)), gamma)


def _noise(N, seed):
    """Two independent series of standard normal numbers."""
    return np.random.default_rng(seed).standard_normal((2, N))


def _steps(N, K, height):
    return np.where(np.arange(N) < K, height, 0.0)


def _random():
    for N, gammas in ((20, (1.0, 1e-2, 1e-3, 1e-4)), (128, (1e-3, 1e-4)), (512, (1e-3, 1e-4)), (1024, (1e-2, 1e-3))):
        for gamma in gammas:
            words = f"Two unrelated series of {N} standard normal numbers"
            yield _case(f"noise, N = {N}", words, *_noise(N, N), gamma)
    yield _case("noise, N = 2048", "The same, 2,048 of them", *_noise(2048, 2048), 1e-2)
    for scale, gamma in (
        (1e-3, 1e-3),
        (1e-3, 10.0),
        (1e-2, 1e-3),
        (0.1, 1e-2),
        (10.0, 10.0),
        (100.0, 1e-3),
        (1e3, 10.0),
    ):
        words = f"Two unrelated series of 96 normal numbers with standard deviation {scale:g}"
        yield _case(f"noise, scale {scale:g}", words, *(scale * _noise(96, 96)), gamma)


def _large_costs():
    x, y = 1e3 * _noise(128, 1)
    for gamma in (1.0, 1e-2):
        yield _case("costs of 1e6", "Two unrelated series of 128 normal numbers of scale 1,000", x, y, gamma)
    x, y = _noise(128, 2)
    yield _case("off by 1e3, N = 128", "A prediction 1,000 too high: the total cost is 1.28e8", x + 1e3, y, 1e-2)
    x, y = _noise(1000, 3)
    yield _case("off by 1e3, N = 1000", "A prediction 1,000 too high: the total cost is 1e9", x + 1e3, y, 1e-2)
    x, y = 1e4 * _noise(128, 4)
    yield _case("costs of 1e8", "Two unrelated series of 128 normal numbers of scale 10,000", x, y, 1e-2)
    for N, K in ((1000, 500), (128, 120)):
        words = f"A prediction that is 1,000 for {K} of {N} steps, then 0; the target is 0: the total cost is {K}e6"
        yield _case(f"total of {K}e6", words, _steps(N, K, 1e3), np.zeros(N), 1e-2)


def _offsets():
    for offset in (1e3, 1e4):
        x, y = offset + _noise(56, 5)
        words = f"Two unrelated series of unit scale around {offset:,.0f} (pressure in hPa, say)"
        for gamma in (1e-2, 1.0):
            yield _case(f"around {offset:g}", words, x, y, gamma)


def _equal_and_constant():
    for gamma in (1e-3, 10.0):
        yield _case("equal constants", "Both series are 3 throughout", np.full(64, 3.0), np.full(64, 3.0), gamma)
    yield _case("equal constants, N = 1024", "Both series are 0 throughout", np.zeros(1024), np.zeros(1024), 1e-2)
    words = "Prediction 1 and target 0 throughout, 64 steps against 40"
    for gamma in (1e-3, 1.0):
        yield _case("different constants", words, np.ones(64), np.zeros(40), gamma)
    for scale, gamma in ((1e-3, 1e-3), (1.0, 1e-2), (1.0, 10.0)):
        x = scale * _noise(128, 6)[0]
        yield _case(f"identical, scale {scale:g}", "A series of 128 normal numbers beside itself", x, x, gamma)
    two = [0.0, 0.1]
    yield _case("identical, two steps", "The series 0, 0.1 beside itself", two, two, 1e-3)


def _shapes():
    x = np.sin(np.arange(96) / 8)
    yield _case("shifted sine", "A sine beside itself, four steps later", x, np.sin((np.arange(96) - 4) / 8), 1e-2)
    words = "A step from 1,000 to 0, seen two steps too late, and noise of scale 1 on it"
    x, y = _noise(48, 7)
    yield _case("late step", words, _steps(48, 22, 1e3) + x, _steps(48, 20, 1e3) + y, 1.0)
    x, y = _noise(256, 0).cumsum(1)
    yield _case("random walks", "Two unrelated random walks of 256 steps", x, y, 1.0)
    x, y = _noise(48, 3)
    words = "A random walk over levels 10 apart beside a step of 10 with noise of scale 0.1 on it"
    yield _case(
        "levels and a step", words, 10 * np.round(x.cumsum() / 2), 10.0 - _steps(48, 16, 10.0) + 0.1 * y, 1e-2
    )


CASES = (*_random(), *_large_costs(), *_offsets(), *_equal_and_constant(), *_shapes())
# Beyond 1e-5 for a reason: at the first one rounding the series to float32 moves the gradients much further, at the
# second one a float64 table of the values cannot tell apart which of the equally good paths is how likely.
BY_INPUTS = _case(
    "different constants, N = 512",
    "Prediction 1000.1 and target 0.3 throughout, 512 steps against 300",
    np.full(512, 1000.1),
    np.full(300, 0.3),
    1e-3,
)
BY_FLOAT64 = _case(
    "ties at 5e11 gamma",
    "A prediction that is 1,000 for 500 of 1,000 steps, then 0; the target is 0: a value of 5e11 times gamma",
    _steps(1000, 500, 1e3),
    np.zeros(1000),
    1e-3,
)
