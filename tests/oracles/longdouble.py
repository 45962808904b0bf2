"""The independent truth of the numerical tests: DILATE and its gradients in numpy's 80-bit long double.

The recursion on dual numbers ``Delta + eps * Omega`` (``eps**2 = 0``) and its reverse, written by hand, one
anti-diagonal of one pair of series after the other; of the code in ``loss/`` nothing is used.
`tests/loss/test_numerics.py` holds it against the enumeration of all paths and against its own finite differences.
"""

from typing import NamedTuple

import numpy as np

Number = np.longdouble
PRECISE = np.finfo(Number).nmant >= 63  # on some systems, Apple's for one, a long double is only a float64
TINY = np.finfo(Number).tiny
NEGLIGIBLE = 1e-28  # float32 weights end at 1e-38; a gradient is one of them times up to 2 |x - y| Omega / gamma


class Truth(NamedTuple):
    """Both terms of DILATE and their gradients, all `np.longdouble`; index 0 is Eq. 2, index 1 is Eq. 4.

    A gradient is a sum over the cells of a row or a column, ``2 sum_j E[i, j] (x_i - y_j)``, whose parts may cancel:
    the sum of their absolute values tells how much.
    """

    values: np.ndarray  # (2,)
    by_x: np.ndarray  # (2, N, d)
    by_y: np.ndarray  # (2, M, d)
    parts_by_x: np.ndarray  # the same with absolute values
    parts_by_y: np.ndarray


def dilate(x: np.ndarray, y: np.ndarray, gamma: float, Number: type = Number) -> Truth:
    """DILATE of one prediction (N, d) and one target (M, d), whose numbers are taken as exact; Omega is Eq. 3."""
    x, y, gamma = x.astype(Number), y.astype(Number), Number(gamma)
    N, M = len(x), len(y)
    # Row d + 2, column i + 1 belongs to the cell (i, d - i); the path starts at (-1, -1).
    V, V_dot = np.full((N + M + 1, N + 1), np.inf, Number), np.zeros((N + M + 1, N + 1), Number)
    V[0, 0] = 0
    rows, weights = [_Row(d, N, M) for d in range(N + M - 1)], []
    for row in rows:
        m, q = row.softmin(V, gamma)
        V[row.here] = np.square(row.differences(x, y)).sum(1) + m
        V_dot[row.here] = row.omega() + sum(w * V_dot[p] for w, p in zip(q, row.predecessors, strict=True))
        weights.append(q)

    E = np.zeros((2, *V.shape), Number)  # E and E_dot
    E[0, -1, -1] = 1
    by_x, by_y = np.zeros((4, *x.shape), Number), np.zeros((4, *y.shape), Number)
    for row, q in zip(reversed(rows), reversed(weights), strict=True):
        here, here_dot = E[0][row.here], E[1][row.here]
        for w, p in zip(q, row.predecessors, strict=True):
            # -q_p (V_dot_p - mean of V_dot) / gamma, without the cancellation where q_p is nearly one
            apart = sum(v * (V_dot[p] - V_dot[r]) for v, r in zip(q, row.predecessors, strict=True))
            E[0][p] += w * here
            E[1][p] += w * here_dot - w * apart / gamma * here
        parts = 2 * np.stack([here, here_dot])[:, :, None] * row.differences(x, y)
        by_x[:2, row.i] += parts
        by_y[:2, row.j] -= parts
        by_x[2:, row.i] += abs(parts)
        by_y[2:, row.j] += abs(parts)
    return Truth(np.array([V[-1, -1], V_dot[-1, -1]]), by_x[:2], by_y[:2], by_x[2:], by_y[2:])


def relative_error(ours: np.ndarray, exact: np.ndarray) -> float:
    """Largest difference, relative to the largest entry; differences below `NEGLIGIBLE` count as none."""
    difference = abs(np.asarray(ours, Number) - exact).max()
    return 0.0 if difference <= NEGLIGIBLE else float(difference / max(abs(exact).max(), TINY))  # NaN for NaN


def nudged(series: np.ndarray, seed: int) -> np.ndarray:
    """Each number of a float32 series half a unit in the last place up or down: what its rounding leaves open."""
    signs = np.random.default_rng(seed).choice([-0.5, 0.5], series.shape)
    return series.astype(Number) + signs * np.spacing(abs(series)).astype(Number)


class _Row:
    """The cells of anti-diagonal d, and where they and their predecessors are found in the tables."""

    def __init__(self, d, N, M):
        lo, hi = max(0, d - M + 1), min(N - 1, d)
        self.i, self.j, self.k2 = np.arange(lo, hi + 1), d - np.arange(lo, hi + 1), Number(N * M)
        same, before = slice(lo + 1, hi + 2), slice(lo, hi + 1)
        self.here = d + 2, same
        self.predecessors = ((d + 1, same), (d, before), (d + 1, before))  # left, diagonal, up

    def differences(self, x, y):
        return x[self.i] - y[self.j]

    def omega(self):
        return np.square((self.i - self.j).astype(Number)) / self.k2

    def softmin(self, V, gamma):
        """``-gamma log sum_p exp(-V_p / gamma)`` and the weight of each predecessor."""
        values = np.stack([V[p] for p in self.predecessors])
        m = values.min(0)
        powers = np.exp((m - values) / gamma)
        total = powers.sum(0)
        return m - gamma * np.log(total), powers / total
