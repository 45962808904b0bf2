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
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from .simd import SLACK, exp2, flush_denormals, log2, restore_denormals, row_loop

_PACKAGE = __package__.replace(".", "_")


def _jit(function):
    """Compile, and cache on disk."""
    # numba names its files after the function, and what is in them refers to this package by the name it goes by
    function.__qualname__ = f"{_PACKAGE}_{function.__name__}"
    return njit(nogil=True, cache=True, error_model="numpy")(function)


UNREACHABLE = 1e300  # V of cells outside of the lattice: far above any cost, yet finite, so that it makes no NaN
_LN2 = math.log(2.0)
_LEAST = 2.0**-126  # weights below this are zero


# ----------------------------------------------------------------------- the formulas of a cell


@row_loop
def _square_differences(arrays, at, numbers):
    """Cost = what other variables cost + scale * (x - y)**2; float64 keeps the digits of series far from zero."""
    x, y, others, cost = arrays
    difference = x.load(at[0]).double() - y.load(at[1]).double()
    cost.store(at[2], others.load(at[2]) + difference * difference * numbers[0])


@row_loop
def _add_omega(arrays, at, numbers):
    """Cost += scale * Omega (the tangled variant, Eq. 5)."""
    omega, cost = arrays
    cost.store(at[1], cost.load(at[1]) + omega.load(at[0]) * numbers[0])


@row_loop
def _fill(arrays, at, numbers):
    """Write one number."""
    arrays[0].store(at[0], numbers[0])


@row_loop
def _blank(arrays, at, numbers):
    """Write zeros into each of the five parts of the table of weights."""
    (T,) = arrays
    for offset in at:
        T.store(offset, numbers[0])


@row_loop
def _soft_minimum(arrays, at, numbers):
    """V = cost + softmin of the three predecessors, and the weights q of each.

    Two powers are enough: one for left against up, one for the smaller of these against the diagonal.
    """
    V, cost, T = arrays
    here, left, diagonal, up, at_cost, q_left, q_diagonal, q_up = at
    V_left, V_diagonal, V_up = V.load(left), V.load(diagonal), V.load(up)
    straight = V_left.least(V_up)
    number = T.vector.element
    sideways, across = (V_left - V_up).to(number), (V_diagonal - straight).to(number)
    lesser = _power(sideways)  # of left and up, the weight of the larger V; the other one's is 1
    behind = _power(across)  # likewise for the diagonal and the better of left and up
    diagonal_weight, straight_weight = across.where_positive(behind, 1.0), across.where_positive(1.0, behind)
    total = straight_weight * (lesser + 1.0) + diagonal_weight
    inverse = 1.0 / total
    best = straight_weight * inverse
    other = best * lesser
    T.store(q_left, sideways.where_positive(other, best))
    T.store(q_up, sideways.where_positive(best, other))
    T.store(q_diagonal, diagonal_weight * inverse)
    V.store(here, cost.load(at_cost) + straight.least(V_diagonal) - log2(total).double())


def _power(difference):
    """``2**-|difference|``, and zero where that is nothing at all; NaN for NaN."""
    return exp2(difference.minus_abs().at_least(-126.0)) - _LEAST


@row_loop
def _dual_part(arrays, at, numbers):
    """V_dot = Omega + mean of V_dot over the predecessors, and the derivatives of the weights q_left and q_up.

    ``q_dot_p = -q_p (V_dot_p - mean) / gamma`` is written with the differences to the other two predecessors,
    each times the other one's weight: where q_p rounds to one, they still tell how far from one it is.
    """
    V_dot, omega, T = arrays
    here, left, diagonal, up, at_omega, q_left, q_diagonal, q_up, q_dot_left, q_dot_up = at
    number = T.vector.element
    inverse_gamma = numbers[0].to(number)
    base = V_dot.load(diagonal)
    u_left, u_up = (V_dot.load(left) - base).to(number), (V_dot.load(up) - base).to(number)
    w_left, w_diagonal, w_up = T.load(q_left), T.load(q_diagonal), T.load(q_up)
    V_dot.store(here, omega.load(at_omega) + base + (w_left * u_left + w_up * u_up).double())
    between = u_up - u_left
    T.store(q_dot_left, w_left * inverse_gamma * (w_up * between - w_diagonal * u_left))
    T.store(q_dot_up, w_up * inverse_gamma * (0.0 - (w_left * between + w_diagonal * u_up)))


@row_loop
def _restore_mass(arrays, at, numbers):
    """E / (sum of q), to second order: rounded weights must not lose or make paths along thousands of steps."""
    T, E, mass = arrays
    here, q_left, q_diagonal, q_up = at
    mass.store(here, E.load(here) * _correction(T, q_left, q_diagonal, q_up))


@row_loop
def _restore_mass_dual(arrays, at, numbers):
    """The same for E and E_dot."""
    T, E, mass, E_dot, mass_dot = arrays
    here, q_left, q_diagonal, q_up = at
    correction = _correction(T, q_left, q_diagonal, q_up)
    mass.store(here, E.load(here) * correction)
    mass_dot.store(here, E_dot.load(here) * correction)


def _correction(T, q_left, q_diagonal, q_up):
    """About ``1 / (sum of q)``; the sum's distance from one is exact, for it is summed in float64."""
    return 2.0 - (T.load(q_left).double() + T.load(q_diagonal).double() + T.load(q_up).double())


@row_loop
def _pull(arrays, at, numbers):
    """E of row d - 1: what row d + 1 brought over diagonal steps, and the left and up steps of row d."""
    T, mass, carried, E_next = arrays
    here, beyond, q_left, q_up = at
    straight = T.load(q_left).double() * mass.load(here) + T.load(q_up).double() * mass.load(beyond)
    E_next.store(here, carried.load(here) + straight)


@row_loop
def _pull_dual(arrays, at, numbers):
    """The same for E and E_dot."""
    T, mass, carried, E_next, E, mass_dot, carried_dot, E_dot_next = arrays
    here, beyond, q_left, q_up, q_dot_left, q_dot_up = at
    w_left, w_up = T.load(q_left).double(), T.load(q_up).double()
    E_next.store(here, carried.load(here) + (w_left * mass.load(here) + w_up * mass.load(beyond)))
    straight = w_left * mass_dot.load(here) + w_up * mass_dot.load(beyond)
    turned = T.load(q_dot_left).double() * E.load(here) + T.load(q_dot_up).double() * E.load(beyond)
    E_dot_next.store(here, carried_dot.load(here) + straight + turned)


@row_loop
def _carry(arrays, at, numbers):
    """The diagonal steps from row d to row d - 2."""
    T, mass, carried = arrays
    here, beyond, q_diagonal = at
    carried.store(here, T.load(q_diagonal).double() * mass.load(beyond))


@row_loop
def _carry_dual(arrays, at, numbers):
    """The same for E and E_dot; the derivative of q_diagonal is minus those of q_left and q_up."""
    T, mass, carried, E, mass_dot, carried_dot = arrays
    here, beyond, q_diagonal, q_dot_left, q_dot_up = at
    weight = T.load(q_diagonal).double()
    carried.store(here, weight * mass.load(beyond))
    turned = (T.load(q_dot_left) + T.load(q_dot_up)).double() * E.load(beyond)
    carried_dot.store(here, weight * mass_dot.load(beyond) - turned)


@row_loop
def _add_to_series(arrays, at, numbers):
    """Chain E through Delta = (x - y)**2: out += E * (x - y)."""
    x, y, E, out = arrays
    at_x, at_y, here, to = at
    difference = x.load(at_x).double() - y.load(at_y).double()
    out.store(to, out.load(to) + E.load(here) * difference)


@row_loop
def _add_to_series_dual(arrays, at, numbers):
    """The same for E and E_dot."""
    x, y, E, out, E_dot, out_dot = arrays
    at_x, at_y, here, to = at
    difference = x.load(at_x).double() - y.load(at_y).double()
    out.store(to, out.load(to) + E.load(here) * difference)
    out_dot.store(to, out_dot.load(to) + E_dot.load(here) * difference)


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
    backward: bool  # any of these


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
    first_end: int  # the row on which the shortest of the tile's pairs ends
    x: np.ndarray  # (C * N * size,) the tile's series, time first
    y: np.ndarray  # (C * M * size,) backwards in time, so that along a row it is read forwards
    spread: np.ndarray  # a Toeplitz Omega: its even and its odd entries, each repeated over the tile
    V: np.ndarray  # three rows, cell i at (i + 1) * size
    V_dot: np.ndarray
    saved: np.ndarray  # (segments, 2, 3 * stride): V and V_dot at the start of each segment
    T: np.ndarray  # weights left, diagonal, up and the derivatives of left and up, for the rows of one segment
    nothing: np.ndarray  # zeros
    cost: np.ndarray
    omega: np.ndarray


@_jit
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


@_jit
def _store_series(by, first, size, backwards, factor, value, out):
    """Flat (C, N, size) -> (B, N, C); NaN where the value is NaN."""
    _, N, C = out.shape
    for b in range(size):
        spoilt = np.isnan(value[first + b])
        for i in range(N):
            row = N - 1 - i if backwards else i
            for c in range(C):
                out[first + b, i, c] = np.nan if spoilt else factor * by[(c * N + row) * size + b]


@_jit
def _spread_toeplitz(toeplitz, scale, first, size):
    """Entry k of half r is Omega at index 2 * k + r: along a row, h - j grows in steps of two."""
    half = toeplitz.size // 2 + 1
    out = np.zeros(2 * half * size + SLACK)
    for t in range(toeplitz.size):
        for b in range(size):
            out[((t % 2) * half + t // 2) * size + b] = toeplitz[t] * scale[first + b]
    return out


@_jit
def _weights(start, rows, table, size, d):
    """Offsets of row d's weights (left, diagonal, up) and their derivatives (left, up) in the table."""
    o = (start[d] - start[d - d % rows] + 1) * size
    return o, table + o, 2 * table + o, 3 * table + o, 4 * table + o


@_jit
def _shifted(offsets, by):
    a, b, c, d, e = offsets
    return a + by, b + by, c + by, d + by, e + by


@_jit
def _advance(problem, results, tile, begin, end, first_time):
    """V, q and, if asked for, V_dot and the derivatives of q, on the rows from ``begin`` to ``end``.

    The first time through, keep at the start of each segment what a second sweep needs, and read off the values.
    """
    N, M, size, stride, rows = problem.N, problem.M, tile.size, tile.stride, problem.rows
    lo, hi, start, dual, saved = problem.lo, problem.hi, problem.start, problem.dual, tile.saved
    V, V_dot, T, cost, table = tile.V, tile.V_dot, tile.T, tile.cost, tile.T.size // 5
    x, y, variables, cost_scale = tile.x, tile.y, problem.x.shape[2], problem.cost_scale / (problem.gamma * _LN2)
    omega_in_cost, inverse_gamma = problem.omega_in_cost / (problem.gamma * _LN2), 1.0 / problem.gamma
    uses_omega, half = dual or omega_in_cost != 0.0, problem.toeplitz.size // 2 + 1
    for d in range(begin, end + 1):
        if first_time and saved.shape[0] > 0 and d % rows == 0:
            saved[d // rows, 0, :] = V
            if dual:
                saved[d // rows, 1, :] = V_dot
        n = (hi[d] - lo[d] + 1) * size
        here = (d % 3) * stride + (lo[d] + 1) * size
        left = ((d + 2) % 3) * stride + (lo[d] + 1) * size
        diagonal = ((d + 1) % 3) * stride + lo[d] * size
        weights = _weights(start, rows, table, size, d)
        q_left, q_diagonal, q_up, q_dot_left, q_dot_up = weights

        if problem.of_series:
            others = tile.nothing
            for c in range(variables):
                at = ((c * N + lo[d]) * size, (c * M + M - 1 - d + lo[d]) * size, 0)
                _square_differences((x, y, others, cost), at, (cost_scale,), n)
                others = cost
        else:
            _gather_costs(problem, tile, d, cost_scale)
        omega, at_omega = tile.omega, 0
        if uses_omega:
            if problem.toeplitz.size > 0:
                t = 2 * lo[d] - d + M - 1
                omega, at_omega = tile.spread, ((t % 2) * half + t // 2) * size
            else:
                _gather_omega(problem, tile, d)
            if omega_in_cost != 0.0:
                _add_omega((omega, cost), (at_omega, 0), (omega_in_cost,), n)

        # Each loop writes a little beyond its end, so what lies before a row is written before it, and so on.
        _fill((V,), (here - size,), (UNREACHABLE,), size)
        _blank((T,), _shifted(weights, -size), (0.0,), size)
        at = (here, left, diagonal, left - size, 0, q_left, q_diagonal, q_up)
        _soft_minimum((V, cost, T), at, (), n)
        _fill((V,), (here + n,), (UNREACHABLE,), size)
        if dual:
            _fill((V_dot,), (here - size,), (0.0,), size)
            at = (here, left, diagonal, left - size, at_omega, q_left, q_diagonal, q_up, q_dot_left, q_dot_up)
            _dual_part((V_dot, omega, T), at, (inverse_gamma,), n)
            _fill((V_dot,), (here + n,), (0.0,), size)
        _blank((T,), _shifted(weights, n), (0.0,), size)
        if first_time and d >= tile.first_end:
            _store_values(problem, results, tile, d)


@_jit
def _gather(matrix, scale, problem, tile, d, out):
    """Row d of given costs or of a given Omega, zero beyond a pair's true lengths."""
    last = matrix.shape[0] - 1
    for i in range(problem.lo[d], problem.hi[d] + 1):
        for b in range(tile.first, tile.first + tile.size):
            inside = i < problem.n[b] and d - i < problem.m[b]
            p = (i - problem.lo[d]) * tile.size + b - tile.first
            out[p] = scale * matrix[min(b, last), i, d - i] if inside else 0.0


@_jit
def _gather_costs(problem, tile, d, scale):
    _gather(problem.D, scale, problem, tile, d, tile.cost)


@_jit
def _gather_omega(problem, tile, d):
    _gather(problem.Omega, 1.0, problem, tile, d, tile.omega)
    for p in range((problem.hi[d] - problem.lo[d] + 1) * tile.size):
        tile.omega[p] *= problem.omega_scale[tile.first + p % tile.size]


@_jit
def _store_values(problem, results, tile, d):
    """Read off the values of the pairs whose last cell lies on row d."""
    for b in range(tile.first, tile.first + tile.size):
        if problem.n[b] + problem.m[b] - 2 == d:
            p = (d % 3) * tile.stride + problem.n[b] * tile.size + b - tile.first
            valid = abs(tile.V[p]) < 0.5 * UNREACHABLE
            results.value[b] = tile.V[p] * problem.gamma * _LN2 if valid else np.nan
            if problem.dual:
                results.value_dot[b] = tile.V_dot[p] if valid else np.nan


@_jit
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


@_jit
def _store_row(E, here, tile, d, lo, hi, out):
    for i in range(lo, hi + 1):
        for b in range(tile.size):
            out[tile.first + b, i, d - i] = E[here + (i - lo) * tile.size + b]


@_jit
def _zeros_if(wanted, n):
    return np.zeros(n + SLACK if wanted else 0)


@_jit
def _backward(problem, results, tile, end):
    """E and E_dot from the last row to the first, and what the caller wants of them."""
    N, M, C, size, dual, T = problem.N, problem.M, problem.x.shape[2], tile.size, problem.dual, tile.T
    all_lo, all_hi, start, x_tile, y_tile = problem.lo, problem.hi, problem.start, tile.x, tile.y
    E, E_dot = np.zeros(tile.stride), np.zeros(tile.stride)
    E_next, E_dot_next = np.zeros(tile.stride), np.zeros(tile.stride)
    carried, carried_dot = np.zeros(tile.stride), np.zeros(tile.stride)
    mass, mass_dot = np.zeros(tile.stride), np.zeros(tile.stride)
    by_x, by_x_dot = _zeros_if(problem.want_x, C * N * size), _zeros_if(problem.want_x, C * N * size)
    by_y, by_y_dot = _zeros_if(problem.want_y, C * M * size), _zeros_if(problem.want_y, C * M * size)

    for d in range(end, -1, -1):
        if d % problem.rows == problem.rows - 1 and d < end:
            begin = d - problem.rows + 1
            tile.V[:] = tile.saved[begin // problem.rows, 0]
            if dual:
                tile.V_dot[:] = tile.saved[begin // problem.rows, 1]
            _advance(problem, results, tile, begin, d, False)

        lo, hi = all_lo[d], all_hi[d]
        here, n = (lo + 1) * size, (hi - lo + 1) * size
        weights = _weights(start, problem.rows, T.size // 5, size, d)
        q_left, q_diagonal, q_up, q_dot_left, q_dot_up = weights
        if d >= tile.first_end:
            for b in range(tile.first, tile.first + size):
                if problem.n[b] + problem.m[b] - 2 == d:
                    E[problem.n[b] * size + b - tile.first] = 1.0

        _fill((E,), (here + n,), (0.0,), SLACK)  # loops run on to there, and sums over series must not notice
        _fill((E_dot,), (here + n,), (0.0,), SLACK)
        for c in range(C):
            x, y = (c * N + lo) * size, (c * M + M - 1 - d + lo) * size
            if problem.want_x and dual:
                _add_to_series_dual((x_tile, y_tile, E, by_x, E_dot, by_x_dot), (x, y, here, x), (), n)
            elif problem.want_x:
                _add_to_series((x_tile, y_tile, E, by_x), (x, y, here, x), (), n)
            if problem.want_y and dual:
                _add_to_series_dual((x_tile, y_tile, E, by_y, E_dot, by_y_dot), (x, y, here, y), (), n)
            elif problem.want_y:
                _add_to_series((x_tile, y_tile, E, by_y), (x, y, here, y), (), n)
        if problem.want_D:
            _store_row(E, here, tile, d, lo, hi, results.E)
            if dual:
                _store_row(E_dot, here, tile, d, lo, hi, results.E_dot)
        if problem.want_gamma:
            _add_entropies(tile, results.d_gamma, results.d_gamma_dot, weights, E, E_dot, here, n)

        at = (here, q_left, q_diagonal, q_up)
        if dual:
            _restore_mass_dual((T, E, mass, E_dot, mass_dot), at, (), n)
        else:
            _restore_mass((T, E, mass), at, (), n)
        if d > 0:
            shift = (all_lo[d - 1] - lo) * size
            to, n = here + shift, (all_hi[d - 1] - all_lo[d - 1] + 1) * size
            left, up = q_left + shift, q_up + shift + size
            if dual:
                at = (to, to + size, left, up, q_dot_left + shift, q_dot_up + shift + size)
                _pull_dual((T, mass, carried, E_next, E, mass_dot, carried_dot, E_dot_next), at, (), n)
            else:
                _pull((T, mass, carried, E_next), (to, to + size, left, up), (), n)
        if d > 1:
            shift = (all_lo[d - 2] - lo) * size
            to, n = here + shift, (all_hi[d - 2] - all_lo[d - 2] + 1) * size
            diagonal = q_diagonal + shift + size
            if dual:
                at = (to, to + size, diagonal, q_dot_left + shift + size, q_dot_up + shift + size)
                _carry_dual((T, mass, carried, E, mass_dot, carried_dot), at, (), n)
            else:
                _carry((T, mass, carried), (to, to + size, diagonal), (), n)
        E, E_next = E_next, E
        E_dot, E_dot_next = E_dot_next, E_dot

    factor = 2.0 * problem.cost_scale
    if problem.want_x:
        _store_series(by_x, tile.first, size, False, factor, results.value, results.d_x)
        if dual:
            _store_series(by_x_dot, tile.first, size, False, factor, results.value, results.d_x_dot)
    if problem.want_y:
        _store_series(by_y, tile.first, size, True, -factor, results.value, results.d_y)
        if dual:
            _store_series(by_y_dot, tile.first, size, True, -factor, results.value, results.d_y_dot)
    for b in range(tile.first, tile.first + size):
        if np.isnan(results.value[b]):
            results.E[b : b + 1] = np.nan
            results.E_dot[b : b + 1] = np.nan
            results.d_gamma[b : b + 1] = np.nan
            results.d_gamma_dot[b : b + 1] = np.nan


@_jit
def _room(problem, size, end):
    """Numbers that the table of weights and the saved rows of a tile need."""
    segments = end // problem.rows + 1
    cells = 0
    for s in range(segments):
        last = min((s + 1) * problem.rows, problem.N + problem.M - 1)
        cells = max(cells, problem.start[last] - problem.start[s * problem.rows])
    saved = segments * 6 * ((problem.N + 3) * size + 2 * SLACK) if segments > 1 and problem.backward else 0
    return 5 * (cells * size + 2 * SLACK), saved


@_jit
def _sweep_tile(problem, results, first, size, table, saved):
    """Both sweeps for the pairs ``first`` to ``first + size``; ``table`` and ``saved`` are memory to work in."""
    N, M = problem.N, problem.M
    end, first_end = 0, N + M - 2
    for b in range(first, first + size):
        end = max(end, problem.n[b] + problem.m[b] - 2)
        first_end = min(first_end, problem.n[b] + problem.m[b] - 2)
    stride, longest = (N + 3) * size + 2 * SLACK, min(N, M) * size + SLACK
    for_weights, for_rows = _room(problem, size, end)
    tile = Tile(
        first,
        size,
        stride,
        first_end,
        _load_series(problem.x, problem.n, first, size, False),
        _load_series(problem.y, problem.m, first, size, True),
        _spread_toeplitz(problem.toeplitz, problem.omega_scale, first, size),
        np.full(3 * stride, UNREACHABLE),
        np.zeros(3 * stride if problem.dual else 0),
        saved[:for_rows].reshape((-1, 2, 3 * stride)),
        table[:for_weights],
        np.zeros(longest),
        np.zeros(longest),
        np.zeros(longest),
    )
    # Far from the likely paths E falls below the smallest normal number, where a CPU is fifty times slower.
    state = flush_denormals()
    tile.V[stride : stride + size] = 0.0  # the path starts at (-1, -1), on row -2
    _advance(problem, results, tile, 0, end, True)
    if problem.backward:
        _backward(problem, results, tile, end)
    restore_denormals(state)
    for b in range(first, first + size):
        if np.isnan(results.value[b]):
            table[:] = 0.0  # the next tile must not meet a NaN in it
            break


# ----------------------------------------------------------------------- the batch, in tiles, over threads

_TABLE_BYTES = 1 << 20  # weights of a tile that stay in the cache between its two sweeps
_PARALLEL_CELLS = 1 << 16  # below this a second thread costs more than it brings


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


class _Memory(threading.local):
    """Arrays that each thread keeps from call to call: fresh memory costs a page fault every 4 kB."""

    largest = 1 << 22  # bytes; more than that is given back after use

    def __init__(self):
        self._kept = {}

    def take(self, purpose, size, dtype):
        """An array of at least ``size`` numbers, with finite ones in it, that serves one purpose."""
        array = self._kept.get((purpose, dtype))
        if array is None or array.size < size:
            array = np.zeros(size, dtype)
            if array.nbytes <= self.largest:
                self._kept[purpose, dtype] = array
        return array


_memory = _Memory()


@lru_cache(maxsize=64)
def _row_bounds(N, M, band):
    """First and last cell of each row, and where the row's weights begin in a table with a cell around each."""
    d = np.arange(N + M - 1)
    lo, hi = np.maximum(0, d - M + 1), np.minimum(N - 1, d)
    if band >= 0:
        lo = np.maximum(lo, -((band - d) // 2))
        hi = np.maximum(np.minimum(hi, (d + band) // 2), lo - 1)  # a row may have no cells, but no fewer
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
    tile, rows = _split(problem, batch, dtype.itemsize, threads)
    problem = problem._replace(rows=rows if problem.backward else 1)
    for_weights, for_rows = _room(problem, tile, len(problem.lo) - 1)
    starts = iter(range(0, batch, tile))
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                first = next(starts, None)
            if first is None:
                return
            table = _memory.take("weights", for_weights, dtype)
            saved = _memory.take("rows", for_rows, np.dtype(np.float64))
            _sweep_tile(problem, results, first, min(tile, batch - first), table, saved)

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
    """Pack the arguments, allocate the results, run; ``wants``: differentiate by x, by y, by D, by gamma."""
    of_series = D.numel() == 0
    batch, N, M = (x.shape[0], x.shape[1], y.shape[1]) if of_series else D.shape
    like = x if of_series else D
    toeplitz, Omega = _omega_arrays(omega)
    lo, hi, start = _row_bounds(N, M, band)
    problem = Problem(
        N, M, _array(x), _array(y), _array(D), of_series, *scales, toeplitz, Omega, _array(omega_scale), _array(n),
        _array(m), lo, hi, start, 1, gamma.item(), dual, *wants, any(wants),
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
