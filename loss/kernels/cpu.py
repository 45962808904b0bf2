"""The sweeps of soft-DTW and DILATE on the CPU: numba, vectorised over anti-diagonal and batch together.

One call runs, for every pair of series of the batch, the soft-DTW recursion on dual numbers
``Delta + eps * Omega`` (``eps**2 = 0``), then, where gradients are wanted, its reverse:

====================  =======================================================================
``V``                 values; ``V[N-1, M-1]`` is Eq. 2 of the DILATE paper, the shape term
``V_dot``             derivative along Omega; ``V_dot[N-1, M-1]`` is Eq. 4, the temporal term
``E``                 derivative of ``V[N-1, M-1]`` by the cost: the soft alignment ``A*_gamma``
``E_dot``             derivative of ``V_dot[N-1, M-1]`` by the cost: the Hessian times Omega
====================  =======================================================================

The letters are those of Mensch & Blondel (2018) and Blondel et al. (2021). ``q`` holds the softmin weights of
the three predecessors of a cell: left ``(i, j-1)``, diagonal ``(i-1, j-1)`` and up ``(i-1, j)``.

Layout. A *row* is an anti-diagonal ``d = i + j``; its cells of all series of a *tile* of the batch lie side by
side, cell ``i`` of series ``b`` at ``i * tile + b``. The predecessors of a row are then the same range shifted by
0 or 1 cells, no cell of a row depends on another one, and the loops over a row vectorise for one long pair of
series as well as for a hundred short ones. The softmin weights are kept for a *segment* of rows only; a lattice
that needs several segments keeps the values at their starts, and sweeps a segment again before it goes back
through it.

Precision. V, V_dot, E and E_dot are float64 whatever the input is: ``q`` depends on differences of V divided by
gamma, and with costs of 1e6 a float32 V leaves no digit of them. V is in units of ``gamma * log(2)``, so that the
softmin needs only powers and logarithms of two.
"""

import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from .simd import SLACK, exp2, log2, row_loop

_JIT = {"nogil": True, "cache": True, "error_model": "numpy"}

UNREACHABLE = 1e300  # V of cells outside of the lattice: far above any cost, yet finite, so that it makes no NaN
_LN2 = math.log(2.0)
_LEAST = 2.0**-126  # weights below this are zero


# ----------------------------------------------------------------------- the formulas of a cell


@row_loop
def _square_differences(arrays, at, numbers):
    """Cost += scale * (x - y)**2, in float64: nothing is lost for series far away from zero."""
    x, y, cost = arrays
    difference = x.load(at[0]).double() - y.load(at[1]).double()
    cost.store(at[2], cost.load(at[2]) + difference * difference * numbers[0])


@row_loop
def _add_omega(arrays, at, numbers):
    """Cost += scale * Omega (the tangled variant, Eq. 5)."""
    omega, cost = arrays
    cost.store(at[1], cost.load(at[1]) + omega.load(at[0]) * numbers[0])


@row_loop
def _soft_minimum(arrays, at, numbers):
    """V = cost + softmin of the three predecessors, and the weights q of each."""
    V, cost, T = arrays
    here, left, diagonal, up, at_cost, q_left, q_diagonal, q_up = at
    predecessors = [V.load(o) for o in (left, diagonal, up)]
    least = predecessors[0].least(predecessors[2]).least(predecessors[1])
    powers = []
    for V_p in predecessors:
        exponent = (least - V_p).at_least(-126.0)
        powers.append(exp2(exponent.to(T.vector.element)) - _LEAST)
    total = powers[0] + powers[1] + powers[2]
    inverse = 1.0 / total
    for o, power in zip((q_left, q_diagonal, q_up), powers, strict=True):
        T.store(o, power * inverse)
    V.store(here, cost.load(at_cost) + least - log2(total).double())


@row_loop
def _dual_part(arrays, at, numbers):
    """V_dot = Omega + mean of V_dot over the predecessors, and the derivatives of the weights q_left and q_up.

    ``q_dot_p = -q_p (V_dot_p - mean) / gamma`` is written with the differences to the other two predecessors,
    each times the other one's weight: where q_p rounds to one, they still tell how far from one it is.
    """
    V_dot, omega, T = arrays
    here, left, diagonal, up, at_omega, q_left, q_diagonal, q_up, q_dot_left, q_dot_up = at
    (inverse_gamma,) = numbers
    base = V_dot.load(diagonal)
    u_left, u_up = V_dot.load(left) - base, V_dot.load(up) - base
    w_left, w_diagonal, w_up = T.load(q_left).double(), T.load(q_diagonal).double(), T.load(q_up).double()
    V_dot.store(here, omega.load(at_omega) + base + (w_left * u_left + w_up * u_up))
    between = u_up - u_left
    T.store(q_dot_left, w_left * inverse_gamma * (w_up * between - w_diagonal * u_left))
    T.store(q_dot_up, w_up * inverse_gamma * (0.0 - (w_left * between + w_diagonal * u_up)))


@row_loop
def _restore_mass(arrays, at, numbers):
    """E / (sum of q), to second order: rounded weights must not lose or make paths along thousands of steps."""
    E, mass, T = arrays
    here, q_left, q_diagonal, q_up = at
    total = T.load(q_left).double() + T.load(q_diagonal).double() + T.load(q_up).double()
    mass.store(here, E.load(here) * (2.0 - total))


@row_loop
def _pull(arrays, at, numbers):
    """E of row d - 1: what row d + 1 brought over diagonal steps, and the left and up steps of row d."""
    T, mass, carried, E_next = arrays
    here, beyond, q_left, q_up = at
    straight = T.load(q_left).double() * mass.load(here) + T.load(q_up).double() * mass.load(beyond)
    E_next.store(here, carried.load(here) + straight)


@row_loop
def _pull_dot(arrays, at, numbers):
    """E_dot of row d - 1, likewise."""
    T, E, mass_dot, carried_dot, E_dot_next = arrays
    here, beyond, q_left, q_up, q_dot_left, q_dot_up = at
    straight = T.load(q_left).double() * mass_dot.load(here) + T.load(q_up).double() * mass_dot.load(beyond)
    turned = T.load(q_dot_left).double() * E.load(here) + T.load(q_dot_up).double() * E.load(beyond)
    E_dot_next.store(here, carried_dot.load(here) + straight + turned)


@row_loop
def _carry(arrays, at, numbers):
    """The diagonal steps from row d to row d - 2."""
    T, mass, carried = arrays
    here, beyond, q_diagonal = at
    carried.store(here, T.load(q_diagonal).double() * mass.load(beyond))


@row_loop
def _carry_dot(arrays, at, numbers):
    """The same for E_dot; the derivative of q_diagonal is minus those of q_left and q_up."""
    T, E, mass_dot, carried_dot = arrays
    here, beyond, q_diagonal, q_dot_left, q_dot_up = at
    turned = (T.load(q_dot_left).double() + T.load(q_dot_up).double()) * E.load(beyond)
    carried_dot.store(here, T.load(q_diagonal).double() * mass_dot.load(beyond) - turned)


@row_loop
def _add_to_series(arrays, at, numbers):
    """Chain E through Delta = (x - y)**2: out += E * (x - y)."""
    x, y, E, out = arrays
    at_x, at_y, here, to = at
    difference = x.load(at_x).double() - y.load(at_y).double()
    out.store(to, out.load(to) + E.load(here) * difference)


# ----------------------------------------------------------------------- one tile of the batch


class Problem(NamedTuple):
    """What to sweep over; arrays that a call does not need are empty."""

    N: int
    M: int
    x: np.ndarray  # (B, N, C) predictions, if the cost is that of two series
    y: np.ndarray  # (B, M, C) targets
    D: np.ndarray  # (B, N, M) costs, if they are given instead
    of_series: bool
    cost_scale: float  # the cost of a cell is cost_scale * Delta + omega_in_cost * Omega (Eq. 5: alpha, 1 - alpha)
    omega_in_cost: float
    toeplitz: np.ndarray  # (N + M - 1,): Omega(h, j) at h - j + M - 1, if it depends on h - j alone
    Omega: np.ndarray  # (1 or B, N, M) otherwise
    omega_scale: np.ndarray  # (B,) factor of Omega for each pair
    n: np.ndarray  # (B,) true lengths of x
    m: np.ndarray  # (B,) true lengths of y
    lo: np.ndarray  # (N + M - 1,) first cell i of each row
    hi: np.ndarray  # (N + M - 1,) last cell i of each row
    start: np.ndarray  # (N + M,) where a row begins in the table of weights, in cells
    rows: int  # rows in a segment
    gamma: float
    dual: bool  # sweep the dual part too?
    want_x: bool
    want_y: bool
    want_D: bool
    want_gamma: bool


class Results(NamedTuple):
    """What a sweep writes; ``_dot`` belongs to the temporal term. Arrays that nobody wants are empty."""

    value: np.ndarray  # (B,)
    value_dot: np.ndarray
    d_x: np.ndarray  # (B, N, C)
    d_x_dot: np.ndarray
    d_y: np.ndarray  # (B, M, C)
    d_y_dot: np.ndarray
    E: np.ndarray  # (B, N, M)
    E_dot: np.ndarray
    d_gamma: np.ndarray  # (B,)
    d_gamma_dot: np.ndarray


class Tile(NamedTuple):
    """The memory of one tile; ``stride`` is the distance of two rows of V."""

    first: int
    size: int
    stride: int
    x: np.ndarray  # (C * N * size,) the tile's series, time first
    y: np.ndarray  # (C * M * size,) backwards in time, so that along a row it is read forwards
    spread: np.ndarray  # a Toeplitz Omega: its even and its odd entries, each repeated over the tile
    V: np.ndarray  # three rows, cell i at (i + 1) * size
    V_dot: np.ndarray
    saved: np.ndarray  # (segments, 2, 3 * stride): V and V_dot at the start of each segment
    T: np.ndarray  # weights left, diagonal, up and the derivatives of left and up, for the rows of one segment
    cost: np.ndarray
    omega: np.ndarray


@njit(**_JIT)
def _load_series(series, lengths, first, size, backwards):
    """(B, N, C) -> flat (C, N, size), with zeros beyond a series' true length: padding may hold anything."""
    _, N, C = series.shape
    out = np.zeros(C * N * size + SLACK, series.dtype)
    for b in range(size):
        for i in range(lengths[first + b]):
            row = N - 1 - i if backwards else i
            for c in range(C):
                out[(c * N + row) * size + b] = series[first + b, i, c]
    return out


@njit(**_JIT)
def _store_series(by, first, size, backwards, factor, value, out):
    """Flat (C, N, size) -> (B, N, C); NaN where the value is NaN."""
    _, N, C = out.shape
    for b in range(size):
        spoilt = np.isnan(value[first + b])
        for i in range(N):
            row = N - 1 - i if backwards else i
            for c in range(C):
                out[first + b, i, c] = np.nan if spoilt else factor * by[(c * N + row) * size + b]


@njit(**_JIT)
def _spread_toeplitz(toeplitz, scale, first, size):
    """Entry k of half r is Omega at index 2 * k + r: along a row, h - j grows in steps of two."""
    half = toeplitz.size // 2 + 1
    out = np.zeros(2 * half * size + SLACK)
    for t in range(toeplitz.size):
        for b in range(size):
            out[((t % 2) * half + t // 2) * size + b] = toeplitz[t] * scale[first + b]
    return out


@njit(**_JIT)
def _gather(matrix, scale, first, size, d, lo, hi, n, m, out):
    """Row d of given costs or of a given Omega, zero beyond a pair's true lengths."""
    last = matrix.shape[0] - 1
    for i in range(lo, hi + 1):
        for b in range(first, first + size):
            inside = i < n[b] and d - i < m[b]
            out[(i - lo) * size + b - first] = scale[b] * matrix[min(b, last), i, d - i] if inside else 0.0


@njit(**_JIT)
def _fill(a, begin, n, number):
    for p in range(begin, begin + n):
        a[p] = number


@njit(**_JIT)
def _surround(a, here, n, size, number):
    """Write the cells just before and after a row: they lie outside of the lattice."""
    _fill(a, here - size, size, number)
    _fill(a, here + n, size, number)


@njit(**_JIT)
def _weights(problem, tile, d):
    """Offsets in ``tile.T`` of row d's weights (left, diagonal, up) and their derivatives (left, up)."""
    table = tile.T.size // 5
    o = (problem.start[d] - problem.start[d - d % problem.rows] + 1) * tile.size
    return o, table + o, 2 * table + o, 3 * table + o, 4 * table + o


@njit(**_JIT)
def _advance(problem, tile, begin, end):
    """V, q and, if asked for, V_dot and the derivatives of q, on the rows from ``begin`` to ``end``."""
    N, M, size = problem.N, problem.M, tile.size
    scale = 1.0 / (problem.gamma * _LN2)
    ones = np.full(problem.n.size, scale * problem.cost_scale)
    for d in range(begin, end + 1):
        lo = problem.lo[d]
        n = (problem.hi[d] - lo + 1) * size
        here = (d % 3) * tile.stride + (lo + 1) * size
        left = ((d + 2) % 3) * tile.stride + (lo + 1) * size
        diagonal = ((d + 1) % 3) * tile.stride + lo * size
        q_left, q_diagonal, q_up, q_dot_left, q_dot_up = _weights(problem, tile, d)

        if problem.of_series:
            _fill(tile.cost, 0, n, 0.0)
            for c in range(problem.x.shape[2]):
                at = ((c * N + lo) * size, (c * M + M - 1 - d + lo) * size, 0)
                _square_differences((tile.x, tile.y, tile.cost), at, (scale * problem.cost_scale,), n)
        else:
            _gather(problem.D, ones, tile.first, size, d, lo, problem.hi[d], problem.n, problem.m, tile.cost)
        omega, at_omega = tile.omega, 0
        if problem.dual or problem.omega_in_cost != 0.0:
            if problem.toeplitz.size > 0:
                t = 2 * lo - d + M - 1
                omega, at_omega = tile.spread, ((t % 2) * (problem.toeplitz.size // 2 + 1) + t // 2) * size
            else:
                _gather(
                    problem.Omega, problem.omega_scale, tile.first, size, d, lo, problem.hi[d], problem.n, problem.m,
                    tile.omega,
                )  # fmt: skip
            if problem.omega_in_cost != 0.0:
                _add_omega((omega, tile.cost), (at_omega, 0), (scale * problem.omega_in_cost,), n)

        at = (here, left, diagonal, left - size, 0, q_left, q_diagonal, q_up)
        _soft_minimum((tile.V, tile.cost, tile.T), at, (), n)
        _surround(tile.V, here, n, size, UNREACHABLE)
        if problem.dual:
            at = (here, left, diagonal, left - size, at_omega, q_left, q_diagonal, q_up, q_dot_left, q_dot_up)
            _dual_part((tile.V_dot, omega, tile.T), at, (1.0 / problem.gamma,), n)
            _surround(tile.V_dot, here, n, size, 0.0)
            _surround(tile.T, q_dot_left, n, size, 0.0)
            _surround(tile.T, q_dot_up, n, size, 0.0)
        _surround(tile.T, q_left, n, size, 0.0)
        _surround(tile.T, q_diagonal, n, size, 0.0)
        _surround(tile.T, q_up, n, size, 0.0)


@njit(**_JIT)
def _store_values(problem, results, tile, d):
    """Read off the values of the pairs whose last cell lies on row d."""
    for b in range(tile.first, tile.first + tile.size):
        if problem.n[b] + problem.m[b] - 2 == d:
            p = (d % 3) * tile.stride + problem.n[b] * tile.size + b - tile.first
            valid = abs(tile.V[p]) < 0.5 * UNREACHABLE
            results.value[b] = tile.V[p] * problem.gamma * _LN2 if valid else np.nan
            if problem.dual:
                results.value_dot[b] = tile.V_dot[p] if valid else np.nan


@njit(**_JIT)
def _forward(problem, results, tile, end):
    """Sweep from the first row to the last; at the start of each segment keep what a second sweep needs."""
    _fill(tile.V, 0, tile.V.size, UNREACHABLE)
    _fill(tile.V_dot, 0, tile.V_dot.size, 0.0)
    _fill(tile.V, tile.stride, tile.size, 0.0)  # the path starts at (-1, -1), on row -2
    for d in range(end + 1):
        if tile.saved.shape[0] > 1 and d % problem.rows == 0:
            tile.saved[d // problem.rows, 0, :] = tile.V
            if problem.dual:
                tile.saved[d // problem.rows, 1, :] = tile.V_dot
        _advance(problem, tile, d, d)
        _store_values(problem, results, tile, d)


@njit(**_JIT)
def _add_entropies(tile, d_gamma, d_gamma_dot, weights, E, E_dot, here, n):
    """Derivatives of V and V_dot by gamma: minus the entropy of the steps, weighted by how often each is taken."""
    left, diagonal, up, left_dot, up_dot = weights
    for p in range(n):
        q_left, q_up = np.float64(tile.T[left + p]), np.float64(tile.T[up + p])
        q_diagonal = np.float64(tile.T[diagonal + p])
        a_dot, c_dot = np.float64(tile.T[left_dot + p]), np.float64(tile.T[up_dot + p])
        entropy, entropy_dot = 0.0, 0.0
        for w, w_dot, others in (
            (q_left, a_dot, q_diagonal + q_up),
            (q_diagonal, -(a_dot + c_dot), q_left + q_up),
            (q_up, c_dot, q_left + q_diagonal),
        ):
            if w > 0.0:
                # near one, a float32 weight has lost its distance from one; the other two have it
                log = math.log1p(-others) if w > 0.5 else math.log(w)
                entropy -= w * log
                entropy_dot -= w_dot * log
        b = tile.first + p % tile.size
        d_gamma[b] -= E[here + p] * entropy
        d_gamma_dot[b] -= E_dot[here + p] * entropy + E[here + p] * entropy_dot


@njit(**_JIT)
def _store_row(E, here, tile, d, lo, hi, out):
    for i in range(lo, hi + 1):
        for b in range(tile.size):
            out[tile.first + b, i, d - i] = E[here + (i - lo) * tile.size + b]


@njit(**_JIT)
def _backward(problem, results, tile, end):
    """E and E_dot from the last row to the first, and what the caller wants of them."""
    N, M, C, size, dual, T = problem.N, problem.M, problem.x.shape[2], tile.size, problem.dual, tile.T
    E, E_dot = np.zeros(tile.stride), np.zeros(tile.stride)
    E_next, E_dot_next = np.zeros(tile.stride), np.zeros(tile.stride)
    carried, carried_dot = np.zeros(tile.stride), np.zeros(tile.stride)
    mass, mass_dot = np.zeros(tile.stride), np.zeros(tile.stride)
    by_x = np.zeros((2, C * N * size + SLACK if problem.want_x else 0))
    by_y = np.zeros((2, C * M * size + SLACK if problem.want_y else 0))

    for d in range(end, -1, -1):
        if d % problem.rows == problem.rows - 1 and d < end:
            begin = d - problem.rows + 1
            tile.V[:] = tile.saved[begin // problem.rows, 0]
            if dual:
                tile.V_dot[:] = tile.saved[begin // problem.rows, 1]
            _advance(problem, tile, begin, d)

        lo, hi = problem.lo[d], problem.hi[d]
        here, n = (lo + 1) * size, (hi - lo + 1) * size
        weights = _weights(problem, tile, d)
        q_left, q_diagonal, q_up, q_dot_left, q_dot_up = weights
        for b in range(size):
            if problem.n[tile.first + b] + problem.m[tile.first + b] - 2 == d:
                E[problem.n[tile.first + b] * size + b] = 1.0

        _fill(E, here + n, SLACK, 0.0)  # loops run on to there, and sums over series must not notice
        _fill(E_dot, here + n, SLACK, 0.0)
        for c in range(C):
            x, y = (c * N + lo) * size, (c * M + M - 1 - d + lo) * size
            if problem.want_x:
                _add_to_series((tile.x, tile.y, E, by_x[0]), (x, y, here, x), (), n)
                if dual:
                    _add_to_series((tile.x, tile.y, E_dot, by_x[1]), (x, y, here, x), (), n)
            if problem.want_y:
                _add_to_series((tile.x, tile.y, E, by_y[0]), (x, y, here, y), (), n)
                if dual:
                    _add_to_series((tile.x, tile.y, E_dot, by_y[1]), (x, y, here, y), (), n)
        if problem.want_D:
            _store_row(E, here, tile, d, lo, hi, results.E)
            if dual:
                _store_row(E_dot, here, tile, d, lo, hi, results.E_dot)
        if problem.want_gamma:
            _add_entropies(tile, results.d_gamma, results.d_gamma_dot, weights, E, E_dot, here, n)

        _restore_mass((E, mass, T), (here, q_left, q_diagonal, q_up), (), n)
        if dual:
            _restore_mass((E_dot, mass_dot, T), (here, q_left, q_diagonal, q_up), (), n)
        if d > 0:
            shift = (problem.lo[d - 1] - lo) * size
            to, n = here + shift, (problem.hi[d - 1] - problem.lo[d - 1] + 1) * size
            left, up = q_left + shift, q_up + shift + size
            _pull((T, mass, carried, E_next), (to, to + size, left, up), (), n)
            if dual:
                at = (to, to + size, left, up, q_dot_left + shift, q_dot_up + shift + size)
                _pull_dot((T, E, mass_dot, carried_dot, E_dot_next), at, (), n)
        if d > 1:
            shift = (problem.lo[d - 2] - lo) * size
            to, n = here + shift, (problem.hi[d - 2] - problem.lo[d - 2] + 1) * size
            diagonal = q_diagonal + shift + size
            _carry((T, mass, carried), (to, to + size, diagonal), (), n)
            if dual:
                at = (to, to + size, diagonal, q_dot_left + shift + size, q_dot_up + shift + size)
                _carry_dot((T, E, mass_dot, carried_dot), at, (), n)
        E, E_next = E_next, E
        E_dot, E_dot_next = E_dot_next, E_dot

    factor = 2.0 * problem.cost_scale
    if problem.want_x:
        _store_series(by_x[0], tile.first, size, False, factor, results.value, results.d_x)
        if dual:
            _store_series(by_x[1], tile.first, size, False, factor, results.value, results.d_x_dot)
    if problem.want_y:
        _store_series(by_y[0], tile.first, size, True, -factor, results.value, results.d_y)
        if dual:
            _store_series(by_y[1], tile.first, size, True, -factor, results.value, results.d_y_dot)
    for b in range(tile.first, tile.first + size):
        if np.isnan(results.value[b]):
            results.E[b : b + 1] = np.nan
            results.E_dot[b : b + 1] = np.nan
            results.d_gamma[b : b + 1] = np.nan
            results.d_gamma_dot[b : b + 1] = np.nan


@njit(**_JIT)
def _sweep_tile(problem, results, first, size, number):
    """Both sweeps for the pairs ``first`` to ``first + size``; ``number`` is the type that keeps the weights."""
    N, M = problem.N, problem.M
    backward = problem.want_x or problem.want_y or problem.want_D or problem.want_gamma
    end = 0
    for b in range(first, first + size):
        end = max(end, problem.n[b] + problem.m[b] - 2)
    segments = end // problem.rows + 1
    cells = 0
    for s in range(segments):
        last = min((s + 1) * problem.rows, N + M - 1)
        cells = max(cells, problem.start[last] - problem.start[s * problem.rows])
    stride, longest = (N + 2) * size + SLACK, min(N, M) * size + SLACK
    tile = Tile(
        first,
        size,
        stride,
        _load_series(problem.x, problem.n, first, size, False),
        _load_series(problem.y, problem.m, first, size, True),
        _spread_toeplitz(problem.toeplitz, problem.omega_scale, first, size),
        np.empty(3 * stride),
        np.empty(3 * stride if problem.dual else 0),
        np.empty((segments if backward else 0, 2, 3 * stride)),
        np.zeros(5 * (cells * size + SLACK), number),
        np.zeros(longest),
        np.zeros(longest),
    )
    _forward(problem, results, tile, end)
    if backward:
        _backward(problem, results, tile, end)


# ----------------------------------------------------------------------- the batch, in tiles, over threads

_TABLE_BYTES = 1 << 20  # weights of a tile that stay in the cache between its two sweeps
_PARALLEL_CELLS = 1 << 14  # below this a second thread costs more than it brings


class _Pool:
    """Helper threads that outlive a call; made anew when their number changes, and after a fork."""

    def __init__(self):
        self._lock = threading.Lock()
        self._executor, self._size = None, 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.__init_after_fork)

    def __init_after_fork(self):
        self._lock, self._executor, self._size = threading.Lock(), None, 0

    def submit(self, size, function):
        """Run ``function`` on each of ``size`` helper threads; returns their futures."""
        with self._lock:
            if self._size < size:
                self._executor = ThreadPoolExecutor(size, thread_name_prefix="dilate")
                self._size = size
            return [self._executor.submit(function) for _ in range(size)]


_pool = _Pool()


def _row_bounds(N, M, band):
    """First and last cell of each row, and where the row's weights begin in a table with a cell around each."""
    d = np.arange(N + M - 1)
    lo, hi = np.maximum(0, d - M + 1), np.minimum(N - 1, d)
    if band >= 0:
        lo, hi = np.maximum(lo, -((band - d) // 2)), np.minimum(hi, (d + band) // 2)
    start = np.concatenate([[0], np.cumsum(hi - lo + 3)])
    return lo, hi, start


def _split(problem, batch, itemsize, threads):
    """Samples in a tile and rows in a segment, so that a tile's weights fit in the cache."""
    cells = int(problem.start[-1])
    rows_in_all = len(problem.lo)
    tile = max(1, min(batch, _TABLE_BYTES // (5 * itemsize * cells)))
    if threads > 1:
        tile = min(tile, -(-batch // threads))
    tiles = -(-batch // tile)
    tile = -(-batch // tiles)
    bytes_per_row = 5 * itemsize * tile * cells / rows_in_all
    rows = int(min(rows_in_all, max(_TABLE_BYTES / bytes_per_row, math.sqrt(rows_in_all))))
    return tile, rows


def _run(problem, results, dtype):
    """Sweep the whole batch."""
    batch = len(problem.n)
    cells = batch * int(problem.start[-1])
    threads = min(torch.get_num_threads(), batch) if cells >= _PARALLEL_CELLS else 1
    backward = problem.want_x or problem.want_y or problem.want_D or problem.want_gamma
    tile, rows = _split(problem, batch, dtype.itemsize, threads)
    problem = problem._replace(rows=rows if backward else 1)
    starts = iter(range(0, batch, tile))
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                first = next(starts, None)
            if first is None:
                return
            _sweep_tile(problem, results, first, min(tile, batch - first), dtype)

    helpers = _pool.submit(threads - 1, work) if threads > 1 else []
    work()
    for helper in helpers:
        helper.result()


# ----------------------------------------------------------------------- what loss/kernels/__init__.py calls


def _array(tensor):
    return tensor.detach().contiguous().numpy()


def _omega_arrays(omega):
    """Split Omega into its Toeplitz form (1-D) and its full form (3-D); the one that is not given is empty."""
    omega = _array(omega).astype(np.float64, copy=False)
    empty = np.zeros(0)
    return (omega, empty.reshape(0, 0, 0)) if omega.ndim == 1 else (empty, omega)


def _sweep(x, y, D, gamma, omega, omega_scale, n, m, band, scales, dual, wants):
    """Pack the arguments, allocate the results, run; ``wants`` says which of x, y, D and gamma to differentiate by."""
    of_series = D.numel() == 0
    batch, N, M = (x.shape[0], x.shape[1], y.shape[1]) if of_series else D.shape
    like = x if of_series else D
    toeplitz, Omega = _omega_arrays(omega)
    lo, hi, start = _row_bounds(N, M, band)
    problem = Problem(
        N, M, _array(x), _array(y), _array(D), of_series, *scales, toeplitz, Omega, _array(omega_scale), _array(n),
        _array(m), lo, hi, start, 1, gamma.item(), dual, *wants,
    )  # fmt: skip

    def pair(wanted, shape, dtype=like.dtype):
        empty = (0,) * len(shape)
        return [torch.zeros(shape if w else empty, dtype=dtype) for w in (wanted, wanted and dual)]

    want_x, want_y, want_D, want_gamma = wants
    results = [
        *(torch.zeros(batch, dtype=like.dtype) for _ in range(2)),
        *pair(want_x, x.shape),
        *pair(want_y, y.shape),
        *pair(want_D, D.shape),
        *(torch.zeros(batch if want_gamma else 0, dtype=torch.float64) for _ in range(2)),
    ]
    _run(problem, Results(*(t.numpy() for t in results)), problem.x.dtype)
    return results


def series(x, y, gamma, omega, omega_scale, n, m, band, cost_scale, omega_in_cost, dual, want_x, want_y, want_gamma):
    """The sweeps over the cost of two series; see :func:`loss.kernels.series`."""
    wants = (want_x, want_y, False, want_gamma)
    scales = (cost_scale, omega_in_cost)
    results = _sweep(x, y, x.new_empty(0, 0, 0), gamma, omega, omega_scale, n, m, band, scales, dual, wants)
    return (*results[:6], *results[8:])


def matrix(D, gamma, omega, n, m, band, dual, want_path, want_gamma):
    """The sweeps over given costs; see :func:`loss.kernels.matrix`."""
    none, wants = D.new_empty(0, 0, 0), (False, False, want_path, want_gamma)
    one = torch.ones(len(D), dtype=torch.float64)
    results = _sweep(none, none, D, gamma, omega, one, n, m, band, (1.0, 0.0), dual, wants)
    return (*results[:2], *results[6:])
